// Flushes of translations, by each way there is to ask for them, and what they make visible (hardware.md §6).
#include "conformance/flush_paths.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

template <Mode M, Path P>
Seen leaf_stays_until_global(Bench& b) {
  remapped<M, P>(b);
  const Observation stale = b.write(0, Bench::kIova);
  b.flush_iotlb(Grain::Global);
  return {stale, b.write(0, Bench::kIova)};
}

template <Mode M, Path P>
Seen leaf_stays_until_domain(Bench& b) {
  remapped<M, P>(b);
  const Observation stale = b.write(0, Bench::kIova);
  b.flush_iotlb(Grain::Domain, Bench::kDid);
  return {stale, b.write(0, Bench::kIova)};
}

template <Mode M, Path P>
Seen leaf_stays_until_page(Bench& b) {
  remapped<M, P>(b);
  const Observation stale = b.write(0, Bench::kIova);
  b.flush_iotlb(Grain::Fine, Bench::kDid, Bench::kIova);
  return {stale, b.write(0, Bench::kIova)};
}

template <Mode M, Path P>
Seen leaves_only_suffices_for_a_leaf(Bench& b) {
  remapped<M, P>(b);
  b.flush_iotlb(Grain::Fine, Bench::kDid, Bench::kIova, 0, true);
  return {b.write(0, Bench::kIova)};
}

template <Mode M, Path P>
Seen domain_flush_of_another_domain(Bench& b) {
  remapped<M, P>(b);
  b.flush_iotlb(Grain::Domain, Bench::kOtherDid);
  return {b.write(0, Bench::kIova)};
}

template <Mode M, Path P>
Seen page_flush_of_another_domain(Bench& b) {
  remapped<M, P>(b);
  b.flush_iotlb(Grain::Fine, Bench::kOtherDid, Bench::kIova);
  return {b.write(0, Bench::kIova)};
}

template <Mode M, Path P>
Seen page_flush_of_another_page(Bench& b) {
  remapped<M, P>(b);
  b.flush_iotlb(Grain::Fine, Bench::kDid, Bench::kOther);
  return {b.write(0, Bench::kIova)};
}

template <Mode M, Path P>
Seen page_flush_of_a_page_alike(Bench& b) {
  remapped<M, P>(b);
  b.flush_iotlb(Grain::Fine, Bench::kDid, Bench::kSameLow8);
  return {b.write(0, Bench::kIova)};
}

// 2^order pages, aligned: the first and the last of them, and the ones next to them.
template <Mode M, Path P>
Seen page_flush_of_a_range(Bench& b) {
  start(b, M, P);
  const Table table = b.table();
  constexpr u64 kFirst = 0x9000'4000;  // 4 pages
  constexpr u64 kPages[] = {kFirst - 0x1000, kFirst, kFirst + 0x3000, kFirst + 0x4000};
  for (u64 iova : kPages) b.map(table, iova, b.target(0));
  b.attach(0, table);
  for (u64 iova : kPages) b.require(b.write(0, iova) == lands(0), "DMA through the table");
  for (u64 iova : kPages) b.map(table, iova, b.target(1));
  b.flush_iotlb(Grain::Fine, Bench::kDid, kFirst, 2);
  return {b.write(0, kPages[0]), b.write(0, kPages[1]), b.write(0, kPages[2]), b.write(0, kPages[3])};
}

