// What scalable tables translate to (hardware.md §3.2).
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

template <unsigned kLevels>
Seen page_through_levels(Bench& b) {
  b.start(Mode::Scalable);
  const Table table = b.table(kLevels);
  const u64 iova = Bench::kIova | u64{1} << (12 + 9 * kLevels - 1);
  b.map(table, iova, b.target(0));
  b.map(table, Bench::kIova, b.target(1));
  b.map_mailbox(table);
  b.attach(0, table);
  return {b.write(0, iova), b.write(0, Bench::kIova), b.read(0, iova + 0x7F8)};
}

template <unsigned kLevel>
Seen large_page(Bench& b) {
  b.start(Mode::Scalable);
  const Table table = b.table();
  const u64 size = kLevel == 2 ? u64{2} << 20 : u64{1} << 30;
  const u64 phys = b.target(2) & ~(size - 1);
  const u64 iova = u64{1} << 31;
  b.store(b.entry_at(table, iova, kLevel), phys | kReadWrite | kPageSize);
  b.attach(0, table);
  return {b.write(0, iova + (b.target(2) - phys))};
}

Seen both_halves_of_a_bus(Bench& b) {
  b.start(Mode::Scalable);
  b.simple(0);
  const Table other = b.table();
  b.map(other, Bench::kIova, b.target(1));
  b.attach(2, other, Bench::kOtherDid);
  return {b.write(0, Bench::kIova), b.write(2, Bench::kIova)};
}

Seen pass_through(Bench& b) {
  b.start(Mode::Scalable);
  b.mailbox_is_untranslated();
  b.attach(0, {0, b.widest()}, Bench::kDid, kPresent);
  const u64 at = b.pasid_at(0);
  b.store(at, kPresent | kGrantAll | (b.widest() - 2) << 2);
  return {b.write(0, b.target(1)), b.read(0, b.target(2))};
}

// Requests without a PASID take the entry that RID_PASID names: another one of the table, of another table, and not the
// first one.
template <u32 kPasid>
Seen rid_pasid(Bench& b) {
  b.start(Mode::Scalable);
  b.simple();  // PASID 0
  const Table other = b.table();
  b.map(other, Bench::kIova, b.target(1));
  const u64 from = b.pasid_at(0);
  const u64 at = b.pasid_at(0, kPasid);
  b.store(at + 8, (b.load(from + 8) & ~u64{0xFFFF}) | Bench::kOtherDid);
  b.store(at, (b.load(from) & ~kAddress) | other.top);
  b.store(b.context_at(0) + 8, kPasid);
  return {b.write(0, Bench::kIova)};
}

Seen domain_id_is_of_the_pasid_entry(Bench& b) {
  b.start(Mode::Scalable);
  const Table table = b.simple(0, Bench::kOtherDid);
  const Observation first = b.write(0, Bench::kIova);
  b.map(table, Bench::kIova, b.target(1));
  b.flush_iotlb(Grain::Domain, Bench::kOtherDid);
  return {first, b.write(0, Bench::kIova)};
}

Seen read_only(Bench& b) {
  b.start(Mode::Scalable);
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(0), kRead);
  b.map_mailbox(table);
  b.attach(0, table);
  return {b.write(0, Bench::kIova), b.read(0, Bench::kIova)};
}

Seen legacy_tables_on_a_scalable_unit(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  return {b.write(0, Bench::kIova)};
}

// The unit sets A on a read, and D on a write, and drops neither.
Seen sets_accessed_and_dirty(Bench& b) {
  b.start(Mode::Scalable);
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(0));
  b.map_mailbox(table);
  b.attach(0, table, Bench::kDid, kPresent | kTrackDirty);
  const u64 leaf = b.entry_at(table, Bench::kIova);
  const Observation read = b.read(0, Bench::kIova);
  const u64 after_read = b.load(leaf) & (kAccessed | kDirty);
  const Observation written = b.write(0, Bench::kIova);
  const u64 after_write = b.load(leaf) & (kAccessed | kDirty);
  return {read, number(after_read >> 8), written, number(after_write >> 8)};
}

Seen no_tracking_unless_asked(Bench& b) {
  b.start(Mode::Scalable);
  const Table table = b.simple();
  const Observation written = b.write(0, Bench::kIova);
  return {written, number((b.load(b.entry_at(table, Bench::kIova)) & (kAccessed | kDirty)) >> 8)};
}

