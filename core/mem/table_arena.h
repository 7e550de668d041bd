// Table pages of one paging domain. They come from chunks of up to 2 MiB that belong to this domain alone,
// so that preserving a domain sets one handover key a chunk and freeing it frees chunks, both without
// looking at a page table. The chunk list with its free maps lies in frames of its own, in the form that the
// next kernel reads (abi/table_arena.h), and is adopted there in place.
#pragma once
#include "core/abi/table_arena.h"
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
  // A page of this arena; anything else is a bug and panics. O(log chunks). A chunk that gets empty is given back to
  // the frames, unless it is the only empty one.
  void free_page(Phys page);
  bool owns(Phys page) const;  // allocated from this arena now
  u64 pages_in_use() const;
  u64 chunk_count() const;
  // Gives chunks without an allocated page back to the frames.
  void trim();

  // --- handover: what has to be preserved, and what the record points at ---------------------------------
  // Every descriptor page and every chunk, as (base, order). No lock is held while `visit` runs; the arena must not
  // change meanwhile.
  Result<void> each_block(FunctionRef<Result<void>(Phys base, unsigned order)> visit) const;
  // Seals the descriptor pages (checksums); the arena must not change until the jump, or until it is used again.
  void seal();
  Phys first_descriptor() const;  // null address: no chunk

  // New kernel, on an empty arena. Validates the whole chain (bounds, cycles, checksums, overlap) with `readable`
  // deciding whether an address may be looked at, then takes each block over with `restore`; no lock is held while
  // either runs. O(chunks log chunks). Einval for a chain that cannot be, Enomem, or the error of `restore`; the arena
  // is empty then, and nothing restored is freed: the memory stays out of use.
  Result<void> adopt(Phys first_descriptor, FunctionRef<bool(Phys base, u64 length)> readable,
                     FunctionRef<Result<void>(Phys base, unsigned order)> restore);
  // Forgets all blocks without freeing them (the hardware may still walk them).
  void abandon();

 private:
  static constexpr u32 kNone = ~u32{0};
  static constexpr unsigned kMinOrder = 2;

  // What allocating needs to know of a chunk. Its number, here and in the chain, is its place: the chunk n is entry
  // n % 50 of descriptor page n / 50; there is no hole.
  struct Chunk {
    u64 base;
    u32 prev;  // in the list of chunks with free pages
    u32 next;
    u16 free;
    u8 order;
    u8 hint;  // words of the bitmap below this one are full
    u16 pages() const { return static_cast<u16>(1u << order); }
    u64 bytes() const { return kPageSize << order; }
  };
  struct Place {
    u64 base;
    u32 chunk;
  };
  struct Lists {
    explicit Lists(Heap& heap) : pages(heap), chunks(heap), sorted(heap) {}
    Vec<Phys> pages;  // descriptor pages
    Vec<Chunk> chunks;
    Vec<Place> sorted;  // the chunks, by address
  };

  static usize place_of(const Lists& lists, u64 at);
  static u32 chunk_of(const Lists& lists, Phys page);
  Result<void> read_chain(Lists& lists, Phys first, FunctionRef<bool(Phys base, u64 length)> readable) const;
  Result<void> read_page(Lists& lists, const abi::TableArenaPage& page) const;
  Result<void> check_overlap(Lists& lists) const;
  abi::TableArenaPage& page(usize i) const REQUIRES(lock_);
  abi::TableArenaChunk& entry(u32 chunk) const REQUIRES(lock_);
  Result<void> add_chunk() REQUIRES(lock_);
  Result<Phys> alloc_chunk(unsigned& order) REQUIRES(lock_);
  void remove_chunk(u32 chunk) REQUIRES(lock_);
  void move_chunk(u32 from, u32 to) REQUIRES(lock_);
  void link(u32 chunk) REQUIRES(lock_);
  void unlink(u32 chunk) REQUIRES(lock_);
  void forget() REQUIRES(lock_);

  Heap& heap_;
  mutable Mutex lock_{LockRank::Arena};
  Lists lists_ GUARDED_BY(lock_);
  u32 partial_ GUARDED_BY(lock_) = kNone;  // first of the chunks that have free pages, but for spare_
  u32 spare_ GUARDED_BY(lock_) = kNone;    // an empty chunk, used when no other has a free page
  u64 in_use_ GUARDED_BY(lock_) = 0;
  u64 total_ GUARDED_BY(lock_) = 0;  // pages of all chunks
};

}  // namespace perdure
