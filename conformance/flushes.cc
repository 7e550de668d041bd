// What changes of tables show, and after which flush (hardware.md §6). A unit may forget what it has cached at any
// time, so "still the old page" is a statement about a unit that keeps all it may: the board's model under its sticky
// policy, and QEMU, as far as its caches go.
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

enum class Path : u8 { Registers, Queue };

void start(Bench& b, Mode mode, Path path) {
  b.start(mode);
  if (path == Path::Queue && mode == Mode::Legacy) b.start_queue();
}

// Target 0 is cached for kIova of requester 0; the leaf says target 1 now.
template <Mode kMode, Path kPath>
Table remapped(Bench& b, u64 iova = Bench::kIova) {
  start(b, kMode, kPath);
  const Table table = b.simple();
  b.map(table, iova, b.target(0));
  b.require(b.write(0, iova) == lands(0), "DMA through the table");
  b.map(table, iova, b.target(1));
  return table;
}

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

// RWBF: a new entry is seen once the write buffer is flushed.
Seen new_page_needs_a_write_buffer_flush(Bench& b) {
  start(b, Mode::Legacy, Path::Registers);
  const Table table = b.simple();
  b.require(b.write(0, Bench::kOther) != lands(2), "a page that is not there");
  b.map(table, Bench::kOther, b.target(2));
  const bool stale = b.write(0, Bench::kOther) != lands(2);
  b.command(kWriteBuffer, true);
  return {yes_if(stale), b.write(0, Bench::kOther)};
}

// hardware.md §6: what was not present is remembered under domain 0; root entries only a global flush reaches.
Seen new_context_needs_a_flush(Bench& b) {
  start(b, Mode::Legacy, Path::Registers);
  b.context_at(0);
  const Observation blocked = b.write(0, Bench::kIova);
  b.simple();
  const Observation stale = b.write(0, Bench::kIova);
  b.flush_context(Grain::Fine, 0, b.source(0));
  b.flush_iotlb(Grain::Domain, Bench::kDid);
  return {blocked, stale, b.write(0, Bench::kIova)};
}

// It is reserved for what is not present; what a unit makes of it is the unit's business, that it works is none.
Seen domain_0_with_caching_mode(Bench& b) {
  start(b, Mode::Legacy, Path::Registers);
  b.simple(0, 0);
  return {b.write(0, Bench::kIova)};
}

Seen new_root_entry_needs_a_flush(Bench& b) {
  start(b, Mode::Legacy, Path::Registers);
  const Observation blocked = b.write(0, Bench::kIova);
  b.simple();
  const Observation stale = b.write(0, Bench::kIova);
  b.flush_context(Grain::Global);
  b.flush_iotlb(Grain::Global);
  return {blocked, stale, b.write(0, Bench::kIova)};
}

// Another table under another domain, written over a context entry that is cached.
template <Path P>
Table recontexted(Bench& b) {
  start(b, Mode::Legacy, P);
  b.simple();
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  const Table other = b.table();
  b.map(other, Bench::kIova, b.target(1));
  const u64 at = b.context_at(0);
  b.store(at, 0);
  b.store(at + 8, (other.levels - 2) | u64{Bench::kOtherDid} << 8);
  b.store(at, other.top | kPresent);
  return other;
}

template <Path P>
Seen context_stays_with_an_iotlb_flush_only(Bench& b) {
  recontexted<P>(b);
  const Observation stale = b.write(0, Bench::kIova);
  b.flush_iotlb(Grain::Global);
  return {stale, b.write(0, Bench::kIova)};
}

template <Path P, Grain kGrain>
Seen context_changes_with_a_flush(Bench& b) {
  recontexted<P>(b);
  const bool fine = kGrain == Grain::Fine;
  b.flush_context(kGrain, kGrain == Grain::Global ? u16{0} : Bench::kDid, fine ? b.source(0) : u16{0});
  b.flush_iotlb(Grain::Domain, Bench::kDid);
  return {b.write(0, Bench::kIova)};
}

// Translations are the domain's: with another domain id the old ones are out of reach without being flushed.
template <Path P>
Seen context_flush_alone_suffices_for_another_domain(Bench& b) {
  recontexted<P>(b);
  b.flush_context(Grain::Fine, Bench::kDid, b.source(0));
  return {b.write(0, Bench::kIova)};
}

template <Path P>
Seen context_flush_of_another_requester(Bench& b) {
  recontexted<P>(b);
  b.flush_context(Grain::Fine, Bench::kDid, b.source(1));
  b.flush_iotlb(Grain::Global);
  return {b.write(0, Bench::kIova)};
}