// TTM must not change while translating, and if it does, the tables are taken for what it says.
Seen mode_changes_while_on(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  const Observation legacy = b.write(0, Bench::kIova);
  b.prepare(Mode::Scalable);
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(1));
  b.attach(0, table, Bench::kOtherDid);
  return {legacy, b.write(0, Bench::kIova)};
}

Seen mode_changes_while_off(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  const Observation legacy = b.write(0, Bench::kIova);
  b.command(kTranslation, false);
  b.start(Mode::Scalable);
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(1));
  b.attach(0, table, Bench::kOtherDid);
  return {legacy, b.write(0, Bench::kIova)};
}

Seen abort_mode(Bench& b) {
  b.prepare(Mode::Legacy);
  b.simple();
  b.set_root(b.root() | kAbortRoot);
  b.flush_all();
  b.command(kTranslation, true);
  return {b.write(0, Bench::kIova)};
}

constexpr Seen kThroughLevels{lands(0), lands(1), lands(0)};

constexpr Behaviour kList[] = {
    {"scalable.page_through_3_levels", "§3.2", kScalable | kLevels3, Software::Right, page_through_levels<3>,
     kThroughLevels},
    {"scalable.page_through_4_levels", "§3.2", kScalable | kLevels4, Software::Right, page_through_levels<4>,
     kThroughLevels},
    {"scalable.page_through_5_levels", "§3.2", kScalable | kLevels5, Software::Right, page_through_levels<5>,
     kThroughLevels},
    {"scalable.page_of_2m", "§3.3", kScalable | kHugePages, Software::Right, large_page<2>, {lands(2)}},
    {"scalable.page_of_1g", "§3.3", kScalable | kGiantPages, Software::Right, large_page<3>, {lands(2)}},
    {"scalable.both_halves_of_a_bus",
     "§3.2 LCTP, UCTP",
     kScalable | kThreeRequesters,
     Software::Right,
     both_halves_of_a_bus,
     {lands(0), lands(1)}},
    {"scalable.pass_through",
     "§3.2 PGTT",
     kScalable | kPassesThrough,
     Software::Right,
     pass_through,
     {lands(1), lands(2)}},
    {"scalable.rid_pasid_of_the_same_table", "§3.2 RID_PASID", kScalable, Software::Right, rid_pasid<37>, {lands(1)}},
    {"scalable.rid_pasid_of_another_table", "§3.2 RID_PASID", kScalable, Software::Right, rid_pasid<8191>, {lands(1)}},
    {"scalable.domain_id_is_of_the_pasid_entry",
     "§4",
     kScalable,
     Software::Right,
     domain_id_is_of_the_pasid_entry,
     {lands(0), lands(1)}},
    {"scalable.read_only",
     "§3.3, §7",
     kScalable,
     Software::Right,
     read_only,
     {faults(reason::kSecondPermission), lands(0)},
     {{faults(reason::kNoWrite), lands(0)}, "reasons of second-stage faults are those of legacy mode", true}},
    {"scalable.legacy_tables_on_a_scalable_unit",
     "§1 TTM",
     kScalable,
     Software::Right,
     legacy_tables_on_a_scalable_unit,
     {lands(0)}},
    {"scalable.sets_accessed_and_dirty",
     "§3.2 SSADE, §3.3 A, D",
     kScalable | kTracksDirty,
     Software::Right,
     sets_accessed_and_dirty,
     {lands(0), number(1), lands(0), number(3)}},
    {"scalable.no_tracking_unless_asked",
     "§3.3 A, D",
     kScalable,
     Software::Right,
     no_tracking_unless_asked,
     {lands(0), number(0)}},
    {"scalable.mode_changes_while_on",
     "§1 TTM",
     kScalable,
     Software::Wrong,
     mode_changes_while_on,
     {lands(0), lands(1)}},
    {"scalable.mode_changes_while_off",
     "§1 TTM",
     kScalable,
     Software::Right,
     mode_changes_while_off,
     {lands(0), lands(1)}},
    {"abort_mode", "§1 TTM", kAborts, Software::Right, abort_mode, {lost()}},
};

}  // namespace

std::span<const Behaviour> scalable_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
