// Flushes that only one mode or one kind of unit has: of PASID entries, after SRTP, with caching mode, of write buffers
// (hardware.md §6).
#include "conformance/flush_paths.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

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

constexpr std::string_view kRootFlushes = "SRTP flushes by itself though ESRTPS is 0: a forgotten flush does not show";
constexpr std::string_view kNoPasids = "PASID entries are read each time: a forgotten flush does not show";

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

std::span<const Behaviour> flush_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
