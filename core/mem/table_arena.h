// Table pages of one paging domain. They come from chunks of up to 2 MiB that belong to this domain alone,
// so that preserving a domain sets one handover key a chunk and freeing it frees chunks, both without
// looking at a page table. The chunk list with its free maps lies in frames of its own, in the form that the
// next kernel reads (abi/table_arena.h), and is adopted there in place.
#pragma once
#include "core/base/function_ref.h"
#include "core/base/lock.h"
#include "core/mem/heap.h"
#include "core/mem/vec.h"

namespace perdure {

class TableArena {
 public:
  explicit TableArena(Heap& heap);
  ~TableArena();  // frees every chunk and descriptor page, whatever is allocated in them
  TableArena(const TableArena&) = delete;
  TableArena& operator=(const TableArena&) = delete;

  // A zeroed page, amortised O(1). Chunks grow from 16 KiB to 2 MiB. Enomem.
  Result<Phys> alloc_page();
  void free_page(Phys page);
  bool owns(Phys page) const;  // allocated from this arena now
  u64 pages_in_use() const;
  u64 chunk_count() const;
  // Gives chunks without an allocated page back to the frames.
  void trim();

  // --- handover: what has to be preserved, and what the record points at ---------------------------------
  // Every chunk and every descriptor page, as (base, order).
  Result<void> each_block(FunctionRef<Result<void>(Phys base, unsigned order)> visit) const;
  // Seals the descriptor pages (checksums); the arena must not change until the jump, or until it is used again.
  void seal();
  Phys first_descriptor() const;  // null address: no chunk

  // New kernel. Validates the whole chain (bounds, cycles, checksums, overlap) with `readable` deciding whether an
  // address may be looked at, then takes each block over with `restore`. On failure nothing restored is
  // freed: the memory stays kept.
  Result<void> adopt(Phys first_descriptor, FunctionRef<bool(Phys base, u64 length)> readable,
                     FunctionRef<Result<void>(Phys base, unsigned order)> restore);
  // Forgets all blocks without freeing them (the hardware may still walk them).
  void abandon();

 private:
  Heap& heap_;
  mutable Mutex lock_{LockRank::Arena};
};

}  // namespace perdure