template <Mode M, Path P>
Seen page_flush_inside_a_large_page(Bench& b) {
  start(b, M, P);
  const Table table = b.table();
  constexpr u64 kLarge = u64{1} << 31;
  const u64 base = b.target(0) & ~u64{0x1F'FFFF};
  const u64 iova = kLarge + (b.target(0) - base);
  b.store(b.entry_at(table, kLarge, 2), base | kReadWrite | kPageSize);
  b.attach(0, table);
  const Observation first = b.write(0, iova);
  // A table of small pages instead.
  const u64 pages = b.pages();
  const Table small{pages, 1};
  for (u64 i = 0; i < 512; ++i) b.store(pages + i * 8, (base + i * perdure::kPageSize) | kReadWrite);
  b.store(b.entry_at(small, iova), b.target(1) | kReadWrite);
  b.store(b.entry_at(table, kLarge, 2), pages | kReadWrite);
  b.flush_iotlb(Grain::Fine, Bench::kDid, iova);
  return {first, b.write(0, iova)};
}

template <Mode M, Path P>
Seen page_flush_of_2m_worth(Bench& b) {
  start(b, M, P);
  const Table table = b.table();
  constexpr u64 kRange = 0x9020'0000;
  constexpr u64 kIovas[] = {kRange, kRange + 0x10'1000, kRange + 0x1F'F000};
  for (u64 iova : kIovas) b.map(table, iova, b.target(0));
  b.attach(0, table);
  for (u64 iova : kIovas) b.require(b.write(0, iova) == lands(0), "DMA through the table");
  for (u64 iova : kIovas) b.map(table, iova, b.target(1));
  b.flush_iotlb(Grain::Fine, Bench::kDid, kRange, 9);
  return {b.write(0, kIovas[0]), b.write(0, kIovas[1]), b.write(0, kIovas[2])};
}

template <Mode M, Path P>
Seen unmapped_page_stays_until_flush(Bench& b) {
  start(b, M, P);
  const Table table = b.simple();
  const Observation mapped = b.write(0, Bench::kIova);
  b.store(b.entry_at(table, Bench::kIova), 0);
  const Observation stale = b.write(0, Bench::kIova);
  b.flush_iotlb(Grain::Fine, Bench::kDid, Bench::kIova);
  return {mapped, stale, b.write(0, Bench::kIova)};
}

// A permission that was withdrawn is withdrawn with the flush.
template <Mode M, Path P>
Seen withdrawn_permission(Bench& b) {
  start(b, M, P);
  const Table table = b.simple();
  b.map_mailbox(table);
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  b.map(table, Bench::kIova, b.target(0), kRead);
  b.flush_iotlb(Grain::Fine, Bench::kDid, Bench::kIova);
  return {b.write(0, Bench::kIova), b.read(0, Bench::kIova)};
}

template <Mode M, Path P>
Seen granted_permission(Bench& b) {
  start(b, M, P);
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(0), kRead);
  b.map_mailbox(table);
  b.attach(0, table);
  b.require(b.read(0, Bench::kIova) == lands(0), "DMA through the table");
  b.map(table, Bench::kIova, b.target(0));
  b.flush_iotlb(Grain::Fine, Bench::kDid, Bench::kIova);
  return {b.write(0, Bench::kIova)};
}

// A cached translation still knows what it permits.
template <Mode M, Path P>
Seen permission_of_a_cached_page(Bench& b) {
  start(b, M, P);
  const Table table = b.table();
  b.map(table, Bench::kIova, b.target(0), kRead);
  b.map_mailbox(table);
  b.attach(0, table);
  b.require(b.read(0, Bench::kIova) == lands(0), "DMA through the table");
  return {b.write(0, Bench::kIova)};
}

// Not present to present: at once without caching mode, after a flush with it.
template <Mode M, Path P>
Seen new_page_needs_no_flush(Bench& b) {
  start(b, M, P);
  const Table table = b.simple();
  const Observation blocked = b.write(0, Bench::kOther);
  b.map(table, Bench::kOther, b.target(2));
  if ((b.offers() & kWriteBuffers) != 0) b.command(kWriteBuffer, true);
  return {yes_if(blocked != lands(2)), b.write(0, Bench::kOther)};
}

template <Mode M, Path P>
Seen new_page_needs_a_flush(Bench& b) {
  start(b, M, P);
  const Table table = b.simple();
  const Observation blocked = b.write(0, Bench::kOther);
  b.map(table, Bench::kOther, b.target(2));
  const bool stale = b.write(0, Bench::kOther) != lands(2);
  b.flush_iotlb(Grain::Fine, Bench::kDid, Bench::kOther);
  return {yes_if(blocked != lands(2)), yes_if(stale), b.write(0, Bench::kOther)};
}

template <Mode M, Path P>
Seen new_requester_needs_no_flush(Bench& b) {
  start(b, M, P);
  const Observation blocked = b.write(0, Bench::kIova);
  b.simple();
  if ((b.offers() & kWriteBuffers) != 0) b.command(kWriteBuffer, true);
  return {yes_if(blocked != lands(0)), b.write(0, Bench::kIova)};
}

// What one requester of a domain has cached serves the others.
template <Mode M, Path P>
Seen domain_shares_translations(Bench& b) {
  start(b, M, P);
  const Table table = b.simple(0);
  b.attach(1, table);
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  b.map(table, Bench::kIova, b.target(1));
  const Observation stale = b.write(1, Bench::kIova);
  b.flush_iotlb(Grain::Fine, Bench::kDid, Bench::kIova);
  return {stale, b.write(0, Bench::kIova), b.write(1, Bench::kIova)};
}

