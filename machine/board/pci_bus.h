// The PCI Express hierarchy: configuration accesses through ECAM, register accesses through BARs and bridge windows,
// and a trace of every configuration write.
#pragma once
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "machine/board/bridge.h"
#include "machine/board/device.h"
#include "machine/board/pci_watch.h"
#include "machine/board/physical_memory.h"
#include "machine/board/vmd.h"

namespace perdure::board {

struct ConfigWrite {
  u64 when_ns = 0;
  Bdf home;  // the function, by the place it was built at
  u16 offset = 0;
  u8 width = 0;
  u32 value = 0;
  u32 before = 0;  // of the same bytes
  u32 after = 0;
};

class PciBus {
 public:
  static constexpr u64 kEcamBase = 0xB000'0000;      // of segment 0; the others' below it, one below the other
  static constexpr u64 kEcamBytes = u64{256} << 20;  // 256 buses
  static constexpr u16 kSegments = 3;
  static constexpr u64 ecam_base(u16 segment) { return kEcamBase - segment * kEcamBytes; }
  // Where firmware puts 32-bit BARs.
  static constexpr PhysRange kBarWindow{0xC000'0000, 0x3E00'0000};

  PciBus(DeviceBus& bus, usize trace_limit) : bus_(bus), trace_limit_(trace_limit) {}

  // While the machine is built. Throws std::runtime_error: two at one place, no bridge to its bus, or the bridge leads
  // to a bus of another kind.
  void add(std::unique_ptr<Device> device, FunctionTraits traits);
  // The function, just added, can have these virtual functions: the next ids of its slot are theirs. Throws
  // std::runtime_error: it is not function 0, or not of PCI Express, or there are too many.
  void add_virtual(Device& physical, std::vector<std::unique_ptr<Device>> functions);
  // When all are there. Throws std::runtime_error: software would not find one.
  void check() const;
  // The function, just added, is one of its port's ARI device. Throws std::runtime_error: it is not below a port.
  void join_ari_device(Bdf home);
  // Addresses for BARs and windows, memory decoding on, bridges may master.
  void assign_addresses(PhysRange high_window);

  usize size() const { return devices_.size(); }
  Device& at(usize i) const { return *devices_[i]; }
  Device* by_home(Bdf home) const;
  // Segments that firmware tells of, in order; 0 is always there.
  std::vector<u16> segments() const;

  // nullopt: nothing here answers to the address.
  std::optional<u64> mmio_read(u64 phys, unsigned width);
  bool mmio_write(u64 phys, unsigned width, u64 value);
  // The BAR at this address, which is memory, is in this file from now on; what is at the address is at `offset`
  // there. Whether it decodes makes no difference. Enxio: no such BAR.
  Result<void> move_memory(u64 phys, int file, u64 offset);

  // Judges what is written to functions at work, see there.
  PciWatch& watch() { return watch_; }
  const PciWatch& watch() const { return watch_; }

  std::vector<ConfigWrite> trace() const;
  u64 trace_dropped() const;  // older ones, no longer kept
  void clear_trace();

  void save(StateWriter& out) const;
  void load(StateReader& in);

 private:
  struct Target {
    Device* device = nullptr;
    unsigned bar = 0;
    u64 offset = 0;
  };
  // Functions of a segment's root bus have no bridge above; those of a VMD's segment have the VMD.
  struct Space {
    u16 segment = 0;
    const Vmd* vmd = nullptr;
  };
  u8 assign_bus(const Space& space, const Bridge* above, u64& low, u64& high);
  Vmd* vmd_of(u16 segment) const;
  const Bridge* bridge_to(Bdf home) const;
  struct ConfigTarget {
    bool decoded = false;  // the address is configuration space
    Device* device = nullptr;
    u16 offset = 0;
  };
  ConfigTarget decode_config(u64 phys) const;
  void config_write(Device& device, u16 offset, unsigned width, u32 value);
  void reset_virtual_functions(const Device& physical);
  Device* by_requester(Bdf bdf) const;
  Target decode(u64 phys, unsigned width) const;

  DeviceBus& bus_;
  std::vector<std::unique_ptr<Device>> devices_;
  PciWatch watch_;
  usize trace_limit_;
  mutable DeviceMutex trace_lock_;
  std::deque<ConfigWrite> trace_ GUARDED_BY(trace_lock_);
  u64 trace_dropped_ GUARDED_BY(trace_lock_) = 0;
};

}  // namespace perdure::board
