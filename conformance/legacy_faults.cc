// Faults of legacy tables, each with its reason (hardware.md §7); that requester, page and direction in the record are
// the request's is part of every observation.
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

constexpr u64 kBeyondMemory = u64{1} << 51;  // no host is that wide

// DMA of one requester after `spoil` has changed tables that were right.
template <class Spoil>
Seen spoiled(Bench& b, Spoil spoil, bool reads = false) {
  b.start(Mode::Legacy);
  const Table table = b.simple();
  spoil(table);
  return {reads ? b.read(0, Bench::kIova) : b.write(0, Bench::kIova)};
}

Seen root_not_present(Bench& b) {
  b.start(Mode::Legacy);
  return {b.write(0, Bench::kIova), b.read(1, Bench::kOther)};
}

Seen context_not_present(Bench& b) {
  b.start(Mode::Legacy);
  b.context_at(0);
  return {b.write(0, Bench::kIova), b.read(1, Bench::kOther)};
}

Seen root_unreadable(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  b.set_root(b.nothing());
  b.flush_all();
  return {b.write(0, Bench::kIova)};
}

Seen root_reserved(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.root_entry_at(0);
    b.store(at, b.load(at) | 0x10);
  });
}

Seen root_reserved_high(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.root_entry_at(0) + 8, 1); });
}

Seen context_unreadable(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.root_entry_at(0), b.nothing() | kPresent); });
}

Seen context_reserved_low(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.context_at(0);
    b.store(at, b.load(at) | 0x20);
  });
}

Seen context_reserved_high(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.context_at(0) + 8;
    b.store(at, b.load(at) | bit(24));
  });
}

Seen domain_id_too_wide(Bench& b) {
  return spoiled(b, [&](const Table& t) { b.attach(0, t, static_cast<u16>(u64{1} << (4 + 2 * (b.cap() & 7)))); });
}

Seen context_translation_type_3(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.context_at(0);
    b.store(at, b.load(at) | 3 << 2);
  });
}

Seen context_device_tlb_unsupported(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.context_at(0);
    b.store(at, b.load(at) | 1 << 2);
  });
}

Seen context_width_unsupported(Bench& b) {
  return spoiled(b, [&](const Table&) {
    u64 width = 1;
    while ((b.cap() >> 8 & bit(static_cast<unsigned>(width))) != 0) ++width;
    const u64 at = b.context_at(0) + 8;
    b.store(at, (b.load(at) & ~u64{7}) | width);
  });
}

Seen context_width_unassigned(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.context_at(0) + 8;
    b.store(at, b.load(at) | 7);
  });
}

Seen beyond_the_unit(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  return {b.write(0, Bench::kIova | u64{1} << b.mgaw())};
}

Seen beyond_the_table(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.table(3);
  b.map(table, Bench::kIova, b.target(0));
  b.attach(0, table);
  return {b.write(0, Bench::kIova | bit(39)), b.write(0, Bench::kIova)};
}

Seen leaf_not_present(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  return {b.write(0, Bench::kIova + perdure::kPageSize), b.read(0, Bench::kIova + 2 * perdure::kPageSize)};
}

Seen table_not_present(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  return {b.write(0, Bench::kIova + (u64{8} << 30)), b.read(0, Bench::kIova + (u64{8} << 30))};
}

Seen table_unreadable(Bench& b) {
  return spoiled(b, [&](const Table& t) { b.store(b.entry_at(t, Bench::kIova, 2), b.nothing() | kReadWrite); });
}

// The context entry's own pointer: its programming is at fault.
Seen top_unreadable(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.context_at(0), b.nothing() | kPresent); });
}

Seen leaf_snoop_unsupported(Bench& b) {
  return spoiled(b, [&](const Table& t) { b.map(t, Bench::kIova, b.target(0), kReadWrite | kSnoop); });
}

Seen leaf_beyond_memory(Bench& b) {
  return spoiled(b, [&](const Table& t) { b.map(t, Bench::kIova, kBeyondMemory); });
}

Seen leaf_reserved_is_for_reads_too(Bench& b) {
  return spoiled(b, [&](const Table& t) { b.map(t, Bench::kIova, kBeyondMemory); }, true);
}

Seen table_beyond_memory(Bench& b) {
  return spoiled(b, [&](const Table& t) {
    const u64 at = b.entry_at(t, Bench::kIova, 2);
    b.store(at, b.load(at) | kBeyondMemory);
  });
}

