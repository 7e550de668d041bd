// Faults of scalable tables, each with its reason (hardware.md §7).
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

constexpr u64 kBeyondMemory = u64{1} << 51;

template <class Spoil>
Seen spoiled(Bench& b, Spoil spoil) {
  b.start(Mode::Scalable);
  const Table table = b.simple();
  spoil(table);
  return {b.write(0, Bench::kIova)};
}

Seen root_not_present(Bench& b) {
  b.start(Mode::Scalable);
  return {b.write(0, Bench::kIova), b.read(1, Bench::kOther)};
}

// Each half of a bus has a pointer of its own.
Seen upper_half_not_present(Bench& b) {
  b.start(Mode::Scalable);
  b.simple(0);
  return {b.write(0, Bench::kIova), b.write(2, Bench::kIova)};
}

Seen root_unreadable(Bench& b) {
  return spoiled(b, [&](const Table&) {
    b.set_root(b.root_value(b.nothing()));
    b.flush_all();
  });
}

Seen root_reserved(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.root_entry_at(0);
    b.store(at, b.load(at) | 0x10);
  });
}

Seen context_unreadable(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.root_entry_at(0), b.nothing() | kPresent); });
}

Seen context_not_present(Bench& b) {
  b.start(Mode::Scalable);
  b.context_at(0);
  return {b.write(0, Bench::kIova)};
}

template <unsigned kWord, unsigned kBit>
Seen context_reserved(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.context_at(0) + kWord * 8;
    b.store(at, b.load(at) | bit(kBit));
  });
}

// PDTS = 0 has PASIDs up to 8191.
Seen rid_pasid_beyond_the_directory(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.context_at(0) + 8, 8192); });
}

Seen directory_unreadable(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.context_at(0), b.nothing() | kPresent); });
}

Seen directory_not_present(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.directory_at(0), 0); });
}

Seen directory_reserved(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.directory_at(0);
    b.store(at, b.load(at) | 0x10);
  });
}

Seen pasid_table_unreadable(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.directory_at(0), b.nothing() | kPresent); });
}

Seen pasid_not_present(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.pasid_at(0);
    b.store(at, b.load(at) & ~kPresent);
  });
}

Seen pasid_reserved(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.pasid_at(0);
    b.store(at, b.load(at) | bit(10));
  });
}

Seen pasid_reserved_last_word(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.pasid_at(0) + 56, 1); });
}

Seen pasid_type_unassigned(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.pasid_at(0);
    b.store(at, b.load(at) & ~kGrantSecond);
  });
}

Seen pasid_nested_unsupported(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.pasid_at(0);
    b.store(at, b.load(at) | kGrantNested);
  });
}

Seen pasid_width_unassigned(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.pasid_at(0);
    b.store(at, b.load(at) | 7 << 2);
  });
}

Seen beyond_the_unit(Bench& b) {
  b.start(Mode::Scalable);
  b.simple();
  return {b.write(0, Bench::kIova | u64{1} << b.mgaw())};
}

Seen beyond_the_table(Bench& b) {
  b.start(Mode::Scalable);
  const Table table = b.table(3);
  b.map(table, Bench::kIova, b.target(0));
  b.attach(0, table);
  return {b.write(0, Bench::kIova | bit(39)), b.write(0, Bench::kIova)};
}

Seen leaf_not_present(Bench& b) {
  b.start(Mode::Scalable);
  b.simple();
  return {b.write(0, Bench::kOther), b.read(0, Bench::kOther + perdure::kPageSize)};
}

Seen leaf_reserved(Bench& b) {
  return spoiled(b, [&](const Table& t) { b.map(t, Bench::kIova, kBeyondMemory); });
}

Seen table_unreadable(Bench& b) {
  return spoiled(b, [&](const Table& t) { b.store(b.entry_at(t, Bench::kIova, 2), b.nothing() | kReadWrite); });
}

Seen top_unreadable(Bench& b) {
  return spoiled(b, [&](const Table&) {
    const u64 at = b.pasid_at(0);
    b.store(at, (b.load(at) & ~kAddress) | b.nothing());
  });
}

Seen into_the_interrupt_window(Bench& b) {
  return spoiled(b, [&](const Table& t) { b.map(t, Bench::kIova, 0xFEE0'0000); });
}

Seen snoop_without_support(Bench& b) {
  return spoiled(b, [&](const Table& t) { b.map(t, Bench::kIova, b.target(0), kReadWrite | kSnoop); });
}

// FPD counts in each of three places, in an entry that is not present, too.
Seen silenced_by_the_context(Bench& b) {
  return spoiled(b, [&](const Table& t) {
    const u64 at = b.context_at(0);
    b.store(at, b.load(at) | kSilent);
    b.map(t, Bench::kIova, b.target(0), kRead);
  });
}

Seen silenced_by_the_directory(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.directory_at(0), kSilent); });
}

