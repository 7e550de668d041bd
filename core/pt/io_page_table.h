// An I/O page table as the rest of the core sees it; pt/page_table.h is the engine, pt/vtd_second_stage.h and
// its like are the formats. Callers serialise changes of one table (the domain's lock).
#pragma once
#include "core/base/function_ref.h"
#include "core/file/file.h"
#include "core/mem/heap.h"
#include "core/mem/table_arena.h"

namespace perdure::pt {

enum class FormatId : u8 { None = 0, VtdSecondStage = 1, X86FirstStage = 2 };

// What a table must look like for the units it is used on.
struct Geometry {
  FormatId format = FormatId::None;
  u8 levels = 0;         // 3, 4, 5
  u8 iova_bits = 0;      // addresses at or above 2^iova_bits cannot be mapped; <= 12 + 9 * levels
  u8 output_bits = 0;    // host address width
  u64 leaf_sizes = 0;    // set of leaf sizes as a mask: 4 KiB | 2 MiB | 1 GiB
  bool coherent = true;  // false: every store needs write_back
  bool operator==(const Geometry&) const = default;
};

struct Leaf {
  Iova iova;
  Phys phys;
  u64 length = 0;  // 4 KiB, 2 MiB or 1 GiB
  Access access = Access::ReadWrite;
};

// Table pages that unmap() cut out of a live table and that a walker may still hold. They are not listed here: each
// subtree stays recorded in the slot that led to it, as an entry that hardware takes for not present, so that
// unmap() needs no memory and nothing is written to a page that hardware may still read. The Gather holds where.
//
// unmap (any number of times) → flush → release is one change of the table: no map() in between where tables were cut
// out (it answers Ebusy there). The flush covers what was unmapped and, with tables_removed, the whole of [first, last]
// with IH = 0, since a cached non-leaf entry serves all of its slot. If the flush fails, the Gather is dropped, and so
// is every later one of this table until a flush of the whole domain succeeded: its pages stay allocated until the
// table is destroyed.
struct Gather {
  // The slots that subtrees were cut out of, first to last byte; meaningful when tables_removed. Reaches beyond what
  // was unmapped when the rest of a table was empty.
  Iova first;
  Iova last;
  u64 count = 0;                // subtrees cut out
  bool tables_removed = false;  // the flush must drop non-leaf entries (IH = 0)
};

class IoPageTable : public HeapObject {
 public:
  virtual const Geometry& geometry() const = 0;
  virtual Phys top() const = 0;

  // Maps [iova, iova + length) to [phys, ...) with the largest leaves that alignment allows. Lengths and addresses are
  // multiples of 4 KiB. Eaddrinuse when any of it is mapped already, Erange beyond the geometry, Enomem, Ebusy where
  // tables were cut out and not yet released, Einval for malformed arguments and for output that the format forbids,
  // Eopnotsupp for an access that it cannot express, Eio for an adopted table that is not sound. On error the table is
  // as before, and no translation has changed at any time.
  virtual Result<void> map(Iova iova, Phys phys, u64 length, Access access) = 0;
  // Unmaps what is mapped in the range; returns the bytes unmapped. A leaf that reaches beyond the range is unmapped
  // whole (the caller unmaps what it mapped). Tables that became empty are cut out and collected.
  virtual u64 unmap(Iova iova, u64 length, Gather& gather) = 0;
  // After the flush: frees what unmap collected, and empties the Gather.
  virtual void release(Gather& gather) = 0;

  virtual Result<Leaf> leaf_at(Iova iova) const = 0;  // Enoent
  // Leaves that overlap the range, in order, each whole; stops at the first error. Eio, here and in each_table, when an
  // adopted table is not sound: a table page outside its arena, or one linked twice.
  virtual Result<void> each_leaf(Iova iova, u64 length, FunctionRef<Result<void>(const Leaf&)> visit) const = 0;
  // The same, with neighbours joined that are contiguous on both sides and allow the same, of whatever size: several
  // times faster where memory is, which is what checking a whole table against extents wants. A run may reach beyond
  // the range by the rest of its first and last leaf.
  virtual Result<void> each_run(Iova iova, u64 length, FunctionRef<Result<void>(const Leaf& run)> visit) const = 0;
  // --- dirty tracking ---------------------------------------------------------------------------------------
  // A unit that was told to marks a leaf in the table when it first writes through it, and does not mark it again while
  // it has it cached as marked. Both Eopnotsupp where no marks can be relied on: a format whose leaves are made as
  // marked ones, or walks that do not snoop (a write-back of a neighbour would take fresh marks back). Eio as above.
  //
  // Marked leaves that overlap the range, in order, each whole; stops at the first error. One that `unmark` says true
  // for loses its mark, and writes are sure to mark it again once the caller has flushed it (IH = 1).
  virtual Result<void> each_dirty(Iova iova, u64 length, FunctionRef<Result<bool>(const Leaf&)> unmark) = 0;
  // Marks every leaf that overlaps the range and may be written through.
  virtual Result<void> mark_dirty(Iova iova, u64 length) = 0;

  // Every table page, the top first.
  virtual Result<void> each_table(FunctionRef<Result<void>(Phys page, unsigned level)> visit) const = 0;

  // Moves this table's mappings under the top page of `live`, which hardware walks (design §7, graft): each slot
  // of the live top page is replaced by this table's by one store; afterwards this table owns the live top page and
  // `live` owns this table's former one with the old subtrees. Both must have equal geometry (Einval). The caller
  // made sure that both give equal results wherever devices may look, that hardware does not walk this table yet and
  // that nothing is gathered from it; it flushes (IH = 0) before it frees `live`.
  virtual Result<void> graft_onto(IoPageTable& live) = 0;

  // --- handover -------------------------------------------------------------------------------------------
  // The top page and everything of the arena, as (base, order).
  virtual Result<void> each_block(FunctionRef<Result<void>(Phys base, unsigned order)> visit) const = 0;
  virtual TableArena& arena() = 0;
  // Forgets every page, the top included, without freeing: hardware may walk them for ever (design §8). Only
  // destruction may follow.
  virtual void abandon() = 0;

  // The implementation's identity (there is no RTTI): equal for tables of one engine, format and memory.
  virtual const void* engine() const = 0;
};

// A fresh, empty table. Einval for a geometry that the format cannot do; Eopnotsupp for an unknown format.
Result<Owned<IoPageTable>> create(Heap& heap, const Geometry& geometry);
// A table around what a former kernel left: the top page (restored by the caller through `restore`, once) and the
// arena chain. Nothing below is walked: O(chunks). Mapping works on it like on any other table; a link to a page
// that is not the arena's is never followed. Einval for a bad geometry or top, else the error of what failed.
Result<Owned<IoPageTable>> adopt(Heap& heap, const Geometry& geometry, Phys top, Phys first_descriptor,
                                 FunctionRef<bool(Phys base, u64 length)> readable,
                                 FunctionRef<Result<void>(Phys base, unsigned order)> restore);

}  // namespace perdure::pt
