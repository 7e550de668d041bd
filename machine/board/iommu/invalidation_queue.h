// The invalidation queue: registers, fetching, descriptors, waits (hardware.md §1, §5).
#pragma once
#include <deque>
#include <optional>

#include "machine/board/iommu/fault_log.h"
#include "machine/board/iommu/flusher.h"
#include "machine/board/iommu/interrupt_remap.h"
#include "machine/board/iommu/table_reader.h"

namespace perdure::board {

// Not thread-safe: guarded by the unit's lock.
class InvalidationQueue {
 public:
  InvalidationQueue(const IommuModelConfig& config, PhysMemory& memory, TableReader& reader, Flusher& flusher,
                    FaultLog& faults, InterruptRemap& interrupts, Checker& checker, Outbox& outbox)
      : config_(config),
        memory_(memory),
        reader_(reader),
        flusher_(flusher),
        faults_(faults),
        interrupts_(interrupts),
        checker_(checker),
        outbox_(outbox),
        event_(reg::kIectl, checker, outbox) {}

  bool enabled() const { return enabled_; }
  void enable();
  // False when a quirk refuses.
  bool disable();

  // One descriptor, one completed wait: false when neither can move now. `scalable`: the latched translation mode.
  bool advance(bool scalable);
  // Something is left that needs time, not software.
  bool pending() const { return !waits_.empty() || runnable(); }

  u64 head() const { return head_; }
  u64 tail() const { return tail_; }
  void write_tail(u64 value);
  u64 address() const;
  u64 raw_address() const { return address_; }
  void write_address(u64 value);
  u64 error_record() const { return error_record_; }
  u32 completion_status() const { return completion_status_; }
  void write_completion_status(u32 value);
  EventBlock& event() { return event_; }
  const EventBlock& event() const { return event_; }
  // FSTS bits that software cleared.
  void errors_cleared(u32 bits);

  void inject_error(u8 code) { injected_error_ = code; }
  void inject_device_tlb_timeout(u16 source) { injected_timeout_ = source; }
  u64 descriptors() const { return descriptors_; }

  void save(SnapshotWriter& out) const;
  void restore(SnapshotReader& in);

 private:
  struct Wait {
    u64 status_address = 0;
    u32 data = 0;
    bool write_status = false;
    bool event = false;
    bool fence = false;
    Flusher::Drain drain;
  };

  u64 descriptor_bytes() const { return wide_ ? 32 : 16; }
  u64 queue_bytes() const { return kPageSize << size_; }
  bool runnable() const;
  bool complete_waits();
  void complete(const Wait& wait);
  void stop(u8 code);
  // Each answers the error code of a bad descriptor, 0 for a good one.
  bool tolerated(u8 code);
  u8 execute(const u64 (&q)[4], bool scalable);
  u8 context_cache(const u64 (&q)[4], bool scalable);
  u8 iotlb(const u64 (&q)[4]);
  u8 device_tlb(u16 source, u64 iova, bool sized);
  u8 interrupt_entries(const u64 (&q)[4]);
  u8 take_wait(const u64 (&q)[4]);
  u8 pasid_iotlb(const u64 (&q)[4]);
  u8 pasid_cache(const u64 (&q)[4]);
  void add(const Flusher::Drain& drain);

  const IommuModelConfig& config_;
  PhysMemory& memory_;
  TableReader& reader_;
  Flusher& flusher_;
  FaultLog& faults_;
  InterruptRemap& interrupts_;
  Checker& checker_;
  Outbox& outbox_;
  EventBlock event_;

  u64 address_ = 0;  // IQA as written
  u64 head_ = 0;
  u64 tail_ = 0;
  u64 error_record_ = 0;
  u32 completion_status_ = 0;
  // Latched when enabled.
  bool enabled_ = false;
  u64 base_ = 0;
  bool wide_ = false;
  u8 size_ = 0;

  bool held_ = false;         // an error was cleared, but fetching waits for a tail write (quirk)
  bool abort_waits_ = false;  // a device TLB did not answer: the wait behind it is aborted
  u16 timed_out_source_ = 0;
  bool ran_any_ = false;         // since enabled
  bool last_was_wait_ = false;   // since enabled
  bool ever_last_wait_ = false;  // over the unit's life
  Flusher::Drain drain_;         // of all flushes so far
  std::deque<Wait> waits_;
  u8 injected_error_ = 0;
  std::optional<u16> injected_timeout_;
  u64 descriptors_ = 0;
};

}  // namespace perdure::board
