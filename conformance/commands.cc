// Registers and global commands (hardware.md §1).
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

using namespace vtd;

namespace {

Seen capabilities_are_consistent(Bench& b) {
  const u64 window = perdure::kPageSize;
  const bool version = (b.read32(kVersion) >> 4 & 0xF) >= 1;
  const bool widths = (b.cap() >> 8 & 0xE) != 0 && b.mgaw() >= 30;
  const bool records = b.record_at(b.records()) <= window && b.record_at(0) >= 0x100;
  const bool iotlb = b.iotlb_at() + 16 <= window && b.iotlb_at() >= 0xC0;
  // Scalable mode is made of more.
  const bool scalable =
      (b.ecap() & bit(43)) == 0 || ((b.ecap() & bit(1)) != 0 && (b.ecap() & (bit(46) | bit(47))) != 0);
  return {yes_if(version), yes_if(widths), yes_if(records), yes_if(iotlb), yes_if(scalable)};
}

Seen halves_of_cap_agree(Bench& b) {
  const u64 halves = b.read32(kCap) | u64{b.read32(kCap + 4)} << 32;
  return {yes_if(halves == b.cap())};
}

Seen gcmd_reads_as_zero(Bench& b) {
  b.start(Mode::Legacy);
  return {number(b.read32(kCommand))};
}

Seen gsts_cannot_be_written(Bench& b) {
  b.start(Mode::Legacy);
  const u32 before = b.status();
  b.write32(kStatus, 0);
  const u32 cleared = b.status();
  b.write32(kStatus, ~u32{0});
  return {yes_if(cleared == before), yes_if(b.status() == before)};
}

Seen te_follows_the_command(Bench& b) {
  b.prepare(Mode::Legacy);
  const bool before = (b.status() & kTranslation) != 0;
  b.command(kTranslation, true);
  const bool on = (b.status() & kTranslation) != 0;
  b.command(kTranslation, false);
  return {yes_if(before), yes_if(on), yes_if((b.status() & kTranslation) != 0)};
}

Seen root_pointer_set_stays_set(Bench& b) {
  b.prepare(Mode::Legacy);
  const bool set = (b.status() & kSetRoot) != 0;
  b.command(kTranslation, true);
  const bool kept = (b.status() & kSetRoot) != 0;
  b.command(kTranslation, false);
  return {yes_if(set), yes_if(kept), yes_if((b.status() & kSetRoot) != 0)};
}

// The single easiest way to break a live update.
Seen te_must_be_restated(Bench& b) {
  b.start(Mode::Legacy);
  b.write32(kCommand, kSetRoot);
  b.wait([&] { return (b.status() & kTranslation) == 0 && (b.status() & kSetRoot) != 0; }, 1'000'000);
  return {yes_if((b.status() & kTranslation) != 0), yes_if((b.status() & kSetRoot) != 0)};
}

Seen rtaddr_reads_back(Bench& b) {
  b.start(Mode::Legacy);
  const u64 staged = b.pages();
  b.write64(kRoot, staged);
  const bool whole = b.read64(kRoot) == staged;
  b.write32(kRoot, static_cast<u32>(b.root()));
  b.write32(kRoot + 4, static_cast<u32>(b.root() >> 32));
  return {yes_if(whole), yes_if(b.read64(kRoot) == b.root())};
}

// Writing RTADDR only stages a value; SRTP latches it.
Seen rtaddr_counts_from_srtp_on(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  const u64 empty = b.pages();
  b.write64(kRoot, empty);
  b.flush_all();
  const Observation staged = b.write(0, Bench::kIova);
  b.command(kSetRoot, true);
  b.flush_all();
  return {staged, b.write(0, Bench::kIova)};
}

Seen one_shots_leave_no_trace(Bench& b) {
  b.start(Mode::Legacy);
  const u32 one_shots = 1u << 29 | kWriteBuffer;
  return {number(b.status() & one_shots)};
}

Seen write_buffer_flush_completes(Bench& b) {
  b.start(Mode::Legacy);
  const bool done = b.command(kWriteBuffer, true);
  return {yes_if(done), yes_if((b.status() & kTranslation) != 0)};
}

Seen translation_off_is_identity(Bench& b) {
  const Observation before = b.write(0, b.target(1));
  b.start(Mode::Legacy);
  const Observation on = b.write(0, b.target(1));
  b.command(kTranslation, false);
  return {before, on, b.write(0, b.target(1))};
}

// DMA that comes while translation is off is not recorded anywhere: only the device can tell.
Seen gap_leaves_no_fault(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  b.command(kTranslation, false);
  const Observation gap = b.write(0, Bench::kIova);
  b.command(kTranslation, true);
  return {gap, b.write(0, Bench::kIova)};
}

template <Grain kGrain>
Seen register_flush_reports(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  const bool context = b.flush_context(kGrain, Bench::kDid, b.source(0));
  const Grain done = b.done_context();
  const bool iotlb = b.flush_iotlb(kGrain, Bench::kDid, Bench::kIova);
  const Grain also = b.done_iotlb();
  // It may do more than it was asked for, and says so.
  const auto covers = [](Grain g) { return g >= Grain::Global && g <= kGrain; };
  return {yes_if(context), yes_if(covers(done)), yes_if(iotlb), yes_if(covers(also))};
}

Seen flush_starts_with_the_high_half(Bench& b) {
  b.start(Mode::Legacy);
  const Table table = b.simple();
  b.require(b.write(0, Bench::kIova) == lands(0), "DMA through the table");
  b.map(table, Bench::kIova, b.target(1));
  const u64 at = b.iotlb_at() + 8;
  b.write32(at, 0);
  b.write32(at + 4, static_cast<u32>((bit(63) | u64(Grain::Global) << 60) >> 32));
  const bool done = b.wait([&] { return (b.read64(at) & bit(63)) == 0; });
  return {yes_if(done), b.write(0, Bench::kIova)};
}

Seen fault_event_reads_back(Bench& b) {
  b.write32(kFaultControl, kMasked);
  b.write32(kFaultControl + 4, 0x41);
  b.write32(kFaultControl + 8, 0xFEE0'0000);
  b.write32(kFaultControl + 12, 0);
  const bool masked = (b.read32(kFaultControl) & kMasked) != 0;
  const u32 data = b.read32(kFaultControl + 4) & 0xFFFF;
  const bool address = b.read32(kFaultControl + 8) == 0xFEE0'0000;
  b.write32(kFaultControl, 0);
  const bool unmasked = (b.read32(kFaultControl) & kMasked) == 0;
  return {yes_if(masked), number(data), yes_if(address), yes_if(unmasked)};
}

Seen event_pending_cannot_be_written(Bench& b) {
  b.write32(kFaultControl, kMasked | kEventPending);
  return {yes_if((b.read32(kFaultControl) & kEventPending) != 0)};
}

Seen capabilities_cannot_be_written(Bench& b) {
  b.write64(kCap, 0);
  b.write64(kEcap, 0);
  return {yes_if(b.read64(kCap) == b.cap()), yes_if(b.read64(kEcap) == b.ecap())};
}

Seen rtaddr_reserved_bits_read_as_zero(Bench& b) {
  b.write64(kRoot, 0x3FF);
  return {number(b.read64(kRoot))};
}

Seen protected_memory(Bench& b) {
  b.write32(kProtection + 4, static_cast<u32>(b.target(1) & ~u64{0x1F'FFFF}));
  b.write32(kProtection + 8, static_cast<u32>(b.target(1) & ~u64{0x1F'FFFF}));
  b.write32(kProtection, u32{1} << 31);
  const bool on = b.wait([&] { return (b.read32(kProtection) & 1) != 0; });
  const Observation during = b.write(0, b.target(1));
  b.write32(kProtection, 0);
  b.wait([&] { return (b.read32(kProtection) & 1) == 0; });
  return {yes_if(on), during, b.write(0, b.target(1))};
}

// A doubleword of a device's DMA at 0xFEEx'xxxx is an interrupt, never looked up in tables.
Seen write_to_the_window_is_a_message(Bench& b) {
  b.start(Mode::Legacy);
  b.simple();
  const u8 vector = b.fresh_vector();
  b.start_message(0, vector);
  b.finish(0);
  return {yes_if(b.came(vector)), b.fault_of(0, 0xFEE0'0000, false)};
}

Seen wide_access_to_a_narrow_register(Bench& b) {
  b.start(Mode::Legacy);
  b.start_write(0, Bench::kIova);
  b.finish(0);
  b.write64(kFaultStatus, ~u64{0});
  b.write64(kFaultControl, 0);
  return {yes_if((b.fault_status() & kPending) != 0), yes_if((b.read32(kFaultControl) & kMasked) != 0)};
}

constexpr Behaviour kList[] = {
    {"capabilities_are_consistent",
     "§2",
     kNothing,
     Software::Right,
     capabilities_are_consistent,
     {yes(), yes(), yes(), yes(), yes()}},
    {"halves_of_cap_agree", "§1", kNothing, Software::Right, halves_of_cap_agree, {yes()}},
    {"gcmd_reads_as_zero", "§1", kNothing, Software::Right, gcmd_reads_as_zero, {number(0)}},
    {"gsts_cannot_be_written", "§1", kNothing, Software::Wrong, gsts_cannot_be_written, {yes(), yes()}},
    {"te_follows_the_command", "§1 GCMD", kNothing, Software::Right, te_follows_the_command, {no(), yes(), no()}},
    {"root_pointer_set_stays_set",
     "§1 GCMD",
     kNothing,
     Software::Right,
     root_pointer_set_stays_set,
     {yes(), yes(), yes()}},
    {"te_must_be_restated", "§1 GCMD", kNothing, Software::Wrong, te_must_be_restated, {no(), yes()}},
    {"rtaddr_reads_back", "§1 RTADDR", kNothing, Software::Right, rtaddr_reads_back, {yes(), yes()}},
    {"rtaddr_counts_from_srtp_on",
     "§1 RTADDR",
     kNothing,
     Software::Right,
     rtaddr_counts_from_srtp_on,
     {lands(0), faults(reason::kRootNotPresent)}},
    {"one_shots_leave_no_trace", "§1 GCMD", kNothing, Software::Right, one_shots_leave_no_trace, {number(0)}},
    {"write_buffer_flush_completes",
     "§1 GCMD",
     kWriteBuffers,
     Software::Right,
     write_buffer_flush_completes,
     {yes(), yes()}},
    {"translation_off_is_identity",
     "§1 TE",
     kNothing,
     Software::Right,
     translation_off_is_identity,
     {lands(1), faults(reason::kRootNotPresent), lands(1)}},
    {"gap_leaves_no_fault", "§12.1, §13", kNothing, Software::Right, gap_leaves_no_fault, {lost(), lands(0)}},
    {"register_flush_global",
     "§1 CCMD, IOTLB",
     kNothing,
     Software::Right,
     register_flush_reports<Grain::Global>,
     {yes(), yes(), yes(), yes()}},
    {"register_flush_domain",
     "§1 CCMD, IOTLB",
     kNothing,
     Software::Right,
     register_flush_reports<Grain::Domain>,
     {yes(), yes(), yes(), yes()}},
    {"register_flush_fine",
     "§1 CCMD, IOTLB",
     kNothing,
     Software::Right,
     register_flush_reports<Grain::Fine>,
     {yes(), yes(), yes(), yes()}},
    {"flush_starts_with_the_high_half",
     "§1",
     kNothing,
     Software::Right,
     flush_starts_with_the_high_half,
     {yes(), lands(1)}},
    {"fault_event_reads_back",
     "§1 fault event",
     kNothing,
     Software::Right,
     fault_event_reads_back,
     {yes(), number(0x41), yes(), yes()}},
    {"capabilities_cannot_be_written", "§1", kNothing, Software::Wrong, capabilities_cannot_be_written, {yes(), yes()}},
    {"rtaddr_reserved_bits_read_as_zero",
     "§1 RTADDR",
     kNothing,
     Software::Right,
     rtaddr_reserved_bits_read_as_zero,
     {number(0)}},
    {"protected_memory", "§1 PMEN", kProtects, Software::Right, protected_memory, {yes(), lost(), lands(1)}},
    {"write_to_the_window_is_a_message",
     "§7",
     kNothing,
     Software::Right,
     write_to_the_window_is_a_message,
     {yes(), lost()}},
    {"wide_access_to_a_narrow_register",
     "§1, §12.1",
     kSurvives,
     Software::Wrong,
     wide_access_to_a_narrow_register,
     {yes(), yes()}},
    {"event_pending_cannot_be_written",
     "§1 fault event",
     kNothing,
     Software::Right,
     event_pending_cannot_be_written,
     {no()}},
};

}  // namespace

std::span<const Behaviour> command_behaviours() {
  return kList;
}

}  // namespace perdure::conformance
