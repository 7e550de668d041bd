// All functions of the machine, found through configuration space.
#pragma once
#include "core/mem/vec.h"
#include "core/pci/bus_master.h"
#include "core/pci/function.h"

namespace perdure::pci {

class Bus final : public BusMasterSwitch {
 public:
  Bus(Heap& heap, Vec<acpi::EcamWindow> windows)
      : heap_(heap), config_(heap.machine(), std::move(windows)), functions_(heap) {}

  // Segments of volume management devices are numbered from here on, in the order in which those are found.
  static constexpr u16 kFirstHostedSegment = 0x8000;

  // Finds every function below the first bus of each window, bridges in depth, and beyond function 7 where a port
  // forwards ARI; then those of hosted segments. Bus numbers that bridges have are taken as they are; a bridge without
  // any gets the next free ones. What `inheritance` says was at work, and every bridge above it, is not written to, and
  // their bus numbers are given to nobody; BARs of all others are sized. `inheritance` may be null. Once. Enomem.
  Result<void> enumerate(Inheritance* inheritance);

  usize size() const { return functions_.size(); }
  Function& at(usize i) const { return *functions_[i]; }  // in bus order within a depth-first walk
  Function* find(SourceId source) const;                  // null: not there
  ConfigSpace& config() { return config_; }
  std::span<const acpi::EcamWindow> windows() const { return config_.windows(); }

  // So many of the function's virtual functions are there from now on; the first ones. Blocks for as long as the
  // device may take. Calls are serialised by the caller, who knows that nobody uses those that go. Erange: it cannot
  // have so many; Eio: it does not do it.
  Result<void> set_virtual_functions(Function& physical, u32 count);

  // --- BusMasterSwitch: also for functions that enumeration did not meet ------------------------------------------
  bool off_and_verify(SourceId source) override;
  bool is_on(SourceId source) const override;
  bool transactions_pending(SourceId source) const override;

 private:
  struct Scan;
  Result<void> scan_window(const acpi::EcamWindow& window, Inheritance* inheritance, Function* host);
  Result<void> scan_bus(Scan& scan, u8 bus, Function* parent);
  Result<void> scan_ari_device(Scan& scan, const Function& zero, Function& port);
  Result<Function*> scan_function(Scan& scan, SourceId source, Function* parent, bool ari);
  Result<void> add_virtual_functions(Function& physical);
  Result<void> scan_below(Scan& scan, Function& bridge);
  Result<void> number_bridges(Scan& scan, Function* parent);
  Result<void> number_bridge(Scan& scan, Function& bridge);
  void close_claimants(Scan& scan, u8 bus, u8 devices);
  void close_if_claimant(Scan& scan, SourceId bridge);
  void wait(u64 ns) const;
  bool answers(SourceId source) const;
  bool there(SourceId source) const { return config_.read16(source, reg::kVendor) != 0xffff; }

  Heap& heap_;
  ConfigSpace config_;
  Vec<Owned<Function>> functions_;
};

}  // namespace perdure::pci
