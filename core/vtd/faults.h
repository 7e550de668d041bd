// Translation faults: recording registers, the fault event, and what the reasons mean (hardware.md §1 "FRCD", §7).
#pragma once
#include <atomic>
#include <string_view>

#include "core/base/machine.h"
#include "core/iommu/unit.h"
#include "core/vtd/register_file.h"

namespace perdure::vtd {

enum class FaultKind : u8 { Write, Read, PageRequest, Atomic };

struct Fault {
  SourceId source;
  Iova iova;  // its page
  u8 reason = 0;
  FaultKind kind = FaultKind::Write;
  bool has_pasid = false;
  u32 pasid = 0;
  bool inherited = false;  // recorded before this kernel took the unit over
};

std::string_view fault_reason_name(u8 reason);

// Called on the interrupt's thread, with no core lock held by the caller; must neither block nor take a lock.
class FaultListener {
 public:
  virtual void on_fault(const Fault& fault) = 0;

 protected:
  ~FaultListener() = default;
};

class FaultLog final : public IrqSink {
 public:
  FaultLog(RegisterFile& registers, u16 segment, u64 cap, FaultListener* listener)
      : registers_(registers), segment_(segment), cap_(cap), listener_(listener) {}
  ~FaultLog() { disarm(); }
  FaultLog(const FaultLog&) = delete;
  FaultLog& operator=(const FaultLog&) = delete;

  // The event stays masked while it is programmed; what was recorded before is drained first (§9.4, step 4). A machine
  // that has no interrupt to give leaves the event masked: drain() then has to be called from time to time.
  void arm();
  // Masked and read back: no message leaves from now on. What is recorded stays in the registers.
  void mask();
  void unmask();
  // Masks for good and gives the interrupt back.
  void disarm();

  // Reads, reports and clears all records. May be called on any thread; a call during another one is seen to by that.
  // A device that faults faster than records can be read must not hold a thread for ever: after a few rounds the event
  // is masked, until a later call finds the records empty.
  void drain(bool inherited = false);
  u64 reported() const { return reported_.load(std::memory_order_relaxed); }
  // Times that the unit had to drop records.
  u64 overflows() const { return overflows_.load(std::memory_order_relaxed); }
  bool storming() const { return storming_.load(std::memory_order_relaxed); }

 private:
  void raise() override { drain(); }
  bool drain_once(bool inherited);
  void set_mask(bool masked);
  void report(const Fault& fault);

  RegisterFile& registers_;
  const u16 segment_;
  const u64 cap_;
  FaultListener* const listener_;
  bool armed_ = false;  // the interrupt is ours
  MsiTarget target_;
  std::atomic<bool> enabled_{false};   // the event is wanted
  std::atomic<bool> storming_{false};  // and masked all the same
  std::atomic<u32> pending_{0};
  std::atomic<u64> reported_{0};
  std::atomic<u64> overflows_{0};
};

}  // namespace perdure::vtd
