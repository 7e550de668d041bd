// What legacy tables translate to, and what they permit (hardware.md §3.1, §3.3).
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

constexpr u64 kHuge = u64{2} << 20;
constexpr u64 kGiant = u64{1} << 30;

// An address that needs the topmost level's index.
constexpr u64 high_iova(unsigned levels) {
  return Bench::kIova | u64{1} << (12 + 9 * levels - 1);
}

template <unsigned kLevels>
Seen page_through_levels(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.table(kLevels);
  const u64 iova = high_iova(kLevels);
  b.map(table, iova, b.target(0));
  b.map(table, Bench::kIova, b.target(1));
  b.attach(0, table);
  return {b.write(0, iova), b.write(0, Bench::kIova), b.write(0, iova + 0x7F8)};
}

Seen reads_go_where_writes_go(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.simple();
  b.map_mailbox(table);
  return {b.read(0, Bench::kIova), b.read(0, Bench::kIova + 0x128), b.write(0, Bench::kIova)};
}

// A leaf at level 2 or 3, with the target somewhere inside of it.
template <unsigned kLevel>
Seen large_page(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.table();
  const u64 size = kLevel == 2 ? kHuge : kGiant;
  const u64 phys = b.target(2) & ~(size - 1);
  const u64 iova = u64{1} << 31;  // aligned to both
  b.store(b.entry_at(table, iova, kLevel), phys | kReadWrite | kPageSize);
  b.attach(0, table);
  return {b.write(0, iova + (b.target(2) - phys)), b.write(0, iova + (b.target(3) - phys) + 0x10)};
}

Seen transfer_across_pages(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(2));
  b.map(table, Bench::kIova + perdure::kPageSize, b.target(0));
  b.attach(0, table);
  b.store(b.target(0), 0);
  b.start_write(0, Bench::kIova + perdure::kPageSize - 8, 16);
  b.finish(0);
  return {yes_if(b.load(b.target(2) + perdure::kPageSize - 8) == b.stamp(0)),
          yes_if(b.load(b.target(0)) == b.stamp(0, 8))};
}

Seen pass_through(Bench& b) {
  b.start(Mode::Legacy);
  b.mailbox_is_untranslated();
  b.attach(0, {0, b.widest()}, Bench::kDid, kPresent | kPassThrough);
  return {b.write(0, b.target(1)), b.read(0, b.target(2))};
}

Seen requesters_have_tables_of_their_own(Bench& b) {
  b.start(Mode::Legacy);
  b.simple(0, Bench::kDid);
  const Table second = b.table();
  b.map(second, Bench::kIova, b.target(1));
  b.attach(1, second, Bench::kOtherDid);
  return {b.write(0, Bench::kIova), b.write(1, Bench::kIova), b.write(0, Bench::kIova)};
}

Seen requesters_share_a_domain(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.simple();
  b.attach(1, table);
  return {b.write(0, Bench::kIova), b.write(1, Bench::kIova)};
}

Seen one_blocked_other_works(Bench& b) {
  b.start(Mode::Legacy);
  b.simple(1);
  return {b.write(0, Bench::kIova), b.write(1, Bench::kIova)};
}

Seen devfn_above_0x80(Bench& b) {
  b.start(Mode::Legacy);
  b.simple(2);
  return {b.write(2, Bench::kIova)};
}

// Bits 10, 61:52 and 63 of any entry are software's, bits 6:3 of a context entry's second word, too.
Seen software_bits_are_ignored(Bench& b) {
  b.start(Mode::Legacy);
  constexpr u64 kSoftware = u64{0xBFF} << 52 | bit(10);
  const Table table = b.simple();
  for (unsigned level = 1; level <= table.levels; ++level) {
    const u64 at = b.entry_at(table, Bench::kIova, level);
    b.store(at, b.load(at) | kSoftware);
  }
  const u64 context = b.context_at(0) + 8;
  b.store(context, b.load(context) | 0x78);
  return {b.write(0, Bench::kIova)};
}