Seen large_page_misaligned(Bench& b) {
  return spoiled(b, [&](const Table& t) {
    b.store(b.entry_at(t, Bench::kIova, 2), (b.target(0) & ~u64{0x1F'FFFF}) | 0x1000 | kReadWrite | kPageSize);
  });
}

Seen page_size_in_level_4(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.table(4);
  b.map(table, Bench::kIova, b.target(0));
  b.attach(0, table);
  const u64 at = b.entry_at(table, Bench::kIova, 4);
  b.store(at, b.load(at) | kPageSize);
  return {b.write(0, Bench::kIova)};
}

Seen page_size_in_level_1(Bench& b) {
  return spoiled(b, [&](const Table& t) { b.map(t, Bench::kIova, b.target(0), kReadWrite | kPageSize); });
}

Seen large_page_unsupported(Bench& b) {
  return spoiled(b, [&](const Table& t) {
    b.store(b.entry_at(t, Bench::kIova, 2), (b.target(0) & ~u64{0x1F'FFFF}) | kReadWrite | kPageSize);
  });
}

Seen into_the_interrupt_window(Bench& b) {
  return spoiled(b, [&](const Table& t) { b.map(t, Bench::kIova, 0xFEE0'0000); });
}

// FPD: what is qualified is not recorded; the request is blocked all the same.
Seen silenced_permission(Bench& b) {
  return spoiled(b, [&](const Table& t) {
    b.map(t, Bench::kIova, b.target(0), kRead);
    b.attach(0, t, Bench::kDid, kPresent | kSilent);
  });
}

Seen silenced_context_not_present(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.context_at(0), kSilent); });
}

Seen silence_is_the_requesters_own(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(0), kRead);
  b.attach(0, table, Bench::kDid, kPresent | kSilent);
  const Table other = b.table();
  b.map(other, Bench::kIova, b.target(0), kRead);
  b.attach(1, other, Bench::kOtherDid);
  return {b.write(0, Bench::kIova), b.write(1, Bench::kIova)};
}

Seen root_fault_is_never_silent(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.root_entry_at(0), kSilent); });
}

Seen works_again_after_a_fault(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.simple();
  const Observation blocked = b.write(0, Bench::kOther);
  b.map(table, Bench::kOther, b.target(1));
  b.flush_iotlb(Grain::Domain, Bench::kDid);
  b.flush_iotlb(Grain::Domain, 0);  // what is not present may be remembered under no domain (caching mode)
  return {blocked, b.write(0, Bench::kOther), b.write(0, Bench::kIova)};
}

using reason::kContextInvalid;
using reason::kContextReserved;
using reason::kRootReserved;
using reason::kTableReserved;
using reason::kTableUnreadable;

constexpr Behaviour kList[] = {
    {"legacy.root_not_present",
     "§7: 1",
     kNothing,
     Software::Right,
     root_not_present,
     {faults(reason::kRootNotPresent), faults(reason::kRootNotPresent)}},
    {"legacy.context_not_present",
     "§7: 2",
     kNothing,
     Software::Right,
     context_not_present,
     {faults(reason::kContextNotPresent), faults(reason::kContextNotPresent)}},
    {"legacy.root_unreadable", "§7: 8", kNothing, Software::Wrong, root_unreadable, {faults(reason::kRootUnreadable)}},
    {"legacy.root_reserved_bit", "§7: A", kNothing, Software::Wrong, root_reserved, {faults(kRootReserved)}},
    {"legacy.root_reserved_second_word",
     "§7: A",
     kNothing,
     Software::Wrong,
     root_reserved_high,
     {faults(kRootReserved)}},
    {"legacy.context_unreadable",
     "§7: 9",
     kNothing,
     Software::Wrong,
     context_unreadable,
     {faults(reason::kContextUnreadable)}},
    {"legacy.context_reserved_bit",
     "§7: B",
     kNothing,
     Software::Wrong,
     context_reserved_low,
     {faults(kContextReserved)}},
    {"legacy.context_reserved_second_word",
     "§7: B",
     kNothing,
     Software::Wrong,
     context_reserved_high,
     {faults(kContextReserved)}},
    {"legacy.domain_id_too_wide",
     "§4",
     kNarrowDomains,
     Software::Wrong,
     domain_id_too_wide,
     {faults(kContextReserved)}},
    {"legacy.translation_type_reserved",
     "§7: 3",
     kNothing,
     Software::Wrong,
     context_translation_type_3,
     {faults(kContextInvalid)}},
    {"legacy.translation_type_unsupported",
     "§7: 3",
     kNoDeviceTlb,
     Software::Wrong,
     context_device_tlb_unsupported,
     {faults(kContextInvalid)}},
    {"legacy.width_unsupported",
     "§7: 3",
     kNotAllLevels,
     Software::Wrong,
     context_width_unsupported,
     {faults(kContextInvalid)}},
    {"legacy.width_unassigned",
     "§7: 3",
     kNothing,
     Software::Wrong,
     context_width_unassigned,
     {faults(kContextInvalid)}},
    {"legacy.address_beyond_the_unit",
     "§7: 4",
     kNothing,
     Software::Right,
     beyond_the_unit,
     {faults(reason::kBeyondWidth)}},
    {"legacy.address_beyond_the_table",
     "§7: 4",
     kNarrowTables,
     Software::Right,
     beyond_the_table,
     {faults(reason::kBeyondWidth), lands(0)}},
    {"legacy.leaf_not_present",
     "§7: 5, 6",
     kNothing,
     Software::Right,
     leaf_not_present,
     {faults(reason::kNoWrite), faults(reason::kNoRead)}},
    {"legacy.table_not_present",
     "§7: 5, 6",
     kNothing,
     Software::Right,
     table_not_present,
     {faults(reason::kNoWrite), faults(reason::kNoRead)}},
    {"legacy.table_unreadable", "§7: 7", kNothing, Software::Wrong, table_unreadable, {faults(kTableUnreadable)}},
    {"legacy.top_unreadable", "§7: 3", kNothing, Software::Wrong, top_unreadable, {faults(kContextInvalid)}},
    {"legacy.snoop_without_support",
     "§7: C, §3.3 SNP",
     kCannotSnoop | kLegacyOnly,
     Software::Wrong,
     leaf_snoop_unsupported,
     {faults(kTableReserved)}},
    {"legacy.leaf_beyond_memory", "§7: C", kNothing, Software::Wrong, leaf_beyond_memory, {faults(kTableReserved)}},
    {"legacy.leaf_reserved_blocks_reads",
     "§7: C",
     kNothing,
     Software::Wrong,
     leaf_reserved_is_for_reads_too,
     {faults(kTableReserved)}},
    {"legacy.table_beyond_memory", "§7: C", kNothing, Software::Wrong, table_beyond_memory, {faults(kTableReserved)}},
    {"legacy.large_page_misaligned",
     "§3.3 PS",
     kHugePages,
     Software::Wrong,
     large_page_misaligned,
     {faults(kTableReserved)}},
    {"legacy.page_size_in_level_4",
     "§3.3 PS",
     kLevels4,
     Software::Wrong,
     page_size_in_level_4,
     {faults(kTableReserved)}},
    {"legacy.page_size_in_level_1",
     "§3.3 PS",
     kNothing,
     Software::Wrong,
     page_size_in_level_1,
     {faults(kTableReserved)},
     {{lands(0)}, "bit 7 of a 4 KiB leaf is ignored"}},
    {"legacy.large_page_unsupported",
     "§2 SSLPS",
     kNoHugePages,
     Software::Wrong,
     large_page_unsupported,
     {faults(kTableReserved)}},
    {"legacy.into_the_interrupt_window",
     "§7: E",
     kLegacyOnly,
     Software::Right,
     into_the_interrupt_window,
     {faults(reason::kIntoInterrupts)}},
    {"legacy.into_the_interrupt_window_of_a_scalable_unit",
     "§7: E",
     kScalable,
     Software::Right,
     into_the_interrupt_window,
     {faults(reason::kIntoInterrupts)},
     {{faults(reason::kScalableIntoInterrupts)},
      "the reason is that of what the unit could do, not of its tables",
      true}},
    {"legacy.silenced_permission", "§7 FPD", kNothing, Software::Right, silenced_permission, {lost()}},
    {"legacy.silenced_context_not_present",
     "§7 FPD",
     kNothing,
     Software::Right,
     silenced_context_not_present,
     {lost()}},
    {"legacy.silence_is_the_requesters_own",
     "§7 FPD",
     kNothing,
     Software::Right,
     silence_is_the_requesters_own,
     {lost(), faults(reason::kNoWrite)}},
    {"legacy.root_fault_is_never_silent",
     "§7 FPD",
     kNothing,
     Software::Right,
     root_fault_is_never_silent,
     {faults(reason::kRootNotPresent)}},
    {"legacy.works_again_after_a_fault",
     "§7",
     kNothing,
     Software::Right,
     works_again_after_a_fault,
     {faults(reason::kNoWrite), lands(1), lands(0)}},
};

}  // namespace

std::span<const Behaviour> legacy_fault_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