template <Path P>
Seen context_flush_of_another_domain(Bench& b) {
  recontexted<P>(b);
  b.flush_context(Grain::Fine, Bench::kOtherDid, b.source(0));
  b.flush_iotlb(Grain::Global);
  return {b.write(0, Bench::kIova)};
}

// The function mask: a flush of function 0 that does not compare bits 2:0 reaches all functions.
template <Path P>
Seen context_flush_with_function_mask(Bench& b) {
  start(b, Mode::Legacy, P);
  const Table table = b.simple();
  b.attach(1, table);
  b.require(b.write(1, Bench::kIova) == lands(0), "DMA through the table");
  const Table other = b.table();
  b.map(other, Bench::kIova, b.target(1));
  const u64 at = b.context_at(1);
  b.store(at, 0);
  b.store(at + 8, (other.levels - 2) | u64{Bench::kOtherDid} << 8);
  b.store(at, other.top | kPresent);
  b.flush_context(Grain::Fine, Bench::kDid, b.source(0), 3);
  b.flush_iotlb(Grain::Domain, Bench::kDid);
  return {b.write(1, Bench::kIova)};
}

template <Path P>
Seen cleared_context_stays_until_flush(Bench& b) {
  start(b, Mode::Legacy, P);
  b.simple();
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  b.store(b.context_at(0), 0);
  const Observation stale = b.write(0, Bench::kIova);
  b.flush_context(Grain::Fine, Bench::kDid, b.source(0));
  b.flush_iotlb(Grain::Domain, Bench::kDid);
  return {stale, b.write(0, Bench::kIova)};
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

// SRTP to a copy in which the requester is elsewhere.
template <Mode M>
void reroot(Bench& b) {
  b.start(M);
  b.simple();
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  b.set_root(b.root_value(b.pages()));
}

template <Mode M>
Seen new_root_needs_a_flush(Bench& b) {
  reroot<M>(b);
  const Observation stale = b.write(0, Bench::kIova);
  b.flush_all();
  return {yes_if(stale == lands(0)), yes_if(b.write(0, Bench::kIova).what == What::Faults)};
}

template <Mode M>
Seen new_root_counts_at_once(Bench& b) {
  reroot<M>(b);
  return {b.write(0, Bench::kIova)};
}

// Ignored, and IAIG says so.
template <Path P>
Seen order_beyond_the_largest(Bench& b) {
  remapped<Mode::Legacy, P>(b);
  b.flush_iotlb(Grain::Fine, Bench::kDid, 0, b.largest_order() + 1);
  return {number(u64(b.done_iotlb())), b.write(0, Bench::kIova)};
}

// --- scalable mode alone: the PASID cache ---------------------------------------------------------------------------

// Another table under another domain in the PASID entry.
void repasid(Bench& b) {
  start(b, Mode::Scalable, Path::Queue);
  b.simple();
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  const Table other = b.table();
  b.map(other, Bench::kIova, b.target(1));
  const u64 at = b.pasid_at(0);
  const u64 low = b.load(at);
  b.store(at, 0);
  b.store(at + 8, (b.load(at + 8) & ~u64{0xFFFF}) | Bench::kOtherDid);
  b.store(at, (low & ~kAddress) | other.top);
}

Seen pasid_entry_stays_with_an_iotlb_flush_only(Bench& b) {
  repasid(b);
  const Observation stale = b.write(0, Bench::kIova);
  b.flush_iotlb(Grain::Global);
  return {stale, b.write(0, Bench::kIova)};
}

Seen pasid_entry_changes_with_its_flush(Bench& b) {
  repasid(b);
  b.submit({pasid_flush(Bench::kDid, 0), iotlb_flush(Grain::Domain, Bench::kDid)});
  return {b.write(0, Bench::kIova)};
}

Seen pasid_entry_changes_with_a_domain_flush(Bench& b) {
  repasid(b);
  b.submit({pasid_flush_domain(Bench::kDid), iotlb_flush(Grain::Domain, Bench::kDid)});
  return {b.write(0, Bench::kIova)};
}

Seen pasid_entry_changes_with_a_global_flush(Bench& b) {
  repasid(b);
  b.submit({pasid_flush_global(), iotlb_flush(Grain::Global)});
  return {b.write(0, Bench::kIova)};
}

Seen pasid_flush_of_another_pasid(Bench& b) {
  repasid(b);
  b.submit({pasid_flush(Bench::kDid, 1), iotlb_flush(Grain::Global)});
  return {b.write(0, Bench::kIova)};
}

Seen scalable_context_stays_until_its_flush(Bench& b) {
  start(b, Mode::Scalable, Path::Queue);
  b.simple();
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  // Another directory, whose table is another.
  const Table other = b.table();
  b.map(other, Bench::kIova, b.target(1));
  const u64 old = b.pasid_at(0);
  const u64 directory = b.pages();
  const u64 entries = b.pages();
  b.store(directory, entries | kPresent);
  b.store(entries + 8, (b.load(old + 8) & ~u64{0xFFFF}) | Bench::kOtherDid);
  b.store(entries, (b.load(old) & ~kAddress) | other.top);
  b.store(b.context_at(0), directory | kPresent);
  b.submit({pasid_flush_global(), iotlb_flush(Grain::Global)});
  const Observation stale = b.write(0, Bench::kIova);
  b.submit({context_flush(Grain::Fine, 0, b.source(0)), pasid_flush_global(), iotlb_flush(Grain::Global)});
  return {stale, b.write(0, Bench::kIova)};
}

constexpr std::string_view kMask8 =
    "page numbers are compared in their low 8 bits: use others in tests of missed flushes, or they find nothing";
constexpr std::string_view kNotChecked =
    "a cached translation is not asked for its permission: the write is dropped and no fault recorded";
constexpr std::string_view kBySource =
    "translations are the requester's, not the domain's: what shares a domain id wrongly does not show";
constexpr std::string_view kNoStructures =
    "nothing above leaves is cached: a flush for leaves only where tables were freed does not show";
constexpr std::string_view kRootFlushes = "SRTP flushes by itself though ESRTPS is 0: a forgotten flush does not show";
constexpr std::string_view kNoNotPresent =
    "what is not present is not cached even with caching mode: a forgotten flush "
    "does not show";
constexpr std::string_view kNoPasids = "PASID entries are read each time: a forgotten flush does not show";

constexpr Seen kOld{lands(0)};
constexpr Seen kNew{lands(1)};
constexpr Seen kOldThenNew{lands(0), lands(1)};

template <Mode M, Path P>
inline constexpr std::string_view kPrefix = M == Mode::Scalable ? "scalable."
                                            : P == Path::Queue  ? "queue."
                                                                : "registers.";
template <Mode M, Path P>
inline constexpr u64 kNeeded = M == Mode::Scalable ? kScalable
                               : P == Path::Queue  ? kQueued
                                                   : kNothing;
template <Mode M>
inline constexpr u8 kNotPermitted = M == Mode::Scalable ? reason::kSecondPermission : reason::kNoWrite;

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

// Context entries hold the domain in legacy mode alone.
template <Path P>
constexpr Behaviour kContexts[] = {
    {{kPrefix<Mode::Legacy, P>, "context_stays_with_an_iotlb_flush_only"},
     "§6",
     (kNeeded<Mode::Legacy, P>) | kKeeps,
     Software::Right,
     context_stays_with_an_iotlb_flush_only<P>,
     {lands(0), lands(0)}},
    {{kPrefix<Mode::Legacy, P>, "context_changes_with_a_device_flush"},
     "§6",
     (kNeeded<Mode::Legacy, P>),
     Software::Right,
     context_changes_with_a_flush<P, Grain::Fine>,
     kNew},
    {{kPrefix<Mode::Legacy, P>, "context_changes_with_a_domain_flush"},
     "§6",
     (kNeeded<Mode::Legacy, P>),
     Software::Right,
     context_changes_with_a_flush<P, Grain::Domain>,
     kNew},
    {{kPrefix<Mode::Legacy, P>, "context_changes_with_a_global_flush"},
     "§6",
     (kNeeded<Mode::Legacy, P>),
     Software::Right,
     context_changes_with_a_flush<P, Grain::Global>,
     kNew},
    {{kPrefix<Mode::Legacy, P>, "context_flush_alone_for_another_domain"},
     "§4",
     (kNeeded<Mode::Legacy, P>),
     Software::Right,
     context_flush_alone_suffices_for_another_domain<P>,
     kNew,
     {kOld, kBySource}},
    {{kPrefix<Mode::Legacy, P>, "context_flush_of_another_requester"},
     "§1 CCMD",
     (kNeeded<Mode::Legacy, P>) | kKeeps,
     Software::Right,
     context_flush_of_another_requester<P>,
     kOld},
    {{kPrefix<Mode::Legacy, P>, "context_flush_of_another_domain"},
     "§1 CCMD",
     (kNeeded<Mode::Legacy, P>) | kKeeps,
     Software::Right,
     context_flush_of_another_domain<P>,
     kOld,
     {kNew, "a flush of one requester does not ask for the domain"}},
    {{kPrefix<Mode::Legacy, P>, "context_flush_with_function_mask"},
     "§1 CCMD",
     (kNeeded<Mode::Legacy, P>),
     Software::Right,
     context_flush_with_function_mask<P>,
     kNew},
    {{kPrefix<Mode::Legacy, P>, "cleared_context_stays_until_flush"},
     "§6",
     (kNeeded<Mode::Legacy, P>) | kKeeps,
     Software::Right,
     cleared_context_stays_until_flush<P>,
     {lands(0), faults(reason::kContextNotPresent)}},
};

constexpr Behaviour kList[] = {
    {"new_page_needs_a_write_buffer_flush",
     "§2 RWBF",
     kWriteBuffers,
     Software::Right,
     new_page_needs_a_write_buffer_flush,
     {yes(), lands(2)}},
    {"domain_0_with_caching_mode", "§4 CM = 1", kCachingMode, Software::Wrong, domain_0_with_caching_mode, {lands(0)}},
    {"new_context_needs_a_flush",
     "§6 CM = 1",
     kCachingMode | kKeeps,
     Software::Right,
     new_context_needs_a_flush,
     {faults(reason::kContextNotPresent), faults(reason::kContextNotPresent), lands(0)},
     {{faults(reason::kContextNotPresent), lands(0), lands(0)}, kNoNotPresent}},
    {"new_root_entry_needs_a_flush",
     "§6 CM = 1",
     kCachingMode | kKeeps,
     Software::Right,
     new_root_entry_needs_a_flush,
     {faults(reason::kRootNotPresent), faults(reason::kRootNotPresent), lands(0)},
     {{faults(reason::kRootNotPresent), lands(0), lands(0)}, kNoNotPresent}},
    {"registers.order_beyond_the_largest",
     "§2 MAMV",
     kPageFlush | kKeeps,
     Software::Wrong,
     order_beyond_the_largest<Path::Registers>,
     {number(0), lands(0)}},
    {"legacy.new_root_needs_a_flush",
     "§1, §6 SRTP",
     kKeepsAtRoot | kKeeps,
     Software::Right,
     new_root_needs_a_flush<Mode::Legacy>,
     {yes(), yes()},
     {{no(), yes()}, kRootFlushes, true}},
    {"legacy.new_root_counts_at_once",
     "§2 ESRTPS",
     kFlushesAtRoot,
     Software::Right,
     new_root_counts_at_once<Mode::Legacy>,
     {faults(reason::kRootNotPresent)}},
    {"scalable.new_root_needs_a_flush",
     "§1, §6 SRTP",
     kScalable | kKeepsAtRoot | kKeeps,
     Software::Right,
     new_root_needs_a_flush<Mode::Scalable>,
     {yes(), yes()},
     {{no(), yes()}, kRootFlushes, true}},
    {"scalable.new_root_counts_at_once",
     "§2 ESRTPS",
     kScalable | kFlushesAtRoot,
     Software::Right,
     new_root_counts_at_once<Mode::Scalable>,
     {faults(reason::kScalableRootNotPresent)}},
    {"scalable.pasid_entry_stays_with_an_iotlb_flush_only",
     "§6",
     kScalable | kKeeps,
     Software::Right,
     pasid_entry_stays_with_an_iotlb_flush_only,
     {lands(0), lands(0)},
     {{lands(0), lands(1)}, kNoPasids}},
    {"scalable.pasid_entry_changes_with_its_flush", "§6", kScalable, Software::Right,
     pasid_entry_changes_with_its_flush, kNew},
    {"scalable.pasid_entry_changes_with_a_domain_flush", "§6", kScalable, Software::Right,
     pasid_entry_changes_with_a_domain_flush, kNew},
    {"scalable.pasid_entry_changes_with_a_global_flush", "§6", kScalable, Software::Right,
     pasid_entry_changes_with_a_global_flush, kNew},
    {"scalable.pasid_flush_of_another_pasid",
     "§6",
     kScalable | kKeeps,
     Software::Right,
     pasid_flush_of_another_pasid,
     kOld,
     {kNew, kNoPasids}},
    {"scalable.context_stays_until_its_flush", "§6", kScalable | kKeeps, Software::Right,
     scalable_context_stays_until_its_flush, kOldThenNew},
};

}  // namespace

std::span<const Behaviour> register_flush_behaviours() {
  return kAnyPath<Mode::Legacy, Path::Registers>;
}
std::span<const Behaviour> register_context_behaviours() {
  return kContexts<Path::Registers>;
}
std::span<const Behaviour> queue_flush_behaviours() {
  return kAnyPath<Mode::Legacy, Path::Queue>;
}
std::span<const Behaviour> queue_context_behaviours() {
  return kContexts<Path::Queue>;
}
std::span<const Behaviour> scalable_flush_behaviours() {
  return kAnyPath<Mode::Scalable, Path::Queue>;
}
std::span<const Behaviour> flush_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
