// Flushes of context entries, by registers and by the queue (hardware.md §6).
#include "conformance/flush_paths.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

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

constexpr std::string_view kOldDomain =
    "translations are the requester's: those of its former domain are served until they are flushed, too";

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
     {kOld, kOldDomain}},
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
     {kNew, "a flush of one requester does not ask for the domain", true}},
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

}  // namespace

std::span<const Behaviour> register_context_behaviours() {
  return kContexts<Path::Registers>;
}
std::span<const Behaviour> queue_context_behaviours() {
  return kContexts<Path::Queue>;
}

}  // namespace perdure::conformance
