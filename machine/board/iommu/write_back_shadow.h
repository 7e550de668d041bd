// What is in DRAM, as against what is in the CPU's caches: a walker that does not snoop sees only lines that were
// written back. One shadow serves all units of a board; only pages that were written back once have a copy.
#pragma once
#include <array>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/base/result.h"
#include "machine/board/iommu/phys_memory.h"

namespace perdure::board {

class WriteBackShadow {
 public:
  static constexpr u64 kLine = 64;

  // `memory` must outlive this.
  explicit WriteBackShadow(PhysMemory& memory) : memory_(memory) {}

  // CLFLUSH of every line that overlaps [phys, phys + bytes), and the fence after it.
  void write_back(u64 phys, u64 bytes);

  enum class Seen : u8 { Visible, NeverWritten, NotRam };
  // The word as DRAM has it; `value` is 0 when the line was never written back.
  Seen load64(u64 phys, u64& value) const;
  // An update by the unit itself, which writes memory directly.
  void unit_stored(u64 phys, u64 value);

  // The machine overwrote frames with poison, past all caches: that is what their copies hold now.
  void take_poison();

  // Frames that left the machine (a detached bank): their copies go.
  void forget(u64 phys, u64 bytes);

  std::vector<std::byte> save() const;
  Result<void> restore(std::span<const std::byte> bytes);

 private:
  struct Page {
    u64 visible = 0;  // bit i: line i was written back
    std::array<u64, kPageSize / 8> words{};
  };

  PhysMemory& memory_;
  mutable std::mutex mutex_;
  std::unordered_map<u64, std::unique_ptr<Page>> pages_;  // by page number
};

}  // namespace perdure::board