// Two tables under one id: the second requester is served what the first one's table says.
template <Mode M, Path P>
Seen domain_id_of_two_tables(Bench& b) {
  start(b, M, P);
  b.simple(0);
  const Table second = b.table();
  b.map(second, Bench::kIova, b.target(1));
  b.attach(1, second, Bench::kDid);
  return {b.write(0, Bench::kIova), b.write(1, Bench::kIova)};
}

template <Mode M, Path P>
Seen domain_flush_spares_others(Bench& b) {
  start(b, M, P);
  const Table first = b.simple(0, Bench::kDid);
  const Table second = b.simple(1, Bench::kOtherDid);
  b.require(b.write(0, Bench::kIova) == lands(0) && b.write(1, Bench::kIova) == lands(0), "DMA through the tables");
  b.map(first, Bench::kIova, b.target(1));
  b.map(second, Bench::kIova, b.target(2));
  b.flush_iotlb(Grain::Domain, Bench::kDid);
  return {b.write(0, Bench::kIova), b.write(1, Bench::kIova)};
}

// Paging-structure caches: an entry above the leaf goes only with a flush that is not for leaves alone.
template <Mode M, Path P>
Seen table_page(Bench& b, bool leaves_only) {
  start(b, M, P);
  const Table table = b.simple();
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  const u64 page = b.pages();
  b.store(page + (Bench::kIova >> 12 & 0x1FF) * 8, b.target(1) | kReadWrite);
  b.store(b.entry_at(table, Bench::kIova, 2), page | kReadWrite);
  b.flush_iotlb(Grain::Fine, Bench::kDid, Bench::kIova, 0, leaves_only);
  return {b.write(0, Bench::kIova)};
}

template <Mode M, Path P>
Seen table_page_goes_with_a_full_flush(Bench& b) {
  return table_page<M, P>(b, false);
}

template <Mode M, Path P>
Seen table_page_stays_with_leaves_only(Bench& b) {
  return table_page<M, P>(b, true);
}

constexpr std::string_view kMask8 =
    "page numbers are compared in their low 8 bits: use others in tests of missed flushes, or they find nothing";
constexpr std::string_view kNotChecked =
    "a cached translation is not asked for its permission: the write is dropped and no fault recorded";
constexpr std::string_view kNoStructures =
    "nothing above leaves is cached: a flush for leaves only where tables were freed does not show";

// In scalable mode QEMU's reasons are those of legacy mode.
template <Mode M>
constexpr Deviation legacy_reasons(const Seen& seen) {
  if (M == Mode::Legacy) return {};
  return {seen, "reasons of second-stage faults are those of legacy mode", true};
}

