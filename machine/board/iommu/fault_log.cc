#include "machine/board/iommu/fault_log.h"

#include <algorithm>

#include "machine/board/iommu/tables.h"

namespace perdure::board {

using namespace reg;

namespace {

// In legacy numbers.
bool of_page_table(u8 reason) {
  return (reason >= fault::kAddressBeyond && reason <= fault::kPageTableUnreadable) ||
         reason == fault::kPageTableReserved;
}

}  // namespace

bool FaultLog::any_record() const {
  return std::any_of(records_.begin(), records_.end(), [](const Record& r) { return frcd::F::test(r.high); });
}

bool FaultLog::record(u16 source, u64 iova, Access access, u8 reason) {
  if (has(fsts::kPfo)) return false;
  if (config_.quirks.collapse_same_source) {
    const bool pending = std::any_of(records_.begin(), records_.end(), [&](const Record& r) {
      return frcd::F::test(r.high) && frcd::Sid::get(r.high) == source;
    });
    if (pending) return false;
  }
  const bool quiet_before = quiet();
  Record& slot = records_[next_];
  if (frcd::F::test(slot.high)) {
    status_ |= fsts::kPfo;
    report(quiet_before);
    return false;
  }
  if (!any_record()) first_ = next_;
  slot.low = Field<63, 12>::in_place(iova);
  slot.high = frcd::Sid::make(source) | frcd::Reason::make(reason) | frcd::F::value();
  if (access == Access::Read) slot.high |= frcd::T1::value();
  if (config_.quirks.pv_ones_without_pasid && of_page_table(reason)) slot.high |= frcd::Pv::make(0xFFFF);
  next_ = (next_ + 1) % static_cast<u32>(records_.size());
  report(quiet_before);
  return true;
}

void FaultLog::raise(u32 status_bit) {
  const bool quiet_before = quiet();
  status_ |= status_bit;
  report(quiet_before);
}

u32 FaultLog::status() const {
  u32 v = status_;
  if (any_record()) v |= fsts::kPpf | fsts::Fri::make(first_);
  return v;
}

u32 FaultLog::write_status(u32 value) {
  const u32 cleared = status_ & value;
  status_ &= ~cleared;
  settle_if_quiet();
  return cleared;
}

u32 FaultLog::read_word(usize i) const {
  const Record& r = records_[i / 4];
  const u64 word = i % 4 < 2 ? r.low : r.high;
  return static_cast<u32>(i % 2 == 0 ? word : word >> 32);
}

void FaultLog::write_word(usize i, u32 value) {
  // Only F, in the top word, can be written: one clears it.
  if (i % 4 != 3 || (value >> 31) == 0) return;
  records_[i / 4].high &= ~frcd::F::value();
  if (!config_.quirks.fault_event_until_fsts) settle_if_quiet();
}

void FaultLog::save(SnapshotWriter& out) const {
  event_.save(out);
  out.put(status_);
  out.put(first_);
  out.put(next_);
  for (const Record& r : records_) {
    out.put(r.low);
    out.put(r.high);
  }
}

void FaultLog::restore(SnapshotReader& in) {
  event_.restore(in);
  status_ = in.get<u32>();
  first_ = in.get<u32>();
  next_ = in.get<u32>() % static_cast<u32>(records_.size());
  for (Record& r : records_) {
    r.low = in.get<u64>();
    r.high = in.get<u64>();
  }
}

}  // namespace perdure::board
