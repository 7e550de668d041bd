// One interrupt of the unit: control, data, address, upper address (FECTL.., IECTL..). Masked, it stays pending;
// unmasking sends it.
#pragma once
#include "machine/board/iommu/checker.h"
#include "machine/board/iommu/outbox.h"
#include "machine/board/iommu/registers.h"
#include "machine/board/iommu/snapshot.h"

namespace perdure::board {

// Not thread-safe: guarded by the unit's lock.
class EventBlock {
 public:
  // `offset` of the control register in the window.
  EventBlock(u64 offset, Checker& checker, Outbox& outbox) : offset_(offset), checker_(checker), outbox_(outbox) {}

  bool holds(u64 offset) const { return offset >= offset_ && offset < offset_ + 16; }
  u32 read(u64 offset) const {
    switch ((offset - offset_) / 4) {
      case 0: return control_;
      case 1: return data_;
      case 2: return address_;
      default: return upper_address_;
    }
  }
  void write(u64 offset, u32 value) {
    const u64 which = (offset - offset_) / 4;
    if (which == 0) {
      control_ = (control_ & ~reg::event::kIm) | (value & reg::event::kIm);
      if ((control_ & reg::event::kIm) == 0 && (control_ & reg::event::kIp) != 0) send();
      return;
    }
    // A message in the making would mix old and new words.
    if ((control_ & reg::event::kIm) == 0) checker_.note(ViolationKind::EventWhileUnmasked, offset, value);
    (which == 1 ? data_ : which == 2 ? address_ : upper_address_) = value;
  }

  void raise() {
    control_ |= reg::event::kIp;
    if ((control_ & reg::event::kIm) == 0) send();
  }
  // The conditions that caused it are gone.
  void settle() { control_ &= ~reg::event::kIp; }

  void save(SnapshotWriter& out) const {
    for (u32 v : {control_, data_, address_, upper_address_}) out.put(v);
  }
  void restore(SnapshotReader& in) {
    for (u32* v : {&control_, &data_, &address_, &upper_address_}) *v = in.get<u32>();
  }

 private:
  void send() {
    control_ &= ~reg::event::kIp;
    outbox_.push_back({News::Kind::Msi, u64{upper_address_} << 32 | address_, data_, 0});
  }

  const u64 offset_;
  Checker& checker_;
  Outbox& outbox_;
  u32 control_ = reg::event::kIm;
  u32 data_ = 0;
  u32 address_ = 0;
  u32 upper_address_ = 0;
};

}  // namespace perdure::board