Seen largest_domain_id(Bench& b) {
  b.start(Mode::Legacy);
  const auto largest = static_cast<u16>((u64{1} << (4 + 2 * (b.cap() & 7))) - 1);
  const Table table = b.simple(0, largest);
  const Observation first = b.write(0, Bench::kIova);
  b.map(table, Bench::kIova, b.target(1));
  b.flush_iotlb(Grain::Domain, largest);
  return {first, b.write(0, Bench::kIova)};
}

Seen snoop_bit_of_a_leaf(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(0), kReadWrite | kSnoop);
  b.attach(0, table);
  return {b.write(0, Bench::kIova)};
}

Seen read_only(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(0), kRead);
  b.map_mailbox(table);
  b.attach(0, table);
  return {b.write(0, Bench::kIova), b.read(0, Bench::kIova)};
}

Seen write_only(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(0), kWrite);
  b.map_mailbox(table);
  b.attach(0, table);
  return {b.read(0, Bench::kIova), b.write(0, Bench::kIova)};
}

// Permissions of all levels are ANDed.
Seen upper_level_withholds_write(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.simple();
  const u64 upper = b.entry_at(table, Bench::kIova, 2);
  b.store(upper, b.load(upper) & ~kWrite);
  return {b.write(0, Bench::kIova)};
}

// A table that is cached still knows what the entry above it withheld.
Seen upper_level_withholds_write_from_what_is_cached(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.simple();
  b.map_mailbox(table);
  const u64 upper = b.entry_at(table, Bench::kIova, 2);
  b.store(upper, b.load(upper) & ~kWrite);
  b.map(table, Bench::kIova + perdure::kPageSize, b.target(1));
  return {b.read(0, Bench::kIova), b.write(0, Bench::kIova + perdure::kPageSize)};
}

Seen upper_level_withholds_read(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.simple();
  b.map_mailbox(table);
  const u64 upper = b.entry_at(table, Bench::kIova, table.levels);
  b.store(upper, b.load(upper) & ~kRead);
  return {b.read(0, Bench::kIova)};
}

// Walkers that do not snoop see what was written back, and only that.
Seen stores_show_once_written_back(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.simple();
  const u64 leaf = b.entry_at(table, Bench::kIova);
  b.write_back(leaf, 8);
  b.store_only(leaf, b.target(1) | kReadWrite);
  const Observation before = b.write(0, Bench::kIova);
  b.write_back(leaf, 8);
  b.flush_iotlb(Grain::Global);
  return {before, b.write(0, Bench::kIova)};
}

// What came before the page that faults has moved.
Seen transfer_stops_at_a_fault(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(2));
  b.attach(0, table);
  b.start_write(0, Bench::kIova + perdure::kPageSize - 8, 16);
  b.finish(0);
  return {yes_if(b.load(b.target(2) + perdure::kPageSize - 8) == b.stamp(0)),
          b.fault_of(0, Bench::kIova + perdure::kPageSize, false)};
}

// In between the unit need not look at tables, so nothing but a flush of contexts brings it back.
Seen pass_through_and_back(Bench& b) {
  b.start(Mode::Legacy);
  b.attach(0, {0, b.widest()}, Bench::kDid, kPresent | kPassThrough);
  const Observation through = b.write(0, b.target(1));
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(0));
  b.store(b.context_at(0), 0);
  b.attach(0, table, Bench::kOtherDid);
  b.flush_context(Grain::Fine, Bench::kDid, b.source(0));
  b.flush_iotlb(Grain::Domain, Bench::kDid);
  return {through, b.write(0, Bench::kIova), b.write(0, b.target(1))};
}

constexpr Seen kThroughLevels{lands(0), lands(1), lands(0)};

