// What stops the invalidation queue, and how it goes on (hardware.md §1 FSTS, IQERCD; §5).
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

// Stops at the second descriptor of a queue; a wait stands behind it.
struct Stopped {
  bool error;
  u64 head;
  u32 code;
  bool went_on;
};

Stopped stopped_by(Bench& b, const Descriptor& bad, bool wide = false) {
  b.start(Mode::Legacy);
  b.start_queue(0, wide);
  const bool before = b.submit({});
  b.require(before, "a queue that works");
  b.push(bad);
  b.push(wait_with_status(b.status_word(), b.next_cookie()));
  b.ring();
  b.wait([&] { return (b.fault_status() & kQueueStopped) != 0 || b.read64(kQueueHead) == b.tail(); }, 1'000'000);
  const bool went_on = b.read64(kQueueHead) == b.tail();
  return {(b.fault_status() & kQueueStopped) != 0, b.read64(kQueueHead) / b.slot_bytes(),
          static_cast<u32>(b.read64(kQueueError) & 0xF), went_on};
}

Seen shown(const Stopped& s) {
  return {yes_if(s.error), number(s.head), number(s.code), yes_if(s.went_on)};
}

constexpr Descriptor kBadType{0xF};

Seen type_unassigned(Bench& b) {
  return shown(stopped_by(b, kBadType));
}
Seen type_zero(Bench& b) {
  return shown(stopped_by(b, {}));
}
Seen context_reserved(Bench& b) {
  return shown(stopped_by(b, {context_flush(Grain::Global).q0 | bit(52)}));
}
Seen context_granularity(Bench& b) {
  return shown(stopped_by(b, {1}));
}
Seen iotlb_reserved(Bench& b) {
  return shown(stopped_by(b, {iotlb_flush(Grain::Global).q0 | bit(40)}));
}
Seen iotlb_granularity(Bench& b) {
  return shown(stopped_by(b, {2}));
}
Seen iotlb_order(Bench& b) {
  return shown(stopped_by(b, iotlb_flush(Grain::Fine, Bench::kDid, 0, b.largest_order() + 1)));
}
Seen wait_reserved(Bench& b) {
  return shown(stopped_by(b, wait_with_status(b.status_word() + 8, 1, bit(20))));
}
Seen wait_address_reserved(Bench& b) {
  return shown(stopped_by(b, wait_with_status(b.status_word() + 10, 1)));
}
Seen device_tlb_unsupported(Bench& b) {
  return shown(stopped_by(b, {3 | u64{b.source(0)} << 32, Bench::kIova}));
}
Seen interrupt_flush_unsupported(Bench& b) {
  return shown(stopped_by(b, interrupt_flush()));
}
Seen wide_reserved(Bench& b) {
  Descriptor d = iotlb_flush(Grain::Global);
  d.q2 = 1;
  return shown(stopped_by(b, d, true));
}
Seen pasid_cache_in_narrow_queue(Bench& b) {
  return shown(stopped_by(b, pasid_flush_global()));
}

// The data is lost, the queue is not.
Seen status_nowhere(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  b.push(wait_with_status(b.nothing(), 1));
  const bool done = b.submit({});
  return {yes_if(done), yes_if((b.fault_status() & kQueueStopped) == 0)};
}

Seen tail_beyond_the_queue(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  b.submit({});
  b.write64(kQueueTail, perdure::kPageSize + 16);
  b.wait([&] { return (b.fault_status() & kQueueStopped) != 0; }, 1'000'000);
  return {yes_if((b.fault_status() & kQueueStopped) != 0), number(b.read64(kQueueError) & 0xF)};
}

Seen tail_between_wide_descriptors(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue(0, true);
  b.submit({});
  b.write64(kQueueTail, 48);
  b.wait([&] { return (b.fault_status() & kQueueStopped) != 0; }, 1'000'000);
  return {yes_if((b.fault_status() & kQueueStopped) != 0), number(b.read64(kQueueError) & 0xF)};
}

