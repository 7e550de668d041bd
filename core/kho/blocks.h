// Chains of pages that hold equal entries (kho-luo §1.10): how LUO's lists cross the jump.
#pragma once
#include "core/kho/kho.h"
#include "core/mem/vec.h"

namespace perdure::kho {

// Old kernel. Room is made while failing is still cheap; entries are written when nothing may fail any more.
// Not thread-safe: the owner serialises.
class BlockSet {
 public:
  BlockSet(Kho& kho, u32 entry_size) : kho_(&kho), entry_size_(entry_size), blocks_(kho.heap()) {}
  ~BlockSet() { shrink(0); }
  BlockSet(const BlockSet&) = delete;
  BlockSet& operator=(const BlockSet&) = delete;

  // Room for `entries` in all. Enospc beyond kMaxBlocks, Enomem, with nothing changed.
  Result<void> grow(u64 entries);
  // Gives back the blocks at the end that `entries` do not need. Not below what is written.
  void shrink(u64 entries);
  // The next entry, zeroed, counted as written. The caller has grown the set.
  std::byte* append();
  // Forgets what is written and keeps the room.
  void clear();

  u64 written() const { return written_; }
  u64 room() const { return blocks_.size() * per_block(); }
  // Null address: no block. A block without an entry must not cross (Linux panics at it): shrink(written()) before.
  Phys head() const { return blocks_.empty() ? Phys(0) : blocks_[0]; }

 private:
  u64 per_block() const { return entries_per_block(entry_size_); }
  BlockHeader& header(usize i) { return *kho_->machine().virt<BlockHeader>(blocks_[i]); }

  Kho* kho_;
  u32 entry_size_;
  Vec<Phys> blocks_;
  u64 written_ = 0;
};

// New kernel. Owns the pages of a chain from open() on and frees them in the end.
class BlockReader {
 public:
  // Checks the whole chain, then takes its pages over. Einval: a cycle, a count beyond a block's room, a block that is
  // no preserved page of RAM or belongs to another chain; Enospc: more than kMaxBlocks; Enomem. The log says which
  // block of `what`. An empty block is no error: an unlucky refused call can leave one (kho-luo §6 row 2).
  static Result<BlockReader> open(Kho& kho, Phys head, u32 entry_size, std::string_view what);
  BlockReader(BlockReader&&) = default;
  BlockReader& operator=(BlockReader&&) = delete;
  ~BlockReader();

  u64 count() const { return count_; }
  Result<void> each(FunctionRef<Result<void>(const std::byte* entry)> visit) const;

 private:
  BlockReader(Kho& kho, u32 entry_size) : kho_(&kho), entry_size_(entry_size), blocks_(kho.heap()) {}

  Kho* kho_;
  u32 entry_size_;
  Vec<Phys> blocks_;  // empty after a move
  u64 count_ = 0;
};

}  // namespace perdure::kho
