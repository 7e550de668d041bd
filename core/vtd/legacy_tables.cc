#include "core/vtd/legacy_tables.h"

namespace perdure::vtd {

Result<Owned<TranslationTables>> LegacyTables::create(Heap& heap, const HwWriter& writer, const EntryLimits& limits) {
  const Phys root = TRY(heap.frames().alloc_zeroed(0));
  auto tables = heap.make<LegacyTables>(heap.frames(), writer, limits, root);
  if (!tables) {
    heap.frames().free(root, 0);
    return fail(tables.error());
  }
  writer.write_back_page(root);
  return Owned<TranslationTables>(std::move(*tables));
}

u64* LegacyTables::root_entry(u8 bus) const {
  return frames_.machine().virt<u64>(root_) + usize{bus} * kEntryWords;
}

Phys LegacyTables::context_table(u8 bus) const {
  const u64 entry = hw::load(root_entry(bus));
  return RootEntry::Present::test(entry) ? Phys(RootEntry::Table::in_place(entry)) : Phys();
}

u64* LegacyTables::context_entry(u16 bdf) const {
  const Phys table = context_table(static_cast<u8>(bdf >> 8));
  return table ? frames_.machine().virt<u64>(table) + usize{bdf & 0xffu} * kEntryWords : nullptr;
}

bool LegacyTables::bus_in_use(u8 bus) const {
  return static_cast<bool>(context_table(bus));
}

EntryState LegacyTables::read(u16 bdf) const {
  EntryState state;
  const u64* entry = context_entry(bdf);
  if (!entry) return state;
  const u64 low = hw::load(&entry[0]);
  const u64 high = hw::load(&entry[1]);
  if (!ContextEntry::Present::test(low)) return state;
  state.present = true;
  state.pass_through = ContextEntry::Type::get(low) == ContextEntry::kPassThrough;
  state.did = static_cast<u32>(ContextEntry::Did::get(high));
  if (!state.pass_through) state.format = pt::FormatId::VtdSecondStage;
  state.levels = static_cast<u8>(ContextEntry::Width::get(high) + 2);
  state.top = Phys(ContextEntry::Top::in_place(low));
  return state;
}

Result<bool> LegacyTables::make_room(u16 bdf, Kho* kho) {
  const u8 bus = static_cast<u8>(bdf >> 8);
  if (bus_in_use(bus)) return false;
  const Phys table = TRY(frames_.alloc_zeroed(0));
  writer_.write_back_page(table);
  if (auto kept = kho ? kho->preserve(table, 0) : Result<void>(); !kept) {
    frames_.free(table, 0);
    return fail(kept.error());
  }
  const u64 words[kEntryWords] = {table.value | RootEntry::Present::value(), 0};
  writer_.publish({root_entry(bus), kEntryWords}, words);
  return true;
}

void LegacyTables::set(u16 bdf, u32 did, const pt::Geometry& geometry, Phys top, bool) {
  u64* entry = context_entry(bdf);
  PERDURE_ASSERT(entry && !ContextEntry::Present::test(hw::load(entry)));
  const u64 words[kEntryWords] = {ContextEntry::Top::in_place(top.value) |
                                      ContextEntry::Type::make(ContextEntry::kTranslate) |
                                      ContextEntry::Present::value(),
                                  ContextEntry::Width::make(geometry.levels - 2u) | ContextEntry::Did::make(did)};
  writer_.publish({entry, kEntryWords}, words);
}

void LegacyTables::retract(u16 bdf) {
  if (u64* entry = context_entry(bdf)) writer_.retract(entry, ContextEntry::Present::value());
}

void LegacyTables::wipe(u16 bdf, Kho*) {
  u64* entry = context_entry(bdf);
  if (!entry) return;
  PERDURE_ASSERT(!ContextEntry::Present::test(hw::load(entry)));
  writer_.store(&entry[0], 0);
  writer_.store(&entry[1], 0);
}

bool LegacyTables::retracted(u16 bdf, u32& did) const {
  const u64* entry = context_entry(bdf);
  if (!entry || ContextEntry::Present::test(hw::load(entry))) return false;
  const u64 high = hw::load(&entry[1]);
  did = static_cast<u32>(ContextEntry::Did::get(high));
  // The width of an entry that once was present is never 0.
  return ContextEntry::Width::get(high) != 0;
}

void LegacyTables::save(u16 bdf, SavedEntry& saved) const {
  const u64* entry = context_entry(bdf);
  for (unsigned i = 0; i < kEntryWords; ++i) saved.word[i] = entry ? hw::load(&entry[i]) : 0;
}

Result<void> LegacyTables::restore(u16 bdf, const SavedEntry& saved, Kho*) {
  u64* entry = context_entry(bdf);
  PERDURE_ASSERT(entry && !ContextEntry::Present::test(hw::load(entry)));
  writer_.publish({entry, kEntryWords}, {saved.word, kEntryWords});
  return {};
}

void LegacyTables::flush_after_clear(u16 bdf, u32 did, Drain drain, Batch& batch) const {
  batch.add(InvalidateContext(did, bdf));
  batch.add(InvalidateIotlb(drain, did));
}

void LegacyTables::flush_after_set(u16 bdf, u32 did, bool new_table, Drain drain, Batch& batch) const {
  if (new_table) return flush_all(drain, batch);
  // What is cached of a not-present entry is tagged with id 0 (hardware.md §4); the new id's translations may
  // be there from an earlier use of the id.
  batch.add(InvalidateContext(0, bdf));
  batch.add(InvalidateIotlb(drain, 0));
  batch.add(InvalidateIotlb(drain, did));
}

void LegacyTables::flush_all(Drain drain, Batch& batch) const {
  batch.add(InvalidateContext());
  batch.add(InvalidateIotlb(drain));
}

Result<void> LegacyTables::each_page(FunctionRef<Result<void>(Phys page)> visit) const {
  TRY(visit(root_));
  for (unsigned bus = 0; bus < kEntriesPerTable; ++bus) {
    if (const Phys table = context_table(static_cast<u8>(bus))) TRY(visit(table));
  }
  return {};
}

void LegacyTables::linked_tables(std::span<u64, 8> bits) const {
  for (u64& word : bits) word = 0;
  for (unsigned bus = 0; bus < kEntriesPerTable; ++bus) {
    if (bus_in_use(static_cast<u8>(bus))) bits[bus / 32] |= u64{1} << (bus % 32 * 2);
  }
}

void LegacyTables::free_pages() {
  for (unsigned bus = 0; bus < kEntriesPerTable; ++bus) {
    if (const Phys table = context_table(static_cast<u8>(bus))) frames_.free(table, 0);
  }
  frames_.free(root_, 0);
}

}  // namespace perdure::vtd
