// All functions of the machine, found through configuration space.
#pragma once
#include "core/mem/vec.h"
#include "core/pci/bus_master.h"
#include "core/pci/function.h"

namespace perdure::pci {

// What the former kernel recorded of functions that went on working through the jump. To those, and to bridges above
// them, enumeration writes nothing at all (design §7).
class PreservedFunctions {
 public:
  virtual bool preserved(SourceId source) const = 0;
  // Recorded size of a BAR, 0: not recorded.
  virtual u64 bar_size(SourceId source, unsigned bar) const = 0;

 protected:
  ~PreservedFunctions() = default;
};

class Bus final : public BusMasterSwitch {
 public:
  Bus(Heap& heap, Vec<acpi::EcamWindow> windows)
      : heap_(heap), config_(heap.machine(), std::move(windows)), functions_(heap) {}

  // Finds every function below the first bus of each window, bridges in depth. Bus numbers that bridges have are taken
  // as they are; a bridge without any gets the next free ones, unless something below it or itself is preserved. BARs
  // of functions that are not preserved are sized. `preserved` may be null. Once. Enomem.
  Result<void> enumerate(const PreservedFunctions* preserved);

  usize size() const { return functions_.size(); }
  Function& at(usize i) const { return *functions_[i]; }  // in bus order within a depth-first walk
  Function* find(SourceId source) const;                  // null: not there
  ConfigSpace& config() { return config_; }

  // --- BusMasterSwitch: also for functions that enumeration did not meet ------------------------------------------
  bool off_and_verify(SourceId source) override;
  bool is_on(SourceId source) const override;
  bool transactions_pending(SourceId source) const override;

 private:
  struct Scan;
  Result<void> scan_bus(Scan& scan, u8 bus, Function* parent);
  Result<void> scan_function(Scan& scan, SourceId source, Function* parent);
  Result<void> scan_below(Scan& scan, Function& bridge);
  Result<void> number_bridges(Scan& scan, Function* parent);
  bool there(SourceId source) const { return config_.read16(source, reg::kVendor) != 0xffff; }

  Heap& heap_;
  ConfigSpace config_;
  Vec<Owned<Function>> functions_;
};

}  // namespace perdure::pci
