// Byte arrays of many pages that cross the jump (kho-luo §1.9): the pages are listed in a chain of chunk pages.
#pragma once
#include "core/kho/kho.h"
#include "core/mem/vec.h"

namespace perdure::kho {

// Old kernel: the array under construction. Frees everything in the end, unless released to the next kernel's care
// by simply being kept alive until the jump.
class PreservedArray {
 public:
  // `bytes` > 0 of zeroed, preserved memory. Enomem, E2big beyond what a descriptor counts.
  static Result<PreservedArray> create(Kho& kho, u64 bytes);
  PreservedArray(PreservedArray&&) = default;
  PreservedArray& operator=(PreservedArray&&) = delete;
  ~PreservedArray();

  // Where byte `offset` lies; the memory is contiguous up to the next page boundary.
  std::byte* at(u64 offset) const;
  VmallocDescriptor descriptor() const;

 private:
  explicit PreservedArray(Kho& kho) : kho_(&kho), pages_(kho.heap()), chunks_(kho.heap()) {}
  Kho* kho_;
  Vec<Phys> pages_;
  Vec<Phys> chunks_;
};

// New kernel: an array as found. Reading it takes nothing over.
class ArrayReader {
 public:
  // Checks descriptor and chain: every chunk and run is a preserved block of RAM that was not taken over yet, and there
  // are as many pages as the descriptor says, and as `bytes` needs. Einval with `problem` set, Enomem.
  static Result<ArrayReader> open(Kho& kho, const VmallocDescriptor& descriptor, u64 bytes, std::string_view& problem);

  const std::byte* at(u64 offset) const;
  // Every block of array and chain, as (base, order).
  Result<void> each_block(FunctionRef<Result<void>(Phys base, unsigned order)> visit) const;
  // Takes all blocks over. Einval when one is listed twice: those before it stay taken, and allocated for good.
  Result<void> restore();
  // Frees all blocks, after restore().
  void free();

 private:
  ArrayReader(Kho& kho, unsigned order) : kho_(&kho), order_(order), runs_(kho.heap()), chunks_(kho.heap()) {}
  Kho* kho_;
  unsigned order_;
  Vec<Phys> runs_;
  Vec<Phys> chunks_;
};

}  // namespace perdure::kho
