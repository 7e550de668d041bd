// Kexec handover, kho-v4 (kho-luo §1): which physical blocks survive the jump, and named blobs for those who
// left something there. Both live in the form the next kernel reads; nothing is finalized.
#pragma once
#include <string_view>

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
  static Result<void> carve(FrameAllocator& frames, Phys fdt);
  // Creates the outgoing tree and FDT; `incoming_fdt` as given to carve(), or null. `max_order` caps the
  // order of the keys that preserve_range() makes (9 in strict mode, 52 otherwise).
  Result<void> init(Phys incoming_fdt, unsigned max_order);

  // --- outgoing -------------------------------------------------------------------------------------------
  // Marks the block of 2^order frames at `base`. Preserving it twice, or in an overlapping block of another order,
  // is an error (Eexist); so is scratch memory (Einval). Enomem.
  Result<void> preserve(Phys base, unsigned order);
  void unpreserve(Phys base, unsigned order);
  // Greedy split into aligned blocks; undone whole on failure.
  Result<void> preserve_range(Phys base, u64 length);
  void unpreserve_range(Phys base, u64 length);
  // Zeroed, contiguous, preserved frames: the smallest block that holds `bytes`.
  Result<Phys> alloc_preserved(u64 bytes);
  void unpreserve_free(Phys at, u64 bytes);
  // Eexist for a name in use, Enomem when the FDT page is full. Does not preserve the blob's memory.
  Result<void> add_subtree(std::string_view name, KhoBlob blob);
  void remove_subtree(std::string_view name);
  bool is_preserved(Phys base, unsigned order) const;

  // --- incoming -------------------------------------------------------------------------------------------
  bool is_handover() const { return static_cast<bool>(incoming_fdt_); }
  // Enoent: no such blob; Einval: malformed.
  Result<KhoBlob> retrieve_subtree(std::string_view name) const;
  // Ownership of a preserved block, once (see FrameAllocator::restore). Blocks outside RAM (guest banks): only
  // checks that the block is in the incoming tree.
  Result<void> restore(Phys base, unsigned order);
  // Every block [base, base + length) is made of must be preserved and not restored, else Enoent and nothing is.
  Result<void> restore_range(Phys base, u64 length);
  // The order of the incoming block that starts at `base`, Enoent.
  Result<unsigned> incoming_order(Phys base) const;
  // True when all of the range lies in incoming preserved blocks; what an untrusted address is checked with.
  bool incoming_covers(Phys base, u64 length) const;

  Phys outgoing_fdt() const { return outgoing_fdt_; }
  FrameAllocator& frames() const { return heap_.frames(); }
  Heap& heap() const { return heap_; }
  Machine& machine() const { return heap_.machine(); }

 private:
  Heap& heap_;
  Phys incoming_fdt_;
  Phys outgoing_fdt_;
};

}  // namespace perdure