// What does not depend on how a flush is asked for, nor on the tables.
template <Mode M, Path P>
constexpr Behaviour kAnyPath[] = {
    {{kPrefix<M, P>, "leaf_stays_until_a_global_flush"},
     "§6",
     kNeeded<M, P> | kKeeps,
     Software::Right,
     leaf_stays_until_global<M, P>,
     kOldThenNew},
    {{kPrefix<M, P>, "leaf_stays_until_a_domain_flush"},
     "§6",
     kNeeded<M, P> | kKeeps,
     Software::Right,
     leaf_stays_until_domain<M, P>,
     kOldThenNew},
    {{kPrefix<M, P>, "leaf_stays_until_a_page_flush"},
     "§6 PSI",
     kNeeded<M, P> | kKeeps,
     Software::Right,
     leaf_stays_until_page<M, P>,
     kOldThenNew},
    {{kPrefix<M, P>, "leaves_only_suffices_for_a_leaf"},
     "§5 IH",
     kNeeded<M, P>,
     Software::Right,
     leaves_only_suffices_for_a_leaf<M, P>,
     kNew},
    {{kPrefix<M, P>, "domain_flush_of_another_domain"},
     "§4",
     kNeeded<M, P> | kKeeps,
     Software::Right,
     domain_flush_of_another_domain<M, P>,
     kOld},
    {{kPrefix<M, P>, "page_flush_of_another_domain"},
     "§4",
     kNeeded<M, P> | kKeeps,
     Software::Right,
     page_flush_of_another_domain<M, P>,
     kOld},
    {{kPrefix<M, P>, "page_flush_of_another_page"},
     "§6 PSI",
     kNeeded<M, P> | kPageFlush | kKeeps,
     Software::Right,
     page_flush_of_another_page<M, P>,
     kOld},
    {{kPrefix<M, P>, "page_flush_of_a_page_alike"},
     "§6 PSI",
     kNeeded<M, P> | kPageFlush | kKeeps,
     Software::Right,
     page_flush_of_a_page_alike<M, P>,
     kOld,
     {kNew, kMask8, true}},
    {{kPrefix<M, P>, "page_flush_of_a_range"},
     "§5 AM",
     kNeeded<M, P> | kPageFlush | kKeeps,
     Software::Right,
     page_flush_of_a_range<M, P>,
     {lands(0), lands(1), lands(1), lands(0)}},
    {{kPrefix<M, P>, "page_flush_of_2m_worth"},
     "§5 AM",
     kNeeded<M, P>,
     Software::Right,
     page_flush_of_2m_worth<M, P>,
     {lands(1), lands(1), lands(1)}},
    {{kPrefix<M, P>, "page_flush_inside_a_large_page"},
     "§6",
     kNeeded<M, P> | kHugePages,
     Software::Right,
     page_flush_inside_a_large_page<M, P>,
     kOldThenNew},
    {{kPrefix<M, P>, "domain_shares_translations"},
     "§4",
     kNeeded<M, P> | kKeeps,
     Software::Right,
     domain_shares_translations<M, P>,
     {lands(0), lands(1), lands(1)},
     {{lands(1), lands(1), lands(1)}, kBySource}},
    {{kPrefix<M, P>, "domain_id_of_two_tables"},
     "§4",
     kNeeded<M, P> | kKeeps,
     Software::Wrong,
     domain_id_of_two_tables<M, P>,
     {lands(0), lands(0)},
     {{lands(0), lands(1)}, kBySource}},
    {{kPrefix<M, P>, "domain_flush_spares_others"},
     "§4",
     kNeeded<M, P> | kKeeps,
     Software::Right,
     domain_flush_spares_others<M, P>,
     {lands(1), lands(0)}},
    {{kPrefix<M, P>, "table_page_goes_with_a_full_flush"},
     "§5 IH",
     kNeeded<M, P>,
     Software::Right,
     table_page_goes_with_a_full_flush<M, P>,
     kNew},
    {{kPrefix<M, P>, "table_page_stays_with_leaves_only"},
     "§5 IH",
     kNeeded<M, P> | kPageFlush | kKeeps,
     Software::Right,
     table_page_stays_with_leaves_only<M, P>,
     kOld,
     {kNew, kNoStructures}},
    {{kPrefix<M, P>, "granted_permission"}, "§6", kNeeded<M, P>, Software::Right, granted_permission<M, P>, kOld},
    {{kPrefix<M, P>, "new_page_needs_no_flush"},
     "§6 CM = 0",
     kNeeded<M, P> | kNoCachingMode,
     Software::Right,
     new_page_needs_no_flush<M, P>,
     {yes(), lands(2)}},
    {{kPrefix<M, P>, "new_page_needs_a_flush"},
     "§6 CM = 1",
     kNeeded<M, P> | kCachingMode | kKeeps,
     Software::Right,
     new_page_needs_a_flush<M, P>,
     {yes(), yes(), lands(2)},
     {{yes(), no(), lands(2)}, kNoNotPresent}},
    {{kPrefix<M, P>, "new_requester_needs_no_flush"},
     "§6 CM = 0",
     kNeeded<M, P> | kNoCachingMode,
     Software::Right,
     new_requester_needs_no_flush<M, P>,
     {yes(), lands(0)}},
    {{kPrefix<M, P>, "unmapped_page_stays_until_flush"},
     "§6",
     kNeeded<M, P> | kKeeps,
     Software::Right,
     unmapped_page_stays_until_flush<M, P>,
     {lands(0), lands(0), faults(kNotPermitted<M>)},
     legacy_reasons<M>({lands(0), lands(0), faults(reason::kNoWrite)})},
    {{kPrefix<M, P>, "withdrawn_permission"},
     "§6",
     kNeeded<M, P>,
     Software::Right,
     withdrawn_permission<M, P>,
     {faults(kNotPermitted<M>), lands(0)},
     legacy_reasons<M>({faults(reason::kNoWrite), lands(0)})},
    {{kPrefix<M, P>, "permission_of_a_cached_page"},
     "§3.3, §12.1",
     kNeeded<M, P>,
     Software::Right,
     permission_of_a_cached_page<M, P>,
     {faults(kNotPermitted<M>)},
     {{lost()}, kNotChecked, true}},
};

}  // namespace

std::span<const Behaviour> register_flush_behaviours() {
  return kAnyPath<Mode::Legacy, Path::Registers>;
}
std::span<const Behaviour> queue_flush_behaviours() {
  return kAnyPath<Mode::Legacy, Path::Queue>;
}
std::span<const Behaviour> scalable_flush_behaviours() {
  return kAnyPath<Mode::Scalable, Path::Queue>;
}

}  // namespace perdure::conformance
