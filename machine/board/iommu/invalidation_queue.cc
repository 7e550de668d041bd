#include "machine/board/iommu/invalidation_queue.h"

#include <algorithm>

namespace perdure::board {

namespace {

using namespace reg;

// IQERCD.IQEI.
constexpr u8 kBadTail = 1;
constexpr u8 kFetch = 2;
constexpr u8 kBadType = 3;
constexpr u8 kReserved = 4;
constexpr u8 kBadWidth = 5;

// Type: bits 3:0, extended by 11:9.
constexpr unsigned type_of(u64 q0) {
  return static_cast<unsigned>(Field<3, 0>::get(q0) | Field<11, 9>::get(q0) << 4);
}
constexpr u64 kTypeBits = Field<3, 0>::kMask | Field<11, 9>::kMask;
using Granularity = Field<5, 4>;
using Did = Field<31, 16>;
using Pasid = Field<51, 32>;

// qw1 of the page-selective descriptors.
constexpr u64 kPageBits = iva::Addr::kMask | iva::Ih::kMask | iva::Am::kMask;

constexpr u16 narrow16(u64 v) {
  return static_cast<u16>(v);
}

}  // namespace

void InvalidationQueue::enable() {
  if (tail_ != 0) checker_.note(ViolationKind::IqtAtEnable, kIqt, tail_);
  base_ = iqa::Base::in_place(address_);
  wide_ = iqa::Dw::test(address_);
  size_ = static_cast<u8>(iqa::Qs::get(address_));
  if (!memory_.is_ram(base_, queue_bytes())) checker_.note(ViolationKind::IqaNotRam, kIqa, address_);
  held_ = false;
  abort_waits_ = false;
  ran_any_ = false;
  last_was_wait_ = false;
  enabled_ = true;
}

bool InvalidationQueue::disable() {
  const bool stopped = faults_.has(fsts::kIqe | fsts::kIte);
  const bool busy = head_ != tail_ || !waits_.empty();
  const bool after_work = ran_any_ && !last_was_wait_;
  if (busy && !stopped) checker_.note(ViolationKind::QiDisableBusy, kIqh, head_ << 32 | tail_);
  if (after_work && !stopped) checker_.note(ViolationKind::QiDisableAfterWork, kIqh, head_);
  if (config_.quirks.qi_disable_needs_wait && (head_ != tail_ || !ever_last_wait_)) {
    if (!ever_last_wait_ && !after_work) checker_.note(ViolationKind::QiDisableAfterWork, kIqh, head_);
    return false;
  }
  enabled_ = false;
  head_ = 0;
  waits_.clear();
  return true;
}

u64 InvalidationQueue::address() const {
  u64 shown = address_;
  if (config_.quirks.iqa_dw_unreadable) shown &= ~iqa::Dw::kMask;
  if (config_.quirks.iqa_base_latched) shown = (shown & ~iqa::Base::kMask) | base_;
  return shown;
}

void InvalidationQueue::write_address(u64 value) {
  if (enabled_) {
    checker_.note(ViolationKind::IqaWhileEnabled, kIqa, value);
    return;
  }
  address_ = value & (iqa::Base::kMask | iqa::Dw::kMask | iqa::Qs::kMask);
}

void InvalidationQueue::write_tail(u64 value) {
  tail_ = value & Field<18, 4>::kMask;
  if (wide_ && config_.quirks.queue_unchecked) tail_ &= ~u64{16};
  held_ = false;
}

void InvalidationQueue::write_completion_status(u32 value) {
  completion_status_ &= ~(value & 1);
  if (completion_status_ == 0) event_.settle();
}

void InvalidationQueue::errors_cleared(u32 bits) {
  if ((bits & fsts::kIqe) != 0 && config_.quirks.iqe_needs_tail_write) held_ = true;
  if ((bits & fsts::kIqe) != 0) error_record_ = iqercd::Iqei::set(error_record_, 0);
}

bool InvalidationQueue::runnable() const {
  if (!enabled_ || held_ || head_ == tail_ || faults_.has(fsts::kIqe | fsts::kIte)) return false;
  return std::none_of(waits_.begin(), waits_.end(), [](const Wait& w) { return w.fence; });
}

bool InvalidationQueue::advance(bool scalable) {
  if (complete_waits()) return true;
  if (!runnable()) return false;
  const u64 at = base_ + head_;
  if (injected_error_ != 0) {
    error_record_ = iqercd::Iqei::set(error_record_, injected_error_);
    injected_error_ = 0;
    faults_.raise(fsts::kIqe);
    return true;
  }
  if (tail_ >= queue_bytes() || tail_ % descriptor_bytes() != 0) {
    stop(kBadTail);
    return true;
  }
  u64 q[4] = {};
  for (unsigned i = 0; i < descriptor_bytes() / 8; ++i) {
    if (!reader_.load(at + i * 8, TableUse::Queue, true, false, 0, q[i])) {
      stop(kFetch);
      return true;
    }
  }
  if (const u8 code = execute(q, scalable); code != 0) {
    stop(code);
    return true;
  }
  ++descriptors_;
  ran_any_ = true;
  head_ = (head_ + descriptor_bytes()) % queue_bytes();
  return true;
}

void InvalidationQueue::stop(u8 code) {
  checker_.note(ViolationKind::QueueError, base_ + head_, code);
  if (!config_.quirks.queue_unchecked) error_record_ = iqercd::Iqei::set(error_record_, code);
  faults_.raise(fsts::kIqe);
}

bool InvalidationQueue::complete_waits() {
  if (waits_.empty() || !flusher_.drained(waits_.front().drain)) return false;
  const Wait done = waits_.front();
  waits_.pop_front();
  complete(done);
  return true;
}

void InvalidationQueue::complete(const Wait& wait) {
  if (wait.write_status) {
    if (!memory_.may_use(wait.status_address, TableUse::WaitStatus)) {
      checker_.note(ViolationKind::TableNotUsable, wait.status_address, static_cast<u64>(TableUse::WaitStatus));
    }
    if (!memory_.store32(wait.status_address, wait.data)) {
      checker_.note(ViolationKind::WaitStatusNotRam, wait.status_address, wait.data);
    }
  }
  if (wait.event && completion_status_ == 0) {
    completion_status_ = 1;
    event_.raise();
  }
}

// Software's mistake, which QEMU does not look at.
bool InvalidationQueue::tolerated(u8 code) {
  if (config_.quirks.queue_unchecked) checker_.note(ViolationKind::QueueError, base_ + head_, code);
  return config_.quirks.queue_unchecked;
}

u8 InvalidationQueue::execute(const u64 (&q)[4], bool scalable) {
  if (wide_ && !config_.scalable) return kBadWidth;
  if ((q[2] != 0 || q[3] != 0) && !tolerated(kReserved)) return kReserved;
  const unsigned type = type_of(q[0]);
  if (type >= 6 && type <= 9 && config_.scalable && !wide_ && !tolerated(kBadWidth)) return kBadWidth;
  u8 code = kBadType;
  switch (type) {
    case 1: code = context_cache(q, scalable); break;
    case 2: code = iotlb(q); break;
    case 3: {
      constexpr u64 kBits = kTypeBits | Field<20, 12>::kMask | Field<47, 32>::kMask | Field<63, 52>::kMask;
      if (!config_.device_tlb) {
        code = tolerated(kBadType) ? u8{0} : kBadType;
        break;
      }
      if ((q[0] & ~kBits) != 0 || Field<11, 1>::get(q[1]) != 0) return kReserved;
      code = device_tlb(narrow16(Field<47, 32>::get(q[0])), q[1], Bit<0>::test(q[1]));
      break;
    }
    case 4:
      if (config_.interrupt_remap) {
        code = interrupt_entries(q);
      } else if (tolerated(kBadType)) {
        code = 0;
      }
      break;
    case 5: code = take_wait(q); break;
    case 6: code = config_.scalable ? pasid_iotlb(q) : kBadType; break;
    case 7: code = config_.scalable ? pasid_cache(q) : kBadType; break;
    case 8: {
      constexpr u64 kBits = kTypeBits | Field<8, 4>::kMask | Field<51, 12>::kMask | Field<63, 52>::kMask;
      if (!config_.scalable || !config_.device_tlb) return kBadType;
      if ((q[0] & ~kBits) != 0 || Field<10, 1>::get(q[1]) != 0) return kReserved;
      code = device_tlb(narrow16(Field<31, 16>::get(q[0])), q[1], Bit<11>::test(q[1]));
      break;
    }
    default: break;  // 9, page group response, needs ECAP.PRS
  }
  if (code == 0) {
    last_was_wait_ = type == 5;
    ever_last_wait_ = last_was_wait_;
  }
  return code;
}

void InvalidationQueue::add(const Flusher::Drain& drain) {
  drain_.reads = std::max(drain_.reads, drain.reads);
  drain_.writes = std::max(drain_.writes, drain.writes);
}

u8 InvalidationQueue::context_cache(const u64 (&q)[4], bool scalable) {
  constexpr u64 kBits = kTypeBits | Field<5, 4>::kMask | Field<31, 16>::kMask | Field<49, 32>::kMask;
  if ((q[0] & ~kBits) != 0 || q[1] != 0) return kReserved;
  const u16 did = narrow16(Did::get(q[0]));
  switch (Granularity::get(q[0])) {
    case 1: flusher_.context_global(scalable); return 0;
    case 2: flusher_.context_domain(did, scalable); return 0;
    case 3:
      flusher_.context_device(did, narrow16(Field<47, 32>::get(q[0])), static_cast<u8>(Field<49, 48>::get(q[0])),
                              scalable);
      return 0;
    default: return kReserved;
  }
}

u8 InvalidationQueue::iotlb(const u64 (&q)[4]) {
  constexpr u64 kBits = kTypeBits | Field<7, 4>::kMask | Field<31, 16>::kMask;
  if ((q[0] & ~kBits) != 0 || (q[1] & ~kPageBits) != 0) return kReserved;
  const bool writes = Bit<6>::test(q[0]);
  const bool reads = Bit<7>::test(q[0]);
  const u16 did = narrow16(Did::get(q[0]));
  switch (Granularity::get(q[0])) {
    case 1: add(flusher_.translations_global(reads, writes)); return 0;
    case 2: add(flusher_.translations_domain(did, reads, writes)); return 0;
    case 3: {
      const auto order = static_cast<unsigned>(iva::Am::get(q[1]));
      if (order > config_.mamv && config_.psi) return kReserved;
      add(flusher_.translations_pages(did, iva::Addr::in_place(q[1]), order, iva::Ih::test(q[1]), reads, writes,
                                      base_ + head_));
      return 0;
    }
    default: return kReserved;
  }
}

u8 InvalidationQueue::device_tlb(u16 source, u64 word, bool sized) {
  if (injected_timeout_ == source) {
    injected_timeout_.reset();
    abort_waits_ = true;
    timed_out_source_ = source;
    return 0;
  }
  u64 iova = word & iva::Addr::kMask;
  u64 bytes = kPageSize;
  if (sized) {
    // The lowest 0 at or above bit 12 is the top bit of the size's mask; no 0 at all: everything.
    u64 low_ones = 0;
    while (low_ones < 51 && ((iova >> (kPageShift + low_ones)) & 1) != 0) ++low_ones;
    bytes = low_ones >= 51 ? 0 : kPageSize << (low_ones + 1);
    iova = bytes == 0 ? 0 : iova & ~(bytes - 1);
  }
  outbox_.push_back({News::Kind::DeviceTlb, iova, bytes, source});
  return 0;
}

u8 InvalidationQueue::interrupt_entries(const u64 (&q)[4]) {
  constexpr u64 kBits = kTypeBits | Bit<4>::kMask | Field<31, 27>::kMask | Field<47, 32>::kMask;
  const u64 order = Field<31, 27>::get(q[0]);
  // The mask is limited to what ECAP.MHMV says: 15 here.
  if ((q[0] & ~kBits) != 0 || q[1] != 0 || order > 15) return kReserved;
  if (Bit<4>::test(q[0])) {
    interrupts_.flush(narrow16(Field<47, 32>::get(q[0])), static_cast<unsigned>(order));
  } else {
    interrupts_.flush_all();
  }
  return 0;
}

u8 InvalidationQueue::take_wait(const u64 (&q)[4]) {
  const u64 reserved = config_.quirks.wait_pd_reserved ? Field<31, 7>::kMask : Field<31, 8>::kMask;
  if ((q[0] & reserved) != 0 || Field<1, 0>::get(q[1]) != 0) return kReserved;
  Wait wait;
  wait.event = Bit<4>::test(q[0]);
  wait.write_status = Bit<5>::test(q[0]);
  wait.fence = Bit<6>::test(q[0]);
  wait.data = static_cast<u32>(Field<63, 32>::get(q[0]));
  wait.status_address = q[1];
  wait.drain = drain_;
  if (config_.quirks.queue_unchecked && wait.write_status && !memory_.is_ram(wait.status_address, 4)) return kFetch;
  if (wait.event && wait.write_status) {
    checker_.note(ViolationKind::WaitStatusAndEvent, base_ + head_, q[0]);
  }
  interrupts_.wait_taken();
  if (abort_waits_) {
    abort_waits_ = false;
    waits_.clear();
    error_record_ = iqercd::IteSid::set(error_record_, timed_out_source_);
    faults_.raise(fsts::kIte);
    return 0;
  }
  waits_.push_back(wait);
  return 0;
}

u8 InvalidationQueue::pasid_iotlb(const u64 (&q)[4]) {
  constexpr u64 kBits = kTypeBits | Field<5, 4>::kMask | Field<31, 16>::kMask | Field<51, 32>::kMask;
  if ((q[0] & ~kBits) != 0 || (q[1] & ~kPageBits) != 0) return kReserved;
  const u16 did = narrow16(Did::get(q[0]));
  const auto pasid = static_cast<u32>(Pasid::get(q[0]));
  const auto order = static_cast<unsigned>(iva::Am::get(q[1]));
  switch (Granularity::get(q[0])) {
    case 2: add(flusher_.first_stage_all(did, pasid)); return 0;
    case 3:
      if (order > config_.mamv && config_.psi) return kReserved;
      add(flusher_.first_stage_pages(did, pasid, iva::Addr::in_place(q[1]), order, iva::Ih::test(q[1]), base_ + head_));
      return 0;
    default: return kReserved;
  }
}

u8 InvalidationQueue::pasid_cache(const u64 (&q)[4]) {
  constexpr u64 kBits = kTypeBits | Field<5, 4>::kMask | Field<31, 16>::kMask | Field<51, 32>::kMask;
  if ((q[0] & ~kBits) != 0 || q[1] != 0) return kReserved;
  const u16 did = narrow16(Did::get(q[0]));
  const auto pasid = static_cast<u32>(Pasid::get(q[0]));
  switch (Granularity::get(q[0])) {
    case 0: flusher_.pasid_domain(did, nullptr); return 0;
    case 1: flusher_.pasid_domain(did, &pasid); return 0;
    case 3: flusher_.pasid_global(); return 0;
    default: return kReserved;
  }
}

void InvalidationQueue::save(SnapshotWriter& out) const {
  event_.save(out);
  for (u64 v : {address_, head_, tail_, error_record_, base_}) out.put(v);
  out.put(completion_status_);
  out.put(size_);
  out.put(timed_out_source_);
  for (bool v : {enabled_, wide_, held_, abort_waits_, ran_any_, last_was_wait_, ever_last_wait_}) out.put<u8>(v);
  out.put<u32>(static_cast<u32>(waits_.size()));
  for (const Wait& w : waits_) {
    out.put(w.status_address);
    out.put(w.data);
    for (bool v : {w.write_status, w.event, w.fence}) out.put<u8>(v);
  }
}

void InvalidationQueue::restore(SnapshotReader& in) {
  event_.restore(in);
  for (u64* v : {&address_, &head_, &tail_, &error_record_, &base_}) *v = in.get<u64>();
  completion_status_ = in.get<u32>();
  size_ = in.get<u8>() & 7;
  timed_out_source_ = in.get<u16>();
  for (bool* v : {&enabled_, &wide_, &held_, &abort_waits_, &ran_any_, &last_was_wait_, &ever_last_wait_}) {
    *v = in.get<u8>() != 0;
  }
  // Transfers do not outlive the machine they ran on: what a wait waited for is over.
  const u32 waits = in.get<u32>();
  waits_.clear();
  for (u32 i = 0; i < waits && in.good(); ++i) {
    Wait w;
    w.status_address = in.get<u64>();
    w.data = in.get<u32>();
    for (bool* v : {&w.write_status, &w.event, &w.fence}) *v = in.get<u8>() != 0;
    waits_.push_back(w);
  }
}

}  // namespace perdure::board
