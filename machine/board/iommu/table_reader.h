// Reads words of tables as the unit sees them, and notes what should not have been read.
#pragma once
#include "machine/board/iommu/checker.h"
#include "machine/board/iommu/write_back_shadow.h"

namespace perdure::board {

// Not thread-safe: guarded by the unit's lock.
class TableReader {
 public:
  TableReader(PhysMemory& memory, WriteBackShadow* shadow, Checker& checker)
      : memory_(memory), shadow_(shadow), checker_(checker) {}

  // False when the word is not RAM. `snoop`: see what is in the CPU's caches, too. `silent`: note nothing.
  bool load(u64 phys, TableUse use, bool snoop, bool silent, u16 source, u64& value);

  enum class Updated : u8 { Yes, Changed, NotRam };
  // Sets bits in a word that was read as `expected`; Changed: it says something else by now.
  Updated set_bits(u64 phys, u64 expected, u64 bits, bool snoop);

  u64 reads() const { return reads_; }

 private:
  PhysMemory& memory_;
  WriteBackShadow* shadow_;
  Checker& checker_;
  u64 reads_ = 0;
};

}  // namespace perdure::board
