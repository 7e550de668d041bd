#include "machine/board/iommu/interrupt_remap.h"

#include "machine/board/iommu/registers.h"
#include "machine/board/iommu/tables.h"

namespace perdure::board {

namespace {

// A message in remappable format.
namespace message {
using Remappable = Bit<4>;
using Subhandle = Bit<3>;  // SHV: the data's low half is added to the handle
using HandleLow = Field<19, 5>;
using HandleHigh = Bit<2>;
}  // namespace message

// What the local APIC of the entry's destination is sent, in xAPIC's and, with EIME, in x2APIC's width.
u64 address_of(u64 low, bool wide) {
  using namespace table::interrupt;
  const u64 destination = wide ? Destination::get(low) : XapicDestination::get(low);
  return table::kInterruptWindow | (destination >> 8) << 40 | (destination & 0xFF) << 12 |
         u64{RedirectionHint::test(low)} << 3 | u64{Logical::test(low)} << 2;
}

u32 data_of(u64 low) {
  using namespace table::interrupt;
  return static_cast<u32>(Vector::get(low) | DeliveryMode::get(low) << 8 | u64{Level::test(low)} << 15);
}

}  // namespace

InterruptOutcome InterruptRemap::resolve(u16 source, u64 address, u32 data, bool enabled, bool compatible) {
  if (!enabled) return {true, address, data, 0, false, 0};
  InterruptOutcome out;
  if (message::Remappable::test(address)) {
    out = look_up(source, address, data);
  } else if (compatible && !reg::irta::Eime::test(table_)) {
    out = {true, address, data, 0, false, 0};
  } else {
    out.fault = fault::kCompatibilityBlocked;
  }
  ++(out.passes ? remapped_ : blocked_);
  return out;
}

InterruptOutcome InterruptRemap::look_up(u16 source, u64 address, u32 data) {
  InterruptOutcome out;
  u32 index = static_cast<u32>(message::HandleLow::get(address) | message::HandleHigh::get(address) << 15);
  if (message::Subhandle::test(address)) {
    if (data >> 16 != 0) {
      out.fault = fault::kInterruptRequestReserved;
      return out;
    }
    index += data & 0xFFFF;
  }
  out.index = static_cast<u16>(index);
  if (index >= entries()) {
    out.fault = fault::kInterruptIndexBeyond;
    return out;
  }
  Entry entry;
  if (!fetch(source, out.index, entry)) {
    out.fault = fault::kInterruptTableUnreadable;
    return out;
  }
  using namespace table::interrupt;
  out.quiet = Fpd::test(entry.low);
  if (!Present::test(entry.low)) {
    out.fault = fault::kInterruptNotPresent;
  } else if (reserved_bits(entry)) {
    checker_.note(ViolationKind::ReservedBits, reg::irta::Base::in_place(table_) + u64{index} * kBytes, entry.low,
                  source);
    out.fault = fault::kInterruptReserved;
  } else if (!from_right_source(entry, source)) {
    out.fault = fault::kInterruptSource;
  } else {
    out.passes = true;
    out.quiet = false;
    out.address = address_of(entry.low, reg::irta::Eime::test(table_));
    out.data = data_of(entry.low);
  }
  return out;
}

u32 InterruptRemap::entries() const {
  return u32{1} << (reg::irta::S::get(table_) + 1);
}

bool InterruptRemap::fetch(u16 source, u16 index, Entry& entry) {
  if (const auto known = entries_.find(index); known != entries_.end()) {
    const bool lost = policy_ == CachePolicy::Random && random_.next() % 4 == 0;
    if (!lost) {
      entry = known->second;
      return true;
    }
    entries_.erase(known);
  }
  const u64 at = reg::irta::Base::in_place(table_) + u64{index} * table::interrupt::kBytes;
  if (!reader_.load(at, TableUse::InterruptTable, config_.coherent, false, source, entry.low) ||
      !reader_.load(at + 8, TableUse::InterruptTable, config_.coherent, false, source, entry.high)) {
    return false;
  }
  // What is not present is remembered with caching mode only (hardware.md §6).
  const bool worth_it = table::interrupt::Present::test(entry.low) || config_.caching_mode;
  const bool kept = policy_ != CachePolicy::EvictAlways && !config_.quirks.interrupts_unrecorded;
  if (worth_it && kept) entries_[index] = entry;
  return true;
}

bool InterruptRemap::reserved_bits(const Entry& entry) const {
  using namespace table::interrupt;
  const u64 narrow = reg::irta::Eime::test(table_) ? 0 : Destination::kMask & ~XapicDestination::kMask;
  return (entry.low & (ReservedLow::kMask | Posted::kMask | narrow)) != 0 || (entry.high & ReservedHigh::kMask) != 0 ||
         Svt::get(entry.high) == kSvtReserved;
}

bool InterruptRemap::from_right_source(const Entry& entry, u16 source) {
  using namespace table::interrupt;
  const auto sid = static_cast<u16>(Sid::get(entry.high));
  switch (Svt::get(entry.high)) {
    case kSvtNone: return true;
    case kSvtSource: {
      constexpr u16 kIgnored[4] = {0, 4, 6, 7};
      return ((sid ^ source) & ~unsigned{kIgnored[Sq::get(entry.high)]}) == 0;
    }
    // Buses from the high byte to the low one.
    case kSvtBuses: return source >> 8 >= sid >> 8 && source >> 8 <= (sid & 0xFF);
    default: return false;
  }
}

void InterruptRemap::set_table(u64 irta, bool enabled) {
  table_ = irta;
  if (config_.esirtps) {
    entries_.clear();
  } else if (enabled) {
    owes_flush_ = true;
  }
}

void InterruptRemap::flush_all() {
  entries_.clear();
  owes_flush_ = false;
}

void InterruptRemap::flush(u16 index, unsigned order) {
  const u32 count = u32{1} << order;
  const u32 first = index & ~(count - 1);
  std::erase_if(entries_, [&](const auto& known) { return known.first >= first && known.first - first < count; });
}

// Until the cache is emptied, entries of the former table go on deciding: whoever ends its next batch without having
// done that has forgotten it.
void InterruptRemap::wait_taken() {
  if (!owes_flush_) return;
  owes_flush_ = false;
  checker_.note(ViolationKind::InterruptTableNotFlushed, reg::kIrta, table_);
}

void InterruptRemap::save(SnapshotWriter& out) const {
  out.put(table_);
  out.put<u8>(owes_flush_);
}

void InterruptRemap::restore(SnapshotReader& in) {
  table_ = in.get<u64>();
  owes_flush_ = in.get<u8>() != 0;
  entries_.clear();
}

}  // namespace perdure::board
