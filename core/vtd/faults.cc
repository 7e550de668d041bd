#include "core/vtd/faults.h"

#include "core/base/log.h"

namespace perdure::vtd {
namespace {

// A device that faults all the time must not fill the log: beyond this many, only each power of two is printed.
constexpr u64 kAlwaysLogged = 16;
// Passes over the records before a device counts as faulting without end.
constexpr unsigned kMaxRounds = 8;

std::string_view kind_name(FaultKind kind) {
  switch (kind) {
    case FaultKind::Write: return "write";
    case FaultKind::Read: return "read";
    case FaultKind::PageRequest: return "page request";
    case FaultKind::Atomic: return "atomic";
  }
  return "?";
}

// Records of these say an entry's index where others say an address (hardware.md §1, FRCD).
bool is_interrupt_fault(u8 reason) {
  return reason >= 0x20 && reason <= 0x26;
}

FaultKind kind_of(u64 high) {
  if (FrcdHigh::T1::test(high)) return FrcdHigh::T2::test(high) ? FaultKind::Atomic : FaultKind::Read;
  return FrcdHigh::T2::test(high) ? FaultKind::PageRequest : FaultKind::Write;
}

}  // namespace

std::string_view fault_reason_name(u8 reason) {
  switch (reason) {
    case 0x01: return "root entry not present";
    case 0x02: return "context entry not present";
    case 0x03: return "context entry invalid";
    case 0x04: return "address beyond the domain's width";
    case 0x05: return "no write permission";
    case 0x06: return "no read permission";
    case 0x07: return "page table unreadable";
    case 0x08: return "root table unreadable";
    case 0x09: return "context table unreadable";
    case 0x0a: return "reserved bits in root entry";
    case 0x0b: return "reserved bits in context entry";
    case 0x0c: return "reserved bits in page-table entry";
    case 0x0d: return "translation type blocks the request";
    case 0x0e: return "result in the interrupt window";
    case 0x20: return "reserved bits in interrupt request";
    case 0x21: return "interrupt index too large";
    case 0x22: return "interrupt entry not present";
    case 0x23: return "interrupt table unreadable";
    case 0x24: return "reserved bits in interrupt entry";
    case 0x25: return "compatibility-format interrupt blocked";
    case 0x26: return "interrupt from the wrong requester";
    case 0x30: return "root table address or mode invalid";
    case 0x38: return "scalable root entry unreadable";
    case 0x39: return "scalable root entry not present";
    case 0x3a: return "reserved bits in scalable root entry";
    case 0x40: return "scalable context entry unreadable";
    case 0x41: return "scalable context entry not present";
    case 0x42: return "reserved bits in scalable context entry";
    case 0x43: return "scalable context entry invalid";
    case 0x44: return "no device TLB allowed";
    case 0x45: return "no requests with a PASID allowed";
    case 0x46: return "PASID beyond the directory";
    case 0x47: return "no page requests allowed";
    case 0x48: return "bad PASID for requests without one";
    case 0x50: return "PASID directory entry unreadable";
    case 0x51: return "PASID directory entry not present";
    case 0x52: return "reserved bits in PASID directory entry";
    case 0x58: return "PASID entry unreadable";
    case 0x59: return "PASID entry not present";
    case 0x5a: return "reserved bits in PASID entry";
    case 0x5b: return "PASID entry invalid";
    case 0x70: return "first-stage entry unreadable";
    case 0x71: return "first-stage entry not present";
    case 0x72: return "reserved bits in first-stage entry";
    case 0x73: return "first-stage table unreadable";
    case 0x78: return "second-stage entry unreadable";
    case 0x79: return "second-stage permission";
    case 0x7a: return "reserved bits in second-stage entry";
    case 0x7b: return "second-stage table unreadable";
    case 0x7c: return "accessed or dirty bit cannot be set";
    case 0x80: return "address not canonical";
    case 0x81: return "page not for users";
    case 0x83: return "address beyond the unit's width";
    case 0x84: return "address beyond the domain's width";
    case 0x85: return "no write permission";
    case 0x86: return "no read permission";
    case 0x87: return "result in the interrupt window";
    case 0x90:
    case 0x91: return "accessed or dirty bit cannot be set";
    default: return "unknown reason";
  }
}

void FaultLog::set_mask(bool masked) {
  registers_.write(reg::kFaultControl, masked ? EventControl::Mask::value() : 0);
  registers_.read(reg::kFaultControl);  // posted until read back
}

void FaultLog::mask() {
  enabled_.store(false);
  set_mask(true);
}

void FaultLog::unmask() {
  if (!armed_) return;
  enabled_.store(true);
  set_mask(false);
  // What was recorded meanwhile sends its message only if the unit kept it pending; looking is cheaper than trusting.
  drain();
}

void FaultLog::arm() {
  mask();
  drain(true);
  if (!armed_) {
    auto target = registers_.machine().irq_alloc(*this);
    if (!target) {
      log(registers_.machine(), LogLevel::Warn,
          Line() << "vtd " << registers_.base() << ": no interrupt for fault events (" << target.error()
                 << "): faults are reported late");
      return;
    }
    target_ = *target;
    armed_ = true;
  }
  // Only while masked (§1).
  registers_.write(reg::kFaultData, target_.data);
  registers_.write(reg::kFaultAddress, static_cast<u32>(target_.address));
  registers_.write(reg::kFaultUpperAddress, static_cast<u32>(target_.address >> 32));
  unmask();
}

void FaultLog::disarm() {
  if (!armed_) return;
  mask();
  armed_ = false;
  registers_.machine().irq_free(target_);
}

void FaultLog::drain(bool inherited) {
  // Whoever comes second leaves a note and goes: an interrupt may not wait, and may even come while this thread is
  // draining.
  if (pending_.fetch_add(1, std::memory_order_acq_rel) != 0) return;
  u32 seen = 1;
  for (unsigned round = 1;; ++round) {
    const bool empty = drain_once(inherited);
    if (empty && storming_.exchange(false)) {
      if (enabled_.load()) set_mask(false);
      if (!enabled_.load()) set_mask(true);  // somebody masked it in between, and means it
    }
    if (empty && pending_.compare_exchange_strong(seen, 0, std::memory_order_acq_rel)) return;
    if (round < kMaxRounds) continue;
    set_mask(true);
    if (!storming_.exchange(true)) {
      log(registers_.machine(), LogLevel::Error,
          Line() << "vtd " << registers_.base() << ": faults come faster than they can be read; the event is masked");
    }
    pending_.store(0, std::memory_order_release);
    return;
  }
}

// True when nothing was left at the end.
bool FaultLog::drain_once(bool inherited) {
  const unsigned count = reg::fault_records(cap_);
  const u32 fsts = registers_.read(reg::kFaultStatus);
  if (fsts == ~u32{0}) return true;  // nobody answers; the queue will find that out
  if (!Fsts::Ppf::test(fsts) && !Fsts::Pfo::test(fsts)) return true;
  unsigned record = Fsts::Fri::get(fsts) % count;
  for (unsigned i = 0; i < count; ++i, record = (record + 1) % count) {
    const u64 high = registers_.read(reg::fault_high(cap_, record));
    if (!FrcdHigh::Fault::test(high)) break;
    const u64 low = registers_.read(reg::fault_low(cap_, record));
    registers_.write(reg::fault_clear(cap_, record), static_cast<u32>(FrcdHigh::Fault::value() >> 32));
    Fault fault;
    fault.source = {segment_, static_cast<u16>(FrcdHigh::Sid::get(high))};
    fault.iova = Iova(FrcdLow::Page::in_place(low));
    fault.reason = static_cast<u8>(FrcdHigh::Reason::get(high));
    fault.kind = kind_of(high);
    fault.has_pasid = FrcdHigh::PasidPresent::test(high);
    fault.pasid = fault.has_pasid ? static_cast<u32>(FrcdHigh::Pasid::get(high)) : 0;
    fault.inherited = inherited;
    report(fault);
  }
  if (Fsts::Pfo::test(fsts)) {
    // Last, so that the freed records are there for what comes next.
    registers_.write(reg::kFaultStatus, Fsts::Pfo::value());
    const u64 n = overflows_.fetch_add(1, std::memory_order_relaxed) + 1;
    if (n <= kAlwaysLogged || is_pow2(n)) {
      log(registers_.machine(), LogLevel::Warn,
          Line() << "vtd " << registers_.base() << ": faults were dropped: more came than the unit can record");
    }
  }
  return (registers_.read(reg::kFaultStatus) & (Fsts::Ppf::kMask | Fsts::Pfo::kMask)) == 0;
}

void FaultLog::report(const Fault& fault) {
  const u64 n = reported_.fetch_add(1, std::memory_order_relaxed) + 1;
  if (n <= kAlwaysLogged || is_pow2(n)) {
    Line line;
    line << "vtd " << registers_.base() << ": ";
    if (fault.inherited) line << "inherited ";
    line << "fault " << n << ": " << kind_name(fault.kind) << " by " << Hex{fault.source.segment} << ":"
         << Hex{fault.source.bdf};
    if (is_interrupt_fault(fault.reason)) {
      line << " of interrupt entry " << (fault.iova.value >> 48);
    } else {
      line << " at " << fault.iova;
    }
    line << ": " << fault_reason_name(fault.reason) << " (" << Hex{fault.reason} << ")";
    if (fault.has_pasid) line << ", PASID " << fault.pasid;
    log(registers_.machine(), LogLevel::Warn, line);
  }
  if (listener_) listener_->on_fault(fault);
}

}  // namespace perdure::vtd
