// PCI's own part of a live update: shared state (FLB "perdure-pci") of vfio's files, and what a kernel that was booted
// by an update makes of it (design §7). Formats: abi/pci.h. Nothing here writes to a function or a bridge, on either
// side of the jump: what is at work is only looked at.
//
// While a function is preserved every bridge above it is, too: they are counted, and keep bus mastering, bus numbers
// and windows until the last one below is given up.
#pragma once
#include "core/luo/file_handler.h"
#include "core/pci/bus.h"
#include "core/pci/incoming.h"
#include "core/pci/inheritance.h"

namespace perdure::pci {

class OutgoingFunctions;

class LiveUpdate final : public luo::Flb, public Inheritance {
 public:
  // What the records of a former kernel came to.
  struct Report {
    u32 functions = 0;  // found as recorded
    u32 bridges = 0;
    u32 refused = 0;  // functions and bridges that are there
    u32 missing = 0;  // records of what is not there
  };

  // `write_version`: kPciReadMin..kPciReadMax.
  LiveUpdate(Kho& kho, u32 write_version);
  ~LiveUpdate();
  LiveUpdate(const LiveUpdate&) = delete;
  LiveUpdate& operator=(const LiveUpdate&) = delete;

  // --- old kernel; called by vfio's handler, under the session lock ---------------------------------------------
  // The function, which the IOMMU core preserved before, and all bridges above it. Ebusy: preserved already; Eio:
  // refused when this kernel booted, or a bridge above it was; Enoent before preserve() of this FLB; Einval for a
  // bridge; E2big, Enomem. Everything is undone on failure.
  Result<void> preserve(Function& function);
  void unpreserve(Function& function);
  // Preserved, or a bridge above one that is: must not be stopped for the jump.
  bool keeps(const Function& function) const;

  // --- new kernel, early boot, in this order ----------------------------------------------------------------------
  // Reads and validates the records that `data` (LUO's value for this FLB) points at. Eproto: nothing is usable.
  Result<void> load(u64 data);
  // The two must agree: records of functions that valid records of the IOMMU's do not name (`known`) are refused, and
  // functions that only those name will be. Enomem.
  Result<void> agree(std::span<const SourceId> known);
  // Something else says that the function is at work: a live entry. Enomem.
  Result<void> note_at_work(SourceId source);
  // For Bus::enumerate().
  Inherited identify(Function& function) override;
  bool takes_buses() const override;
  bool buses_taken(SourceId bridge, u8 first, u8 last) const override;
  // After it: what can be judged only with all functions at hand. `reserved`: memory, or registers that are nobody's
  // BARs. Functions that are refused have to be quarantined by the caller, when the IOMMU knows them.
  void check(Bus& bus, FunctionRef<bool(Phys base, u64 length)> reserved);
  const Report& report() const { return report_; }

  // --- luo::Flb ---------------------------------------------------------------------------------------------------
  std::string_view compatible() const override { return abi::kPciCompatible; }
  Result<u64> preserve() override;
  void unpreserve(u64 data) override;
  // Eio: a function or bridge is not what it was when it was preserved; the log names it.
  Result<u64> freeze(u64 data) override;
  Result<void> retrieve(u64 data) override { return load(data); }
  void finish(u64 data) override;

 private:
  Inherited identify_bridge_locked(Function& bridge) REQUIRES(lock_);
  Inherited identify_function_locked(Function& function) REQUIRES(lock_);
  std::string_view compare_locked(const IncomingBridge& recorded, const Function& bridge) REQUIRES(lock_);
  std::string_view compare_locked(const IncomingFunction& recorded, const Function& function) REQUIRES(lock_);
  bool same_bridge_above_locked(u32 recorded, const Function& function) REQUIRES(lock_);
  bool below_a_stranger_locked(const Function& function) REQUIRES(lock_);
  Result<void> note_at_work_locked(SourceId source) REQUIRES(lock_);
  bool buses_taken_locked(SourceId bridge, u8 first, u8 last) const REQUIRES(lock_);
  bool any_at_work_locked(u16 segment, u8 first_bus, u8 last_bus) const REQUIRES(lock_);
  std::string_view misplaced_locked(const Bus& bus, const Function& function,
                                    FunctionRef<bool(Phys base, u64 length)> reserved) REQUIRES(lock_);
  Inherited refuse(const Function& function, std::string_view why);

  Kho& kho_;
  const u32 write_version_;
  mutable Mutex lock_{LockRank::PciLiveUpdate};
  Owned<OutgoingFunctions> outgoing_ GUARDED_BY(lock_);
  Owned<IncomingRecords> incoming_ GUARDED_BY(lock_);
  Vec<SourceId> at_work_ GUARDED_BY(lock_);  // sorted; functions that anything says are
  Report report_;
};

}  // namespace perdure::pci
