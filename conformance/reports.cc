// How faults are reported: records, status, and the fault event (hardware.md §1, FSTS and FRCD).
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

// A transfer whose fault stays where the unit put it.
void blocked(Bench& b, unsigned requester, u64 iova = Bench::kIova) {
  b.start_write(requester, iova);
  b.finish(requester);
}

Seen record_of_a_write(Bench& b) {
  b.start(Mode::Legacy);
  blocked(b, 1, Bench::kOther + 0x123 * 8);
  const Fault f = b.record(b.fault_status() >> 8 & 0xFF);
  return {yes_if(f.found),
          yes_if(f.source == b.source(1)),
          yes_if(f.page == Bench::kOther),
          yes_if(f.of_read),
          number(f.reason),
          number(f.low & 0xFFF)};
}

// Of a request without a PASID: neither that it had one, nor which.
Seen record_has_no_pasid(Bench& b, bool at_page) {
  b.start(Mode::Legacy);
  if (at_page) b.simple();
  blocked(b, 0, Bench::kOther);
  const Fault f = b.record(b.fault_status() >> 8 & 0xFF);
  return {number(f.high >> 31 & 1), number(f.high >> 40 & 0xF'FFFF)};
}

Seen root_record_has_no_pasid(Bench& b) {
  return record_has_no_pasid(b, false);
}

Seen page_record_has_no_pasid(Bench& b) {
  return record_has_no_pasid(b, true);
}

Seen pending_follows_the_record(Bench& b) {
  b.start(Mode::Legacy);
  const bool before = (b.fault_status() & kPending) != 0;
  blocked(b, 0);
  const u32 now = b.fault_status();
  b.clear_record(now >> 8 & 0xFF);
  return {yes_if(before), yes_if((now & kPending) != 0), yes_if((b.fault_status() & kPending) != 0)};
}

Seen pending_cannot_be_written(Bench& b) {
  b.start(Mode::Legacy);
  blocked(b, 0);
  b.write32(kFaultStatus, kPending);
  return {yes_if((b.fault_status() & kPending) != 0)};
}

Seen record_is_cleared_by_one_only(Bench& b) {
  b.start(Mode::Legacy);
  blocked(b, 0);
  const unsigned at = b.fault_status() >> 8 & 0xFF;
  const Fault before = b.record(at);
  b.write32(b.record_at(at) + 12, 0);
  const Fault after = b.record(at);
  b.clear_record(at);
  return {yes_if(before.found), yes_if(after.found && after.high == before.high), yes_if(b.record(at).found)};
}

Seen overflow_of_another_requester(Bench& b) {
  b.start(Mode::Legacy);
  blocked(b, 0);
  const u32 one = b.fault_status();
  blocked(b, 1);
  const u32 two = b.fault_status();
  return {yes_if((one & kOverflow) != 0), yes_if((two & kOverflow) != 0), yes_if(b.record(0).source == b.source(0))};
}

Seen overflow_of_the_same_requester(Bench& b) {
  b.start(Mode::Legacy);
  blocked(b, 0);
  blocked(b, 0, Bench::kOther);
  return {yes_if((b.fault_status() & kOverflow) != 0), yes_if(b.record(0).page == Bench::kIova)};
}

// Nothing is recorded until overflow is cleared, not even with a free record.
Seen overflow_stops_recording(Bench& b) {
  b.start(Mode::Legacy);
  blocked(b, 0);
  blocked(b, 1);
  b.clear_record(0);
  blocked(b, 1);
  const bool during = (b.fault_status() & kPending) != 0;
  b.write32(kFaultStatus, kOverflow);
  blocked(b, 1);
  return {yes_if(during), yes_if((b.fault_status() & kPending) != 0), yes_if((b.fault_status() & kOverflow) != 0)};
}

Seen records_are_used_in_turn(Bench& b) {
  b.start(Mode::Legacy);
  // Wherever the unit is, the next one follows, modulo their number.
  blocked(b, 0);
  const unsigned first = b.fault_status() >> 8 & 0xFF;
  blocked(b, 1, Bench::kOther);
  const Fault second = b.record((first + 1) % b.records());
  const bool unchanged = (b.fault_status() >> 8 & 0xFF) == first;
  return {yes_if(b.record(first).source == b.source(0)), yes_if(second.found && second.source == b.source(1)),
          yes_if(unchanged)};
}

Seen all_records_then_overflow(Bench& b) {
  b.start(Mode::Legacy);
  for (unsigned i = 0; i < b.records(); ++i) blocked(b, i % 2);
  const bool full = (b.fault_status() & kOverflow) != 0;
  blocked(b, 0);
  return {yes_if(full), yes_if((b.fault_status() & kOverflow) != 0)};
}

Seen event_is_sent(Bench& b) {
  b.start(Mode::Legacy);
  const u8 vector = b.aim(kFaultControl, true);
  const bool before = b.came(vector);
  blocked(b, 0);
  return {yes_if(before), yes_if(b.came(vector)), yes_if((b.read32(kFaultControl) & kEventPending) != 0)};
}

Seen event_waits_while_masked(Bench& b) {
  b.start(Mode::Legacy);
  const u8 vector = b.aim(kFaultControl, false);
  blocked(b, 0);
  const bool pending = (b.read32(kFaultControl) & kEventPending) != 0;
  const bool early = b.came(vector);
  b.write32(kFaultControl, 0);
  const bool sent = b.came(vector);
  return {yes_if(pending), yes_if(early), yes_if(sent), yes_if((b.read32(kFaultControl) & kEventPending) != 0)};
}

Seen event_goes_when_fsts_is_written(Bench& b) {
  b.start(Mode::Legacy);
  const u8 vector = b.aim(kFaultControl, false);
  blocked(b, 0);
  b.take_fault();
  b.write32(kFaultStatus, kOverflow);
  const bool pending = (b.read32(kFaultControl) & kEventPending) != 0;
  b.write32(kFaultControl, 0);
  return {yes_if(pending), yes_if(b.came(vector))};
}

Seen event_goes_with_its_causes(Bench& b) {
  b.start(Mode::Legacy);
  const u8 vector = b.aim(kFaultControl, false);
  blocked(b, 0);
  b.take_fault();
  const bool pending = (b.read32(kFaultControl) & kEventPending) != 0;
  b.write32(kFaultControl, 0);
  return {yes_if(pending), yes_if(b.came(vector))};
}

// A second fault before software has dealt with the first sends nothing.
Seen event_is_sent_once(Bench& b) {
  b.start(Mode::Legacy);
  const u8 first = b.aim(kFaultControl, true);
  blocked(b, 0);
  const bool sent = b.came(first);
  const u8 second = b.aim(kFaultControl, true);
  blocked(b, 0, Bench::kOther);
  const bool again = b.came(second);
  b.take_fault();
  while (b.take_fault().found) {
  }
  blocked(b, 0);
  return {yes_if(sent), yes_if(again), yes_if(b.came(second))};
}

constexpr Behaviour kList[] = {
    {"record_of_a_write",
     "§1 FRCD",
     kNothing,
     Software::Right,
     record_of_a_write,
     {yes(), yes(), yes(), no(), number(reason::kRootNotPresent), number(0)}},
    {"root_record_has_no_pasid",
     "§1 FRCD",
     kNothing,
     Software::Right,
     root_record_has_no_pasid,
     {number(0), number(0)}},
    {"page_record_has_no_pasid",
     "§1 FRCD",
     kNothing,
     Software::Right,
     page_record_has_no_pasid,
     {number(0), number(0)},
     {{number(0), number(0xFFFF)}, "PV of a fault of page tables is 0xFFFF when there was no PASID: look at PP", true}},
    {"pending_follows_the_record",
     "§1 FSTS",
     kNothing,
     Software::Right,
     pending_follows_the_record,
     {no(), yes(), no()}},
    {"pending_cannot_be_written", "§1 FSTS", kNothing, Software::Right, pending_cannot_be_written, {yes()}},
    {"record_is_cleared_by_one_only",
     "§1 FRCD",
     kNothing,
     Software::Right,
     record_is_cleared_by_one_only,
     {yes(), yes(), no()}},
    {"overflow_of_another_requester",
     "§1 PFO",
     kOneRecord,
     Software::Right,
     overflow_of_another_requester,
     {no(), yes(), yes()}},
    {"overflow_of_the_same_requester",
     "§1 PFO",
     kOneRecord,
     Software::Right,
     overflow_of_the_same_requester,
     {yes(), yes()},
     {{no(), yes()}, "faults of a requester whose record is pending are dropped without overflow", true}},
    {"overflow_stops_recording", "§1 PFO", kOneRecord, Software::Right, overflow_stops_recording, {no(), yes(), no()}},
    {"records_are_used_in_turn",
     "§1 FRI",
     kManyRecords,
     Software::Right,
     records_are_used_in_turn,
     {yes(), yes(), yes()}},
    {"all_records_then_overflow", "§1 PFO", kManyRecords, Software::Right, all_records_then_overflow, {no(), yes()}},
    {"event_is_sent", "§1 fault event", kNothing, Software::Right, event_is_sent, {no(), yes(), no()}},
    {"event_waits_while_masked",
     "§1 fault event",
     kNothing,
     Software::Right,
     event_waits_while_masked,
     {yes(), no(), yes(), no()}},
    {"event_goes_with_its_causes",
     "§1 fault event",
     kNothing,
     Software::Right,
     event_goes_with_its_causes,
     {no(), no()},
     {{yes(), yes()}, "IP drops with the next write of FSTS only: write it after records were cleared", true}},
    {"event_goes_when_fsts_is_written",
     "§1 fault event",
     kNothing,
     Software::Right,
     event_goes_when_fsts_is_written,
     {no(), no()}},
    {"event_is_sent_once", "§1 fault event", kNothing, Software::Right, event_is_sent_once, {yes(), no(), yes()}},
};

}  // namespace

std::span<const Behaviour> report_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
