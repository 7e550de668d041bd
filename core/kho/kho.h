// Kexec handover, kho-v4 (kho-luo §1): which physical blocks survive the jump, and named blobs for those who
// left something there. Both live in the form the next kernel reads; nothing is finalized.
#pragma once
#include <string_view>

#include "core/kho/radix_tree.h"
#include "core/mem/frame_allocator.h"
#include "core/mem/heap.h"

namespace perdure {

struct KhoBlob {
  Phys at;
  u64 size = 0;
};

class Kho {
 public:
  explicit Kho(Heap& heap);
  ~Kho();  // gives back the outgoing FDT and tree
  Kho(const Kho&) = delete;
  Kho& operator=(const Kho&) = delete;

  // --- early boot -----------------------------------------------------------------------------------------
  // Checks the incoming FDT and tree and calls frames.keep() for every block of it. Before frames.open(), and
  // static because no heap exists yet. Eproto: unknown or unreadable, with the reason logged; the caller must
  // not open the frames then.
  // The tree's own pages are kept, too, and stay readable for this kernel's life.
  static Result<void> carve(FrameAllocator& frames, Phys fdt);
  // Creates the outgoing tree and FDT; `incoming_fdt` as given to carve(), or null. After frames.open(), once; on
  // failure the object is as before. `max_order` caps the order of the keys that preserve_range() makes (9 in strict
  // mode, 52 otherwise).
  Result<void> init(Phys incoming_fdt, unsigned max_order);

  // --- outgoing -------------------------------------------------------------------------------------------
  // Marks the block of 2^order frames at `base`. Preserving it twice, or in an overlapping block of another order,
  // is an error (Eexist); so is scratch memory, a misaligned block, and one outside the window (Einval). Enomem.
  Result<void> preserve(Phys base, unsigned order);
  // Of a block that is preserved, with the order it was preserved with.
  void unpreserve(Phys base, unsigned order);
  // Greedy split into aligned blocks; undone whole on failure. Both page-aligned (Einval).
  Result<void> preserve_range(Phys base, u64 length);
  // The same range that was given to preserve_range().
  void unpreserve_range(Phys base, u64 length);
  // Zeroed, contiguous, preserved frames: the smallest block that holds `bytes`. Einval for 0, E2big above 4 MiB.
  Result<Phys> alloc_preserved(u64 bytes);
  void unpreserve_free(Phys at, u64 bytes);
  // Eexist for a name in use, Enomem when the FDT page is full. Does not preserve the blob's memory.
  Result<void> add_subtree(std::string_view name, KhoBlob blob);
  void remove_subtree(std::string_view name);
  // What was added under this name; Enoent.
  Result<KhoBlob> outgoing_subtree(std::string_view name) const;
  bool is_preserved(Phys base, unsigned order) const;
  // How much crosses the next jump, as of now: blocks, bytes in them, pages of the tree that lists them.
  struct Extent {
    u64 blocks = 0;
    u64 bytes = 0;
    u64 tree_pages = 0;
  };
  Extent outgoing_extent() const;
  // Whether every preserved block still belongs to somebody: one that was freed would carry whatever is written there
  // next (kho-luo §6 row 13). Efault, with the block logged.
  Result<void> check_outgoing() const;
  // Cap on the order of one key, for those who split by themselves.
  unsigned max_order() const { return max_order_; }

  // --- incoming -------------------------------------------------------------------------------------------
  bool is_handover() const { return static_cast<bool>(incoming_fdt_); }
  // Enoent: no such blob; Einval: malformed, or not in preserved memory.
  Result<KhoBlob> retrieve_subtree(std::string_view name) const;
  // Ownership of a preserved block, once (see FrameAllocator::restore). Blocks outside RAM (guest banks) are no
  // frames, but are handed out once all the same. Enoent: not in the tree with this order, or handed out before;
  // Enomem.
  Result<void> restore(Phys base, unsigned order);
  // Every block [base, base + length) is made of must be preserved and not restored, else Enoent and nothing is.
  Result<void> restore_range(Phys base, u64 length);
  // What restore() would answer now.
  bool restorable(Phys base, unsigned order) const;
  // The same for blocks that this kernel reads records from: in RAM, never in a bank, which programs write to.
  bool restorable_ram(Phys base, unsigned order) const;
  // The order of the incoming block that starts at `base`, Enoent.
  Result<unsigned> incoming_order(Phys base) const;
  // True when all of the range lies in incoming preserved blocks; what an untrusted address is checked with.
  bool incoming_covers(Phys base, u64 length) const;

  Phys incoming_fdt() const { return incoming_fdt_; }
  Phys outgoing_fdt() const { return outgoing_fdt_; }
  FrameAllocator& frames() const { return heap_.frames(); }
  Heap& heap() const { return heap_; }
  Machine& machine() const { return heap_.machine(); }

 private:
  static constexpr unsigned kOrders = kho::kMaxKeyOrder + 1;

  Result<void> preserve_locked(Phys base, unsigned order) REQUIRES(lock_);
  void unpreserve_locked(Phys base, unsigned order) REQUIRES(lock_);
  bool restorable_locked(Phys base, unsigned order) const REQUIRES(lock_);
  Result<void> restore_locked(Phys base, unsigned order) REQUIRES(lock_);
  bool overlaps_outgoing(Phys base, unsigned order) const REQUIRES(lock_);
  std::span<std::byte, kPageSize> fdt_page() const;
  kho::RadixView incoming() const { return {heap_.machine(), incoming_root_}; }
  void close_incoming();

  Heap& heap_;
  mutable Mutex lock_{LockRank::KhoTracker};
  Phys incoming_fdt_;
  Phys incoming_root_;
  u64 incoming_orders_ = 0;  // bit n: the incoming tree has keys of order n
  Phys outgoing_fdt_;
  unsigned max_order_ = kho::kMaxKeyOrder;
  kho::RadixTree outgoing_ GUARDED_BY(lock_);
  u64 keys_of_order_[kOrders] GUARDED_BY(lock_) = {};
  kho::RadixTree banks_ GUARDED_BY(lock_);  // incoming blocks outside RAM that were not handed out yet
};

}  // namespace perdure