constexpr Behaviour kList[] = {
    {"legacy.page_through_3_levels", "§3.1, §3.3", kLevels3, Software::Right, page_through_levels<3>, kThroughLevels},
    {"legacy.page_through_4_levels", "§3.1, §3.3", kLevels4, Software::Right, page_through_levels<4>, kThroughLevels},
    {"legacy.page_through_5_levels", "§3.1, §3.3", kLevels5, Software::Right, page_through_levels<5>, kThroughLevels},
    {"legacy.reads_go_where_writes_go",
     "§3.3",
     kNothing,
     Software::Right,
     reads_go_where_writes_go,
     {lands(0), lands(0), lands(0)}},
    {"legacy.page_of_2m", "§3.3", kHugePages, Software::Right, large_page<2>, {lands(2), lands(3)}},
    {"legacy.page_of_1g", "§3.3", kGiantPages, Software::Right, large_page<3>, {lands(2), lands(3)}},
    {"legacy.transfer_across_pages", "§3.3", kNothing, Software::Right, transfer_across_pages, {yes(), yes()}},
    {"legacy.pass_through", "§3.1 TT", kPassesThrough, Software::Right, pass_through, {lands(1), lands(2)}},
    {"legacy.transfer_stops_at_a_fault",
     "§3.3, §7",
     kNothing,
     Software::Right,
     transfer_stops_at_a_fault,
     {yes(), faults(reason::kNoWrite)}},
    {"legacy.pass_through_and_back",
     "§6",
     kPassesThrough,
     Software::Right,
     pass_through_and_back,
     {lands(1), lands(0), faults(reason::kNoWrite)}},
    {"legacy.requesters_have_tables_of_their_own",
     "§3.1, §4",
     kNothing,
     Software::Right,
     requesters_have_tables_of_their_own,
     {lands(0), lands(1), lands(0)}},
    {"legacy.requesters_share_a_domain",
     "§4",
     kNothing,
     Software::Right,
     requesters_share_a_domain,
     {lands(0), lands(0)}},
    {"legacy.one_blocked_other_works",
     "§3.1",
     kNothing,
     Software::Right,
     one_blocked_other_works,
     {faults(reason::kContextNotPresent), lands(0)}},
    {"legacy.devfn_above_0x80", "§3.1", kThreeRequesters, Software::Right, devfn_above_0x80, {lands(0)}},
    {"legacy.software_bits_are_ignored",
     "§3.1, §3.3",
     kNothing,
     Software::Right,
     software_bits_are_ignored,
     {lands(0)}},
    {"legacy.largest_domain_id", "§4", kNothing, Software::Right, largest_domain_id, {lands(0), lands(1)}},
    {"legacy.snoop_bit_of_a_leaf", "§3.3 SNP", kSnoops, Software::Right, snoop_bit_of_a_leaf, {lands(0)}},
    {"legacy.read_only", "§3.3, §7", kNothing, Software::Right, read_only, {faults(reason::kNoWrite), lands(0)}},
    {"legacy.write_only", "§3.3, §7", kNothing, Software::Right, write_only, {faults(reason::kNoRead), lands(0)}},
    {"legacy.upper_level_withholds_write",
     "§3.3",
     kNothing,
     Software::Right,
     upper_level_withholds_write,
     {faults(reason::kNoWrite)}},
    {"legacy.upper_level_withholds_write_from_what_is_cached",
     "§3.3",
     kNothing,
     Software::Right,
     upper_level_withholds_write_from_what_is_cached,
     {lands(0), faults(reason::kNoWrite)}},
    {"legacy.upper_level_withholds_read",
     "§3.3",
     kNothing,
     Software::Right,
     upper_level_withholds_read,
     {faults(reason::kNoRead)}},
    {"legacy.stores_show_once_written_back",
     "§2 ECAP.C",
     kNotCoherent,
     Software::Right,
     stores_show_once_written_back,
     {lands(0), lands(1)},
     {{lands(1), lands(1)}, "walks always see the CPU's stores: a forgotten CLFLUSH never shows"}},
};

}  // namespace

std::span<const Behaviour> legacy_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
