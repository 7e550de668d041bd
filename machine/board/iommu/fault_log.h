// Fault status, fault records and the fault event (hardware.md §1, FSTS and FRCD).
#pragma once
#include <vector>

#include "machine/board/iommu/config.h"
#include "machine/board/iommu/event_block.h"
#include "machine/board/iommu/translation.h"

namespace perdure::board {

// Not thread-safe: guarded by the unit's lock.
class FaultLog {
 public:
  FaultLog(const IommuModelConfig& config, Checker& checker, Outbox& outbox)
      : config_(config), event_(reg::kFectl, checker, outbox), records_(config.nfr) {}

  // Records a fault; false when it is lost (overflow, or collapsed with one of the same requester).
  bool record(u16 source, u64 iova, Access access, u8 reason);
  // Sets one of IQE, ICE, ITE.
  void raise(u32 status_bit);
  bool has(u32 status_bit) const { return (status_ & status_bit) != 0; }

  u32 status() const;
  // Write-one-to-clear; returns the bits that were cleared.
  u32 write_status(u32 value);

  EventBlock& event() { return event_; }
  const EventBlock& event() const { return event_; }

  // The i-th 32-bit word of the records.
  u32 read_word(usize i) const;
  void write_word(usize i, u32 value);
  usize words() const { return records_.size() * 4; }

  void save(SnapshotWriter& out) const;
  void restore(SnapshotReader& in);

 private:
  struct Record {
    u64 low = 0;
    u64 high = 0;
  };
  bool any_record() const;
  // An event is sent only when nothing that software has not dealt with was reported before.
  void report(bool quiet_before) {
    if (quiet_before) event_.raise();
  }
  bool quiet() const { return status_ == 0 && !any_record(); }
  void settle_if_quiet() {
    if (quiet()) event_.settle();
  }

  const IommuModelConfig& config_;
  EventBlock event_;
  u32 status_ = 0;  // PFO, IQE, ICE, ITE; PPF and FRI are derived
  u32 first_ = 0;   // FRI
  u32 next_ = 0;    // the record the next fault goes to
  std::vector<Record> records_;
};

}  // namespace perdure::board
