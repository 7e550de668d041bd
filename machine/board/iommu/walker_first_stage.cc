// The walker's way through a first-stage page table: x86 entries, whose accessed and dirty bits the unit maintains.
// What is not present is never remembered, also with caching mode (hardware.md §3.4).
#include "machine/board/iommu/tables.h"
#include "machine/board/iommu/walker.h"

namespace perdure::board {

Answer Walker::walk_first_stage(const Binding& binding, const Request& request, bool& stale) {
  using namespace table;
  unsigned level = 0;
  StructureEntry in = begin_walk(binding, request, level, stale);
  const bool wants_write = request.access == Access::Write;
  unsigned attempts = 0;
  for (;;) {
    const unsigned shift = second_stage::level_shift(level);
    const u64 at = in.pointer + ((request.iova >> shift) & 0x1FF) * 8;
    u64 entry = 0;
    if (!load(at, TableUse::PageTable, request, binding.snoop, entry)) {
      return blocked(level == binding.table.levels ? fault::kFirstStagePointer : fault::kFirstStageUnreadable);
    }
    if (!first_stage::Present::test(entry)) return blocked(fault::kFirstStageNotPresent);
    const bool leaf = level <= 1 || (first_stage::PageSize::test(entry) && level <= 3);
    if (reserved_first_stage_bits(entry, level, leaf) != 0) {
      note(request, ViolationKind::ReservedBits, at, entry);
      return blocked(fault::kFirstStageReserved);
    }
    // Requests without a PASID, and without RID_PRIV, have user privilege.
    if (!first_stage::User::test(entry)) return blocked(fault::kNotForUsers);
    const bool entry_write = in.write && first_stage::Write::test(entry);
    const bool allowed = !wants_write || entry_write || !leaf;

    if (allowed && !request.silent) {
      const u64 wanted = first_stage::Accessed::value() | (leaf && wants_write ? first_stage::Dirty::value() : 0);
      const TableReader::Updated updated = set_bits(binding, at, wanted, entry, attempts);
      if (updated == TableReader::Updated::NotRam) return blocked(fault::kFirstStageUpdate);
      if (updated == TableReader::Updated::Changed) continue;
    }
    if (!leaf) {
      in = {first_stage::Pointer::in_place(entry), true, entry_write, binding.table};
      --level;
      if (!request.silent) caches_.keep_structure(binding.tag(), request.iova, level, in);
      continue;
    }
    const u64 page_phys = first_stage::Pointer::in_place(entry) & ~((u64{1} << shift) - 1);
    if (!request.silent) {
      PageEntry page;
      page.phys = page_phys;
      page.read = true;
      page.write = entry_write;
      page.dirty = first_stage::Dirty::test(entry);
      page.table = binding.table;
      caches_.keep_page(binding.tag(), request.iova, level, page);
    }
    if (!allowed) return blocked(fault::kFirstStageNoWrite);
    return finish(request, true, page_phys, level);
  }
}

u64 Walker::reserved_first_stage_bits(u64 entry, unsigned level, bool leaf) const {
  using namespace table;
  u64 bad = beyond_width(first_stage::Pointer::in_place(entry), config_.haw);
  const bool size = first_stage::PageSize::test(entry) && level > 1;
  if (size && !(level == 2 || (level == 3 && config_.first_stage_1g))) bad |= first_stage::PageSize::value();
  if (leaf && level > 1) {
    const u64 below = (u64{1} << second_stage::level_shift(level)) - 1;
    bad |= first_stage::Pointer::in_place(entry) & below & ~first_stage::LargePat::value();
  }
  return bad;
}

}  // namespace perdure::board