Seen queue_unreadable(Bench& b) {
  b.start(Mode::Legacy);
  // QEMU lets a queue be disabled only after a wait, whichever queue it was in.
  b.start_queue();
  b.submit({});
  b.stop_queue();
  b.start_queue_at(b.nothing(), 0, false);
  b.write64(kQueueTail, 16);
  b.wait([&] { return (b.fault_status() & kQueueStopped) != 0; }, 1'000'000);
  return {yes_if((b.fault_status() & kQueueStopped) != 0), number(b.read64(kQueueHead)),
          number(b.read64(kQueueError) & 0xF)};
}

Seen error_raises_the_fault_event(Bench& b) {
  const u8 vector = b.aim(kFaultControl, true);
  const Stopped s = stopped_by(b, kBadType);
  return {yes_if(s.error), yes_if(b.came(vector))};
}

Seen nothing_runs_while_stopped(Bench& b) {
  stopped_by(b, kBadType);
  // Repaired, but not cleared.
  b.put(1, wait_with_status(b.status_word(), b.next_cookie()));
  b.push(wait_with_status(b.status_word(), b.next_cookie()));
  b.ring();
  const bool ran = b.wait([&] { return b.read64(kQueueHead) != 16; }, 1'000'000);
  return {yes_if(ran)};
}

Seen error_is_cleared_by_one(Bench& b) {
  stopped_by(b, kBadType);
  b.write32(kFaultStatus, 0);
  const bool kept = (b.fault_status() & kQueueStopped) != 0;
  b.put(1, iotlb_flush(Grain::Global));
  b.write32(kFaultStatus, kQueueStopped);
  return {yes_if(kept), yes_if((b.fault_status() & kQueueStopped) != 0)};
}

// Clearing the error is enough on hardware.
Seen goes_on_once_cleared(Bench& b) {
  stopped_by(b, kBadType);
  b.put(1, iotlb_flush(Grain::Global));
  b.write32(kFaultStatus, kQueueStopped);
  const bool done = b.wait([&] { return b.read64(kQueueHead) == b.tail(); }, 1'000'000);
  return {yes_if((b.fault_status() & kQueueStopped) != 0), yes_if(done)};
}

Seen goes_on_with_the_tail_written_again(Bench& b) {
  stopped_by(b, kBadType);
  b.put(1, iotlb_flush(Grain::Global));
  b.write32(kFaultStatus, kQueueStopped);
  b.ring();
  const bool done = b.completed();
  return {yes_if((b.fault_status() & kQueueStopped) != 0), yes_if(done), yes_if(b.submit({}))};
}

Seen stops_again_if_not_repaired(Bench& b) {
  stopped_by(b, kBadType);
  b.write32(kFaultStatus, kQueueStopped);
  b.ring();
  b.wait([&] { return (b.fault_status() & kQueueStopped) != 0; }, 1'000'000);
  return {yes_if((b.fault_status() & kQueueStopped) != 0), number(b.read64(kQueueHead))};
}

Seen error_leaves_translation_alone(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  b.start_queue();
  b.push(kBadType);
  b.ring();
  b.wait([&] { return (b.fault_status() & kQueueStopped) != 0; }, 1'000'000);
  return {yes_if((b.fault_status() & kQueueStopped) != 0), b.write(0, Bench::kIova)};
}

constexpr std::string_view kNoCode = "IQERCD does not say why";

constexpr Seen stop(u32 code) {
  return {yes(), number(1), number(code), no()};
}
constexpr Deviation kStopsWithoutCode{stop(0), kNoCode, true};
constexpr Deviation kGoesOn{{no(), number(3), number(0), yes()}, "it is not looked at: the queue goes on", true};

