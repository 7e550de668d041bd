#include "core/vtd/scalable_tables.h"

#include "core/base/scope_guard.h"

namespace perdure::vtd {
namespace {

using Context = ScalableContextEntry;

constexpr unsigned kHalves = 2 * kEntriesPerTable;

unsigned half_of(u16 bdf) {
  return bdf >> 7;
}
bool first_stage(const u64* entry) {
  return PasidEntry::Type::get(hw::load(&entry[0])) == PasidEntry::kFirstStage;
}
void unpreserve(Kho* kho, Phys page) {
  if (kho && kho->is_preserved(page, 0)) kho->unpreserve(page, 0);
}

}  // namespace

Result<Owned<TranslationTables>> ScalableTables::create(Heap& heap, const HwWriter& writer, const EntryLimits& limits) {
  const Phys root = TRY(heap.frames().alloc_zeroed(0));
  auto tables = heap.make<ScalableTables>(heap.frames(), writer, limits, root);
  if (!tables) {
    heap.frames().free(root, 0);
    return fail(tables.error());
  }
  writer.write_back_page(root);
  return Owned<TranslationTables>(std::move(*tables));
}

u64* ScalableTables::root_half(unsigned half) const {
  return frames_.machine().virt<u64>(root_) + half;
}

Phys ScalableTables::context_table(unsigned half) const {
  const u64 entry = hw::load(root_half(half));
  return RootEntry::Present::test(entry) ? Phys(RootEntry::Table::in_place(entry)) : Phys();
}

u64* ScalableTables::context_entry(u16 bdf) const {
  const Phys table = context_table(half_of(bdf));
  if (!table) return nullptr;
  return frames_.machine().virt<u64>(table) + usize{bdf % kScalableContexts} * kScalableContextWords;
}

ScalableTables::Room ScalableTables::room_of(const u64* context) const {
  Room room;
  if (context) room.directory = Phys(Context::Directory::in_place(hw::load(&context[0])));
  if (!room.directory) return room;
  const u64* directory = frames_.machine().virt<u64>(room.directory);
  room.table = Phys(PasidDirectoryEntry::Table::in_place(hw::load(&directory[kRidPasid / kPasidsPerTable])));
  room.entry = frames_.machine().virt<u64>(room.table) + usize{kRidPasid % kPasidsPerTable} * kPasidWords;
  return room;
}

bool ScalableTables::bus_in_use(u8 bus) const {
  return context_table(2u * bus) || context_table(2u * bus + 1);
}

EntryState ScalableTables::read(u16 bdf) const {
  EntryState state;
  const u64* context = context_entry(bdf);
  if (!context || !Context::Present::test(hw::load(context))) return state;
  const u64* entry = room_of(context).entry;
  const u64 low = hw::load(&entry[0]);
  state.present = true;
  state.did = static_cast<u32>(PasidEntry::Did::get(hw::load(&entry[1])));
  switch (PasidEntry::Type::get(low)) {
    case PasidEntry::kFirstStage: {
      const u64 first = hw::load(&entry[2]);
      state.format = pt::FormatId::X86FirstStage;
      state.levels = static_cast<u8>(PasidEntry::FirstStageMode::get(first) + 4);
      state.top = Phys(PasidEntry::FirstStage::in_place(first));
      break;
    }
    case PasidEntry::kSecondStage:
      state.format = pt::FormatId::VtdSecondStage;
      state.levels = static_cast<u8>(PasidEntry::Width::get(low) + 2);
      state.top = Phys(PasidEntry::SecondStage::in_place(low));
      state.tracks_dirty = PasidEntry::TrackDirty::test(low);
      break;
    default: state.pass_through = true; break;
  }
  return state;
}

Result<bool> ScalableTables::make_room(u16 bdf, Kho* kho) {
  // Whatever may fail comes before anything is linked.
  Phys made[3];
  usize count = 0;
  ScopeGuard undo([&] {
    while (count > 0) {
      unpreserve(kho, made[--count]);
      frames_.free(made[count], 0);
    }
  });
  const auto make = [&]() -> Result<Phys> {
    made[count] = TRY(frames_.alloc_zeroed(0));
    const Phys page = made[count++];
    if (kho) TRY(kho->preserve(page, 0));
    writer_.write_back_page(page);
    return page;
  };
  const Phys directory = TRY(make());
  const Phys table = TRY(make());
  const bool new_table = !context_table(half_of(bdf));
  const Phys contexts = new_table ? TRY(make()) : Phys();
  undo.dismiss();

  u64* first = frames_.machine().virt<u64>(directory) + kRidPasid / kPasidsPerTable;
  writer_.store(first, table.value | PasidDirectoryEntry::Present::value());
  if (new_table) {
    const u64 word = contexts.value | RootEntry::Present::value();
    writer_.publish({root_half(half_of(bdf)), 1}, {&word, 1});
  }
  u64* context = context_entry(bdf);
  PERDURE_ASSERT(!room_of(context).directory);
  writer_.store(&context[0], directory.value);
  return new_table;
}

void ScalableTables::set(u16 bdf, u32 did, const pt::Geometry& geometry, Phys top, bool track_dirty) {
  u64* context = context_entry(bdf);
  const Room room = room_of(context);
  PERDURE_ASSERT(room.directory && !Context::Present::test(hw::load(context)));
  u64 words[kPasidWords] = {};
  words[0] = PasidEntry::Present::value();
  words[1] = PasidEntry::Did::make(did) | PasidEntry::WalkSnoops::make(limits_.walk_snoops ? 1 : 0);
  if (geometry.format == pt::FormatId::X86FirstStage) {
    // The width is the second stage's, and hardware ignores it here; QEMU 10 takes it for the first stage's.
    words[0] |= PasidEntry::Type::make(PasidEntry::kFirstStage) | PasidEntry::Width::make(geometry.levels - 2u);
    words[2] = PasidEntry::FirstStageMode::make(geometry.levels - 4u) | PasidEntry::FirstStage::in_place(top.value);
  } else {
    words[0] |= PasidEntry::Type::make(PasidEntry::kSecondStage) | PasidEntry::Width::make(geometry.levels - 2u) |
                PasidEntry::SecondStage::in_place(top.value) | PasidEntry::TrackDirty::make(track_dirty ? 1 : 0);
  }
  writer_.publish({room.entry, kPasidWords}, words);
  const u64 present[kScalableContextWords] = {room.directory.value | Context::Present::value(),
                                              Context::RidPasid::make(kRidPasid), 0, 0};
  writer_.publish({context, kScalableContextWords}, present);
}

void ScalableTables::set_track_dirty(u16 bdf, bool on) {
  u64* word = room_of(context_entry(bdf)).entry;
  PERDURE_ASSERT(word && PasidEntry::Type::get(hw::load(word)) == PasidEntry::kSecondStage);
  const u64 others = hw::load(word) & ~PasidEntry::TrackDirty::kMask;
  writer_.store(word, others | PasidEntry::TrackDirty::make(on ? 1 : 0));
}

void ScalableTables::retract(u16 bdf) {
  if (u64* context = context_entry(bdf)) writer_.retract(context, Context::Present::value());
}

void ScalableTables::zero(u64* context) const {
  for (unsigned i = 0; i < kScalableContextWords; ++i) writer_.store(&context[i], 0);
}

void ScalableTables::wipe(u16 bdf, Kho* kho) {
  u64* context = context_entry(bdf);
  const Room room = room_of(context);
  if (!room.directory) return;
  PERDURE_ASSERT(!Context::Present::test(hw::load(context)));
  zero(context);
  for (const Phys page : {room.directory, room.table}) {
    unpreserve(kho, page);
    frames_.free(page, 0);
  }
}

bool ScalableTables::retracted(u16 bdf, u32& did) const {
  const u64* context = context_entry(bdf);
  const Room room = room_of(context);
  if (!room.directory || Context::Present::test(hw::load(context))) return false;
  did = static_cast<u32>(PasidEntry::Did::get(hw::load(&room.entry[1])));
  return true;
}

void ScalableTables::save(u16 bdf, SavedEntry& saved) const {
  const u64* context = context_entry(bdf);
  for (unsigned i = 0; i < kScalableContextWords; ++i) saved.word[i] = context ? hw::load(&context[i]) : 0;
}

void ScalableTables::put_aside(u16 bdf, Kho& kho) {
  u64* context = context_entry(bdf);
  const Room room = room_of(context);
  if (!room.directory) return;
  PERDURE_ASSERT(!Context::Present::test(hw::load(context)));
  zero(context);
  unpreserve(&kho, room.directory);
  unpreserve(&kho, room.table);
}

Result<void> ScalableTables::restore(u16 bdf, const SavedEntry& saved, Kho* kho) {
  u64* context = context_entry(bdf);
  PERDURE_ASSERT(context && !Context::Present::test(hw::load(context)));
  const Room room = room_of(saved.word);
  for (const Phys page : {room.directory, room.table}) {
    if (kho && !kho->is_preserved(page, 0)) TRY(kho->preserve(page, 0));
  }
  writer_.publish({context, kScalableContextWords}, {saved.word, kScalableContextWords});
  return {};
}

void ScalableTables::flush_after_clear(u16 bdf, u32 did, Drain drain, Batch& batch) const {
  batch.add(InvalidateContext(did, bdf));
  batch.add(InvalidatePasidCache(did));
  const Room room = room_of(context_entry(bdf));
  if (room.directory && first_stage(room.entry)) {
    batch.add(InvalidatePasidIotlb(did, kRidPasid));
  } else {
    batch.add(InvalidateIotlb(drain, did));
  }
}

void ScalableTables::flush_after_set(u16 bdf, u32 did, bool new_table, Drain drain, Batch& batch) const {
  if (new_table) return flush_all(drain, batch);
  // The context entry is tagged with id 0 when it was not present (hardware.md §4, §6); below it the new id counts.
  batch.add(InvalidateContext(0, bdf));
  batch.add(InvalidatePasidCache(did, kRidPasid));
  batch.add(InvalidateIotlb(drain, 0));
  batch.add(InvalidatePasidIotlb(did, kRidPasid));
  // Translations may be there from an earlier use of the id.
  if (!first_stage(room_of(context_entry(bdf)).entry)) batch.add(InvalidateIotlb(drain, did));
}

void ScalableTables::flush_all(Drain drain, Batch& batch) const {
  batch.add(InvalidateContext());
  batch.add(InvalidatePasidCache());
  batch.add(InvalidateIotlb(drain));
}

Result<void> ScalableTables::each_page(FunctionRef<Result<void>(Phys page)> visit) const {
  TRY(visit(root_));
  for (unsigned half = 0; half < kHalves; ++half) {
    const Phys contexts = context_table(half);
    if (!contexts) continue;
    TRY(visit(contexts));
    for (unsigned i = 0; i < kScalableContexts; ++i) {
      const Room room = room_of(frames_.machine().virt<u64>(contexts) + usize{i} * kScalableContextWords);
      if (!room.directory) continue;
      TRY(visit(room.directory));
      TRY(visit(room.table));
    }
  }
  return {};
}

void ScalableTables::linked_tables(std::span<u64, 8> bits) const {
  for (u64& word : bits) word = 0;
  for (unsigned half = 0; half < kHalves; ++half) {
    if (context_table(half)) bits[half / 64] |= u64{1} << (half % 64);
  }
}

void ScalableTables::free_pages() {
  for (unsigned half = 0; half < kHalves; ++half) {
    const Phys contexts = context_table(half);
    if (!contexts) continue;
    for (unsigned i = 0; i < kScalableContexts; ++i) {
      const Room room = room_of(frames_.machine().virt<u64>(contexts) + usize{i} * kScalableContextWords);
      if (!room.directory) continue;
      frames_.free(room.directory, 0);
      frames_.free(room.table, 0);
    }
    frames_.free(contexts, 0);
  }
  frames_.free(root_, 0);
}

}  // namespace perdure::vtd