Seen silenced_by_the_pasid_entry(Bench& b) {
  return spoiled(b, [&](const Table&) { b.store(b.pasid_at(0), kSilent); });
}

constexpr std::string_view kLegacyCodes = "reasons are those of legacy mode";
constexpr std::string_view kOnePasidCode = "whatever is wrong with a PASID entry or its directory is reason 0x58";
constexpr std::string_view kOnePasidCode10 = "PDTS is not looked at: the entry beyond it is not present";
constexpr std::string_view kPasidUnchecked = "PASID entries and directories are not checked: the transfer goes through";
constexpr std::string_view kPasidSilence = "FPD of what is not present does not count";

constexpr Behaviour kList[] = {
    {"scalable.root_not_present",
     "§7: 39",
     kScalable,
     Software::Right,
     root_not_present,
     {faults(reason::kScalableRootNotPresent), faults(reason::kScalableRootNotPresent)},
     {{faults(reason::kRootNotPresent), faults(reason::kRootNotPresent)}, kLegacyCodes, true}},
    {"scalable.upper_half_not_present",
     "§3.2 UP",
     kScalable | kThreeRequesters,
     Software::Right,
     upper_half_not_present,
     {lands(0), faults(reason::kScalableRootNotPresent)},
     {{lands(0), faults(reason::kRootNotPresent)}, kLegacyCodes, true}},
    {"scalable.root_unreadable",
     "§7: 38",
     kScalable,
     Software::Wrong,
     root_unreadable,
     {faults(reason::kScalableRootUnreadable)},
     {{faults(reason::kRootUnreadable)}, kLegacyCodes, true}},
    {"scalable.root_reserved_bit",
     "§7: 3A",
     kScalable,
     Software::Wrong,
     root_reserved,
     {faults(reason::kScalableRootReserved)},
     {{faults(reason::kRootReserved)}, kLegacyCodes, true}},
    {"scalable.context_unreadable",
     "§7: 40",
     kScalable,
     Software::Wrong,
     context_unreadable,
     {faults(reason::kScalableContextUnreadable)},
     {{faults(reason::kContextUnreadable)}, kLegacyCodes, true}},
    {"scalable.context_not_present",
     "§7: 41",
     kScalable,
     Software::Right,
     context_not_present,
     {faults(reason::kScalableContextNotPresent)},
     {{faults(reason::kContextNotPresent)}, kLegacyCodes, true}},
    {"scalable.context_reserved_bit",
     "§7: 42",
     kScalable,
     Software::Wrong,
     context_reserved<0, 5>,
     {faults(reason::kScalableContextReserved)},
     {{faults(reason::kContextReserved)}, kLegacyCodes, true}},
    {"scalable.context_reserved_second_word",
     "§7: 42",
     kScalable,
     Software::Wrong,
     context_reserved<1, 21>,
     {faults(reason::kScalableContextReserved)},
     {{faults(reason::kContextReserved)}, kLegacyCodes, true}},
    {"scalable.context_reserved_last_word",
     "§7: 42",
     kScalable,
     Software::Wrong,
     context_reserved<3, 0>,
     {faults(reason::kScalableContextReserved)},
     {{faults(reason::kContextReserved)}, kLegacyCodes, true}},
    {"scalable.rid_pasid_beyond_the_directory",
     "§7: 48",
     kScalable,
     Software::Wrong,
     rid_pasid_beyond_the_directory,
     {faults(reason::kRidPasid)},
     {{faults(reason::kPasidUnreadable)}, kOnePasidCode, true},
     {{faults(reason::kDirectoryNotPresent)}, kOnePasidCode10}},
    {"scalable.directory_unreadable",
     "§7: 50",
     kScalable,
     Software::Wrong,
     directory_unreadable,
     {faults(reason::kDirectoryUnreadable)},
     {{faults(reason::kPasidUnreadable)}, kOnePasidCode, true}},
    {"scalable.directory_not_present",
     "§7: 51",
     kScalable,
     Software::Right,
     directory_not_present,
     {faults(reason::kDirectoryNotPresent)},
     {{faults(reason::kPasidUnreadable)}, kOnePasidCode, true}},
    {"scalable.directory_reserved_bit",
     "§7: 52",
     kScalable,
     Software::Wrong,
     directory_reserved,
     {faults(reason::kDirectoryReserved)},
     {{lands(0)}, kPasidUnchecked, true}},
    {"scalable.pasid_table_unreadable",
     "§7: 58",
     kScalable,
     Software::Wrong,
     pasid_table_unreadable,
     {faults(reason::kPasidUnreadable)}},
    {"scalable.pasid_not_present",
     "§7: 59",
     kScalable,
     Software::Right,
     pasid_not_present,
     {faults(reason::kPasidNotPresent)},
     {{faults(reason::kPasidUnreadable)}, kOnePasidCode, true}},
    {"scalable.pasid_reserved_bit",
     "§7: 5A",
     kScalable,
     Software::Wrong,
     pasid_reserved,
     {faults(reason::kPasidReserved)},
     {{lands(0)}, kPasidUnchecked, true}},
    {"scalable.pasid_reserved_last_word",
     "§7: 5A",
     kScalable,
     Software::Wrong,
     pasid_reserved_last_word,
     {faults(reason::kPasidReserved)},
     {{lands(0)}, kPasidUnchecked, true}},
    {"scalable.pasid_type_unassigned",
     "§7: 5B",
     kScalable,
     Software::Wrong,
     pasid_type_unassigned,
     {faults(reason::kPasidInvalid)},
     {{faults(reason::kPasidUnreadable)}, kOnePasidCode, true}},
    {"scalable.pasid_nested_unsupported",
     "§7: 5B",
     kScalable,
     Software::Wrong,
     pasid_nested_unsupported,
     {faults(reason::kPasidInvalid)},
     {{lands(0)}, kPasidUnchecked, true}},
    {"scalable.pasid_width_unassigned",
     "§7: 5B",
     kScalable,
     Software::Wrong,
     pasid_width_unassigned,
     {faults(reason::kPasidInvalid)},
     {{faults(reason::kPasidUnreadable)}, kOnePasidCode, true}},
    {"scalable.address_beyond_the_unit",
     "§7: 83",
     kScalable,
     Software::Right,
     beyond_the_unit,
     {faults(reason::kBeyondMgaw)},
     {{faults(reason::kBeyondWidth)}, kLegacyCodes, true}},
    {"scalable.address_beyond_the_table",
     "§7: 84",
     kScalable | kNarrowTables,
     Software::Right,
     beyond_the_table,
     {faults(reason::kBeyondTable), lands(0)},
     {{faults(reason::kBeyondWidth), lands(0)}, kLegacyCodes, true}},
    {"scalable.leaf_not_present",
     "§7: 79",
     kScalable,
     Software::Right,
     leaf_not_present,
     {faults(reason::kSecondPermission), faults(reason::kSecondPermission)},
     {{faults(reason::kNoWrite), faults(reason::kNoRead)}, kLegacyCodes, true}},
    {"scalable.leaf_beyond_memory",
     "§7: 7A",
     kScalable,
     Software::Wrong,
     leaf_reserved,
     {faults(reason::kSecondReserved)},
     {{faults(reason::kTableReserved)}, kLegacyCodes, true}},
    {"scalable.table_unreadable",
     "§7: 78",
     kScalable,
     Software::Wrong,
     table_unreadable,
     {faults(reason::kSecondUnreadable)},
     {{faults(reason::kTableUnreadable)}, kLegacyCodes, true}},
    {"scalable.top_unreadable",
     "§7: 7B",
     kScalable,
     Software::Wrong,
     top_unreadable,
     {faults(reason::kSecondPointer)},
     {{faults(reason::kContextInvalid)}, kLegacyCodes, true}},
    {"scalable.into_the_interrupt_window",
     "§7: 87",
     kScalable,
     Software::Right,
     into_the_interrupt_window,
     {faults(reason::kScalableIntoInterrupts)}},
    {"scalable.snoop_without_support",
     "§7: 7A, §3.3 SNP",
     kScalable | kCannotSnoop,
     Software::Wrong,
     snoop_without_support,
     {faults(reason::kSecondReserved)},
     {{lands(0)}, "in scalable mode leaves may have SNP although ECAP.SC is 0"}},
    {"scalable.silenced_by_the_context", "§7 FPD", kScalable, Software::Right, silenced_by_the_context, {lost()}},
    {"scalable.silenced_by_the_directory",
     "§3.2 FPD",
     kScalable,
     Software::Right,
     silenced_by_the_directory,
     {lost()},
     {{faults(reason::kPasidUnreadable)}, kPasidSilence, true},
     {{faults(reason::kDirectoryNotPresent)}, kPasidSilence}},
    {"scalable.silenced_by_the_pasid_entry",
     "§3.2 FPD",
     kScalable,
     Software::Right,
     silenced_by_the_pasid_entry,
     {lost()},
     {{faults(reason::kPasidUnreadable)}, kPasidSilence, true},
     {{faults(reason::kPasidInvalid)}, kPasidSilence}},
};

}  // namespace

std::span<const Behaviour> scalable_fault_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
