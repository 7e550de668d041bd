// The bench's probes: edu devices. A probe holds words of its own that it sends in turn, so that a word found in memory
// tells which transfer put it there.
#include "conformance/bench.h"

namespace perdure::conformance {

namespace {
// Of the edu device.
constexpr u64 kRaise = 0x60;
constexpr u64 kAcknowledge = 0x64;
constexpr u64 kFrom = 0x80;
constexpr u64 kTo = 0x88;
constexpr u64 kCount = 0x90;
constexpr u64 kRun = 0x98;
constexpr u64 kToMemory = 2;
constexpr u64 kTransferLimit = 1'000'000'000;
}  // namespace

u64 Bench::device_read(unsigned requester, u64 offset) {
  return hardware_.mmio_read(hardware_.requesters[requester].registers + offset,
                             offset < 0x80 ? Width::W32 : Width::W64);
}

void Bench::device_write(unsigned requester, u64 offset, u64 value) {
  hardware_.mmio_write(hardware_.requesters[requester].registers + offset, offset < 0x80 ? Width::W32 : Width::W64,
                       value);
}

void Bench::transfer(unsigned requester, bool to_memory, u64 inside, u64 outside, u64 bytes) {
  device_write(requester, kFrom, to_memory ? kBuffer + inside : outside);
  device_write(requester, kTo, to_memory ? outside : kBuffer + inside);
  device_write(requester, kCount, bytes);
  device_write(requester, kRun, 1 | (to_memory ? kToMemory : 0));
  probes_[requester].busy = true;
}

void Bench::finish(unsigned requester) {
  if (!probes_[requester].busy) return;
  require(wait([&] { return (device_read(requester, kRun) & 1) == 0; }, kTransferLimit), "an end of the transfer");
  probes_[requester].busy = false;
}

u64 Bench::stamp_word(unsigned requester, u64 n) const {
  return 0xC0DE'0000'0000'0000 | u64{source(requester)} << 32 | (n + 1);
}

u64 Bench::stamp(unsigned requester, u64 offset) const {
  return stamp_word(requester, probes_[requester].first + offset / 8);
}

// While nothing is translated.
void Bench::load_stamps(unsigned requester) {
  const u64 from = pages();
  for (u64 n = 0; n < kStamps; ++n) store(from + n * 8, stamp_word(requester, n));
  transfer(requester, false, 0, from, kInbox);
  finish(requester);
  probes_[requester].loaded = problem_.empty();
}

void Bench::start_write(unsigned requester, u64 iova, u64 bytes) {
  Probe& probe = probes_[requester];
  if (probe.next + bytes / 8 > kStamps) probe.next = 0;
  probe.first = probe.next;
  probe.next += bytes / 8;
  probe.iova = iova;
  // A word of a former round must not be taken for this one's.
  for (unsigned i = 0; i < kTargets; ++i) store(target(i) + iova % perdure::kPageSize, 0);
  transfer(requester, true, probe.first * 8, iova, bytes);
}

// The low half of the stamp number n is n + 1.
void Bench::start_message(unsigned requester, u8 vector) {
  transfer(requester, true, u64{vector - 1u} * 8, message(vector).address, 4);
}

Observation Bench::finish_write(unsigned requester) {
  finish(requester);
  const Probe& probe = probes_[requester];
  for (unsigned i = 0; i < kTargets; ++i) {
    if (load(target(i) + probe.iova % perdure::kPageSize) == stamp(requester)) return lands(i);
  }
  return fault_of(requester, probe.iova, false);
}

Observation Bench::write(unsigned requester, u64 iova) {
  start_write(requester, iova);
  return finish_write(requester);
}

Observation Bench::read(unsigned requester, u64 iova) {
  const u64 offset = iova % perdure::kPageSize;
  const auto mark = [&](unsigned i) { return 0xBEAD'0000'0000'0000 | target(i) | offset; };
  for (unsigned i = 0; i < kTargets; ++i) store(target(i) + offset, mark(i));
  transfer(requester, false, kInbox, iova, 8);
  finish(requester);
  const Observation fault = fault_of(requester, iova, true);
  if (fault != lost()) return fault;
  store(mailbox_, 0);
  transfer(requester, true, kInbox, mailbox_iova_, 8);
  finish(requester);
  const u64 got = load(mailbox_);
  require(!take_fault().found, "a page for what was read");
  for (unsigned i = 0; i < kTargets; ++i) {
    if (got == mark(i)) return lands(i);
  }
  return lost();
}

void Bench::interrupt(unsigned requester, u32 address, u32 data) {
  const Phys config = hardware_.requesters[requester].config;
  const auto read = [&](u64 at) { return static_cast<u32>(hardware_.mmio_read(config + at, Width::W32)); };
  const auto write = [&](u64 at, u32 value) { hardware_.mmio_write(config + at, Width::W32, value); };
  u64 at = read(0x34) & 0xFC;
  while (at != 0 && (read(at) & 0xFF) != 5) at = read(at) >> 8 & 0xFC;
  require(at != 0, "a device that sends messages");
  if (at == 0) return;
  const u32 control = read(at);
  const bool wide = (control & u32{1} << 23) != 0;
  write(at, control & ~(u32{1} << 16));
  write(at + 4, address);
  if (wide) write(at + 8, 0);
  write(at + (wide ? 12 : 8), data);
  write(at, control | u32{1} << 16);
  device_write(requester, kRaise, 1);
  device_write(requester, kAcknowledge, 1);
}

}  // namespace perdure::conformance
