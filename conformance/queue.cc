// The invalidation queue at work (hardware.md §1, §5).
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

Seen empty_when_enabled(Bench& b) {
  b.start(Mode::Legacy);
  const bool on = b.start_queue();
  return {yes_if(on), number(b.read64(kQueueHead)), number(b.read64(kQueueTail)),
          number(b.fault_status() & kQueueStopped)};
}

Seen wait_writes_four_bytes(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  const u64 at = b.pages();
  b.store(at, 0x1122'3344'5566'7788);
  b.push(wait_with_status(at + 4, 0xCAFE'BABE));
  const bool done = b.submit({});
  return {yes_if(done), yes_if(b.load(at) == 0xCAFE'BABE'5566'7788)};
}

Seen head_follows_tail(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  b.submit({});
  const u64 one = b.read64(kQueueHead);
  b.submit({iotlb_flush(Grain::Global), context_flush(Grain::Global)});
  return {number(one), number(b.read64(kQueueHead)), number(b.read64(kQueueTail))};
}

Seen runs_to_the_tail_and_no_further(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  const u64 at = b.pages();
  b.push(wait_with_status(at, 1));
  const u64 tail = b.tail();
  b.push(wait_with_status(at + 4, 2));
  b.write64(kQueueTail, tail);
  b.wait([&] { return b.read64(kQueueHead) == tail && (b.load(at) & 0xFFFF'FFFF) == 1; });
  const u64 first = b.load(at);
  b.ring();
  b.wait([&] { return b.load(at) >> 32 != 0; });
  return {number(first), number(b.load(at) >> 32)};
}

Seen all_granularities_are_taken(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  const bool context = b.submit(
      {context_flush(Grain::Global), context_flush(Grain::Domain, 3), context_flush(Grain::Fine, 3, b.source(0), 2)});
  const bool iotlb = b.submit(
      {iotlb_flush(Grain::Global), iotlb_flush(Grain::Domain, 3), iotlb_flush(Grain::Fine, 3, Bench::kIova, 0, true)});
  return {yes_if(context), yes_if(iotlb), number(b.fault_status() & kQueueStopped)};
}

Seen fence_is_taken(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  const u64 at = b.pages();
  constexpr u64 kFence = 1 << 6;
  b.push(wait_with_status(at, 7, kFence));
  const bool done = b.submit({iotlb_flush(Grain::Global)});
  return {yes_if(done), number(b.load(at))};
}

Seen page_request_drain_is_taken(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  const u64 at = b.pages();
  constexpr u64 kDrain = 1 << 7;
  b.push(wait_with_status(at, 7, kDrain));
  const bool done = b.submit({});
  return {yes_if(done), number(b.load(at))};
}

template <unsigned kOrder, bool kWide>
Seen wraps_around(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue(kOrder, kWide);
  const u64 slots = (perdure::kPageSize << kOrder) / b.slot_bytes();
  u64 done = 0;
  for (u64 i = 0; i < slots + 5; ++i) done += b.submit({}) ? 1 : 0;
  return {yes_if(done == slots + 5), number(b.read64(kQueueHead) / b.slot_bytes())};
}

// 2^7 pages: descriptors far from the first page are read where they are.
Seen largest(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue(7);
  b.submit({});
  const u64 slots = (perdure::kPageSize << 7) / b.slot_bytes();
  for (u64 i = 0; i < slots - 2; ++i)
    b.push(i % 2 == 0 ? iotlb_flush(Grain::Domain, 3) : context_flush(Grain::Domain, 3));
  b.push(wait_with_status(b.status_word(), b.next_cookie()));
  b.ring();
  const bool done = b.completed(1'000'000'000);
  return {yes_if(done), number(b.read64(kQueueHead))};
}

// As many as fit: head equal to tail would mean empty.
Seen full_queue(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  b.submit({});
  const u64 slots = perdure::kPageSize / b.slot_bytes();
  for (u64 i = 0; i < slots - 2; ++i) b.push(iotlb_flush(Grain::Global));
  const bool done = b.submit({});
  return {yes_if(done), number(b.read64(kQueueHead) / b.slot_bytes())};
}

Seen wide_descriptors(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue(0, true);
  const bool done = b.submit({context_flush(Grain::Global), iotlb_flush(Grain::Global)});
  return {yes_if(done), number(b.read64(kQueueHead)), number(b.fault_status() & kQueueStopped)};
}

Seen pasid_descriptors(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue(0, true);
  const bool cache = b.submit({pasid_flush_global(), pasid_flush_domain(3), pasid_flush(3, 0)});
  const bool iotlb = b.submit({pasid_iotlb_flush(3, 0)});
  return {yes_if(cache), yes_if(iotlb), number(b.fault_status() & kQueueStopped)};
}

Seen works_while_translation_is_off(Bench& b) {
  b.prepare(Mode::Legacy);
  b.start_queue();
  const bool off = b.submit({iotlb_flush(Grain::Global)});
  b.command(kTranslation, true);
  const bool on = b.submit({iotlb_flush(Grain::Global)});
  b.command(kTranslation, false);
  return {yes_if(off), yes_if(on), yes_if(b.submit({iotlb_flush(Grain::Global)}))};
}

Seen stops_when_empty(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  b.submit({});
  const u64 tail = b.read64(kQueueTail);
  const bool off = b.stop_queue();
  return {yes_if(off), number(b.read64(kQueueHead)), yes_if(b.read64(kQueueTail) == tail)};
}

Seen stops_without_having_run(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  b.submit({});
  b.stop_queue();
  b.start_queue();
  return {yes_if(b.stop_queue())};
}

// hardware.md §12.1: the last descriptor must have been a wait.
Seen stop_after_other_work(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  b.push(iotlb_flush(Grain::Global));
  b.ring();
  b.wait([&] { return b.read64(kQueueHead) == b.tail(); });
  return {yes_if(b.stop_queue())};
}

Seen stale_tail_runs_the_new_queue(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  b.submit({});
  b.submit({});
  b.stop_queue();
  const u64 base = b.pages();
  const u64 at = b.pages();
  const u64 old_tail = b.read64(kQueueTail);
  for (u64 i = 0; i < old_tail / 16; ++i) {
    const Descriptor d = wait_with_status(at + i * 4, static_cast<u32>(i) + 1);
    b.store(base + i * 16, d.q0);
    b.store(base + i * 16 + 8, d.q1);
  }
  b.write64(kQueueAddress, base);
  b.command(kQueue, true);
  b.wait([&] { return b.load(at) == (u64{2} << 32 | 1); });
  const Seen seen{number(old_tail), number(b.load(at) & 0xFF), number(b.load(at) >> 32)};
  b.stop_queue();
  return seen;
}

Seen tail_reads_back_while_off(Bench& b) {
  b.write64(kQueueTail, 0x40);
  const u64 tail = b.read64(kQueueTail);
  b.write64(kQueueTail, 0);
  return {number(tail), number(b.read64(kQueueTail))};
}

Seen tail_has_no_low_bits(Bench& b) {
  b.write64(kQueueTail, 0x4F);
  const u64 tail = b.read64(kQueueTail);
  b.write64(kQueueTail, 0);
  return {number(tail)};
}

Seen head_cannot_be_written(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  b.submit({});
  b.write64(kQueueHead, 0x80);
  return {number(b.read64(kQueueHead)), yes_if(b.submit({iotlb_flush(Grain::Global)}))};
}

Seen address_reads_back_while_off(Bench& b) {
  const u64 base = b.pages(2, 2 * perdure::kPageSize);
  b.write64(kQueueAddress, base | 1);
  return {yes_if(b.read64(kQueueAddress) == (base | 1))};
}

Seen address_reads_back_while_on(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue(1);
  const bool same = b.read64(kQueueAddress) == (b.queue_base() | 1);
  b.submit({});
  b.stop_queue();
  return {yes_if(same), yes_if(b.read64(kQueueAddress) == (b.queue_base() | 1))};
}

Seen width_reads_back(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue(0, true);
  b.submit({});
  return {yes_if((b.read64(kQueueAddress) & 0x800) != 0)};
}

Seen address_is_fixed_while_on(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  b.submit({});
  b.write64(kQueueAddress, b.pages());
  return {yes_if(b.submit({iotlb_flush(Grain::Global)}))};
}

Seen register_flush_while_queued(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.simple();
  b.start_queue();
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  b.map(table, Bench::kIova, b.target(1));
  b.write64(b.iotlb_at() + 8, bit(63) | u64(Grain::Global) << 60);
  return {b.write(0, Bench::kIova)};
}

Seen completion_event_is_sent(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  const u8 vector = b.aim(kDoneControl, true);
  b.push(wait_with_event());
  const bool done = b.submit({});
  return {yes_if(done), number(b.read32(kDone) & 1), yes_if(b.came(vector))};
}

Seen completion_event_waits_while_masked(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  const u8 vector = b.aim(kDoneControl, false);
  b.push(wait_with_event());
  b.submit({});
  const bool pending = (b.read32(kDoneControl) & kEventPending) != 0;
  const bool early = b.came(vector);
  b.write32(kDoneControl, 0);
  return {yes_if(pending), yes_if(early), yes_if(b.came(vector))};
}

Seen completion_is_cleared_by_one(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  b.push(wait_with_event());
  b.submit({});
  const u32 set = b.read32(kDone);
  b.write32(kDone, 0);
  const u32 kept = b.read32(kDone);
  b.write32(kDone, 1);
  return {number(set & 1), number(kept & 1), number(b.read32(kDone) & 1),
          yes_if((b.read32(kDoneControl) & kEventPending) != 0)};
}

Seen completion_event_is_sent_once(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  const u8 first = b.aim(kDoneControl, true);
  b.push(wait_with_event());
  b.submit({});
  const bool sent = b.came(first);
  const u8 second = b.aim(kDoneControl, true);
  b.push(wait_with_event());
  b.submit({});
  const bool again = b.came(second);
  b.write32(kDone, 1);
  b.push(wait_with_event());
  b.submit({});
  return {yes_if(sent), yes_if(again), yes_if(b.came(second))};
}

Seen status_and_event_in_one_wait(Bench& b) {
  b.start(Mode::Legacy);
  b.start_queue();
  const u64 at = b.pages();
  b.push({0x35 | u64{7} << 32, at});
  return {yes_if(b.submit({})), number(b.load(at)), number(b.read32(kDone) & 1)};
}

constexpr Behaviour kList[] = {
    {"queue.empty_when_enabled",
     "§1",
     kQueued,
     Software::Right,
     empty_when_enabled,
     {yes(), number(0), number(0), number(0)}},
    {"queue.wait_writes_four_bytes", "§5 wait", kQueued, Software::Right, wait_writes_four_bytes, {yes(), yes()}},
    {"queue.head_follows_tail",
     "§1",
     kQueued,
     Software::Right,
     head_follows_tail,
     {number(16), number(64), number(64)}},
    {"queue.runs_to_the_tail_and_no_further",
     "§1",
     kQueued,
     Software::Right,
     runs_to_the_tail_and_no_further,
     {number(1), number(2)}},
    {"queue.all_granularities_are_taken",
     "§5",
     kQueued,
     Software::Right,
     all_granularities_are_taken,
     {yes(), yes(), number(0)}},
    {"queue.fence_is_taken", "§5 wait FN", kQueued, Software::Right, fence_is_taken, {yes(), number(7)}},
    {"queue.page_request_drain_is_taken",
     "§5 wait PD",
     kQueued,
     Software::Right,
     page_request_drain_is_taken,
     {yes(), number(7)},
     {{no(), number(0)}, "bit 7 of a wait is reserved: the queue stops", true}},
    {"queue.wraps_around", "§1", kQueued, Software::Right, wraps_around<0, false>, {yes(), number(5)}},
    {"queue.wraps_around_two_pages", "§1 QS", kQueued, Software::Right, wraps_around<1, false>, {yes(), number(5)}},
    {"queue.wraps_around_wide", "§1 DW", kScalable, Software::Right, wraps_around<1, true>, {yes(), number(5)}},
    {"queue.largest", "§1 QS", kQueued, Software::Right, largest, {yes(), number(0)}},
    {"queue.full", "§1", kQueued, Software::Right, full_queue, {yes(), number(0)}},
    {"queue.wide_descriptors", "§1 DW", kScalable, Software::Right, wide_descriptors, {yes(), number(96), number(0)}},
    {"queue.pasid_descriptors", "§5", kScalable, Software::Right, pasid_descriptors, {yes(), yes(), number(0)}},
    {"queue.works_while_translation_is_off",
     "§1",
     kQueued,
     Software::Right,
     works_while_translation_is_off,
     {yes(), yes(), yes()}},
    {"queue.stops_when_empty", "§1", kQueued, Software::Right, stops_when_empty, {yes(), number(0), yes()}},
    {"queue.stops_without_having_run", "§1, §12.1", kQueued, Software::Right, stops_without_having_run, {yes()}},
    {"queue.stop_after_other_work",
     "§1, §12.1",
     kQueued,
     Software::Wrong,
     stop_after_other_work,
     {yes()},
     {{no()}, "QIE = 0 is refused unless the last descriptor was a wait", true}},
    {"queue.stale_tail_runs_the_new_queue",
     "§1, §12.1",
     kQueued,
     Software::Wrong,
     stale_tail_runs_the_new_queue,
     {number(32), number(1), number(2)}},
    {"queue.tail_reads_back_while_off",
     "§1",
     kQueued,
     Software::Right,
     tail_reads_back_while_off,
     {number(0x40), number(0)}},
    {"queue.tail_has_no_low_bits", "§1", kQueued, Software::Right, tail_has_no_low_bits, {number(0x40)}},
    {"queue.head_cannot_be_written", "§1", kQueued, Software::Wrong, head_cannot_be_written, {number(16), yes()}},
    {"queue.address_reads_back_while_off",
     "§1",
     kQueued,
     Software::Right,
     address_reads_back_while_off,
     {yes()},
     {{no()}, "IQA reads back only what the queue runs with: keep a copy", true}},
    {"queue.address_reads_back_while_on", "§1", kQueued, Software::Right, address_reads_back_while_on, {yes(), yes()}},
    {"queue.width_reads_back",
     "§1 DW, §12.1",
     kScalable,
     Software::Right,
     width_reads_back,
     {yes()},
     {{no()}, "IQA.DW reads as 0: a successor must be told", true}},
    {"queue.address_is_fixed_while_on", "§1", kQueued, Software::Wrong, address_is_fixed_while_on, {yes()}},
    {"queue.register_flush_does_nothing",
     "§1",
     kQueued | kKeeps,
     Software::Wrong,
     register_flush_while_queued,
     {lands(0)}},
    {"queue.completion_event_is_sent",
     "§5 wait IF",
     kQueued,
     Software::Right,
     completion_event_is_sent,
     {yes(), number(1), yes()}},
    {"queue.completion_event_waits_while_masked",
     "§1",
     kQueued,
     Software::Right,
     completion_event_waits_while_masked,
     {yes(), no(), yes()}},
    {"queue.completion_event_is_sent_once",
     "§1 ICS",
     kQueued,
     Software::Right,
     completion_event_is_sent_once,
     {yes(), no(), yes()}},
    {"queue.status_and_event_in_one_wait",
     "§5, §12.1",
     kQueued | kSurvives,
     Software::Wrong,
     status_and_event_in_one_wait,
     {yes(), number(7), number(1)}},
    {"queue.completion_is_cleared_by_one",
     "§1 ICS",
     kQueued,
     Software::Right,
     completion_is_cleared_by_one,
     {number(1), number(1), number(0), no()}},
};

}  // namespace

std::span<const Behaviour> queue_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