constexpr Behaviour kList[] = {
    {"queue.type_unassigned", "§1 IQEI 3", kQueued, Software::Wrong, type_unassigned, stop(3), kStopsWithoutCode},
    {"queue.type_zero", "§1 IQEI 3", kQueued, Software::Wrong, type_zero, stop(3), kStopsWithoutCode},
    {"queue.context_reserved_bit", "§1 IQEI 4", kQueued, Software::Wrong, context_reserved, stop(4), kStopsWithoutCode},
    {"queue.context_granularity_reserved", "§1 IQEI 4", kQueued, Software::Wrong, context_granularity, stop(4),
     kStopsWithoutCode},
    {"queue.iotlb_reserved_bit", "§1 IQEI 4", kQueued, Software::Wrong, iotlb_reserved, stop(4), kStopsWithoutCode},
    {"queue.iotlb_granularity_reserved", "§1 IQEI 4", kQueued, Software::Wrong, iotlb_granularity, stop(4),
     kStopsWithoutCode},
    {"queue.iotlb_order_beyond_the_largest", "§2 MAMV", kQueued | kPageFlush, Software::Wrong, iotlb_order, stop(4),
     kStopsWithoutCode},
    {"queue.wait_reserved_bit", "§1 IQEI 4", kQueued, Software::Wrong, wait_reserved, stop(4), kStopsWithoutCode},
    {"queue.wait_address_unaligned", "§1 IQEI 4", kQueued, Software::Wrong, wait_address_reserved, stop(4),
     kStopsWithoutCode},
    {"queue.device_tlb_unsupported", "§1 IQEI 3", kQueued | kNoDeviceTlb, Software::Wrong, device_tlb_unsupported,
     stop(3), kGoesOn},
    {"queue.interrupt_flush_unsupported", "§1 IQEI 3", kQueued | kCannotRemap, Software::Wrong,
     interrupt_flush_unsupported, stop(3), kGoesOn},
    {"queue.status_nowhere",
     "§5 wait",
     kQueued,
     Software::Wrong,
     status_nowhere,
     {yes(), yes()},
     {{no(), no()}, "the queue stops: what waits for a status that cannot be written must look at IQE, too", true}},
    {"queue.wide_reserved_word", "§5", kScalable, Software::Wrong, wide_reserved, stop(4), kGoesOn, {stop(0), kNoCode}},
    {"queue.pasid_flush_in_narrow_queue", "§1 DW", kScalable, Software::Wrong, pasid_cache_in_narrow_queue, stop(5),
     kGoesOn},
    {"queue.tail_beyond_the_queue",
     "§1 IQEI 1",
     kQueued,
     Software::Wrong,
     tail_beyond_the_queue,
     {yes(), number(1)},
     {{yes(), number(0)}, kNoCode, true}},
    {"queue.tail_between_wide_descriptors",
     "§1 IQEI 1",
     kScalable,
     Software::Wrong,
     tail_between_wide_descriptors,
     {yes(), number(1)},
     {{no(), number(0)}, "bit 4 of IQT is cut off", true},
     {{yes(), number(0)}, kNoCode}},
    {"queue.unreadable",
     "§1 IQEI 2",
     kQueued | kWayBack,
     Software::Wrong,
     queue_unreadable,
     {yes(), number(0), number(2)},
     {{yes(), number(0), number(0)}, kNoCode, true}},
    {"queue.error_raises_the_fault_event",
     "§1",
     kQueued,
     Software::Wrong,
     error_raises_the_fault_event,
     {yes(), yes()}},
    {"queue.nothing_runs_while_stopped", "§1 IQE", kQueued, Software::Wrong, nothing_runs_while_stopped, {no()}},
    {"queue.error_is_cleared_by_one", "§1 IQE", kQueued, Software::Wrong, error_is_cleared_by_one, {yes(), no()}},
    {"queue.goes_on_once_cleared",
     "§1 IQE, §12.1",
     kQueued,
     Software::Wrong,
     goes_on_once_cleared,
     {no(), yes()},
     {{no(), no()}, "only another write of IQT starts it again", true}},
    {"queue.goes_on_with_the_tail_written_again",
     "§1 IQE",
     kQueued,
     Software::Wrong,
     goes_on_with_the_tail_written_again,
     {no(), yes(), yes()}},
    {"queue.stops_again_if_not_repaired",
     "§1 IQE",
     kQueued,
     Software::Wrong,
     stops_again_if_not_repaired,
     {yes(), number(16)}},
    {"queue.error_leaves_translation_alone",
     "§1 IQE",
     kQueued,
     Software::Wrong,
     error_leaves_translation_alone,
     {yes(), lands(0)}},
};

}  // namespace

std::span<const Behaviour> queue_error_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
