// A function that programs may drive: what outlives its openings.
#pragma once
#include "core/iommu/iommu.h"
#include "core/iommufd/iommufd_file.h"
#include "core/vfio/config_view.h"
#include "core/vfio/interrupts.h"
#include "core/vfio/intx.h"
#include "core/vfio/io_events.h"
#include "core/vfio/vf_token.h"

namespace perdure::vfio {

class VfioGroup;
struct PciDevice;

// Functions that only a reset of their bus would reach together, and so share one lock.
struct DeviceSet : public HeapObject {
  DeviceSet(Heap& heap, pci::Function* its_bridge) : bridge(its_bridge), members(heap) {}
  struct Member {
    pci::Function* function = nullptr;
    PciDevice* device = nullptr;  // null: not for programs
  };
  pci::Function* const bridge;  // null: on a root bus, and alone
  mutable Mutex lock{LockRank::VfioDevice};
  Vec<Member> members GUARDED_BY(lock);
};

// How far the program let the device sleep. Any access wakes it; with an event that ends it.
enum class LowPower : u8 { Off, On, UntilWoken };

struct PciDevice : public HeapObject {
  PciDevice(Heap& heap, u32 number, pci::Function& its_function, IommuDevice& its_device, DeviceSet& its_set,
            VfioGroup& its_group)
      : index(number),
        function(its_function),
        iommu_device(its_device),
        set(its_set),
        group(its_group),
        lock(its_set.lock),
        config(its_function),
        irqs(heap, its_function, its_device),
        // A virtual function has no pin (PCI Express Base 6.0, 9.3.4.1.20).
        intx(heap.machine(), its_function.source(),
             its_function.physical() ? u8{0} : its_function.read8(pci::reg::kInterruptPin)),
        io_events(heap) {}

  const u32 index;  // N of vfioN
  pci::Function& function;
  IommuDevice& iommu_device;
  DeviceSet& set;
  VfioGroup& group;

  Mutex& lock;  // of its set
  // Files that have it open: at most one by its own node, any number through its group.
  u32 opens GUARDED_BY(lock) = 0;
  bool by_cdev GUARDED_BY(lock) = false;
  // What it is bound to; null: not open, or in a container of another kind.
  Ref<iommufd::IommufdFile> iommufd GUARDED_BY(lock);
  Ref<iommufd::Device> bound GUARDED_BY(lock);
  // A file of it came out of a session that is not finished: nobody else opens it.
  bool in_transfer GUARDED_BY(lock) = false;
  bool reset_works GUARDED_BY(lock) = false;
  ConfigView config GUARDED_BY(lock);
  Interrupts irqs GUARDED_BY(lock);
  Intx intx GUARDED_BY(lock);
  IoEvents io_events GUARDED_BY(lock);
  LowPower low_power GUARDED_BY(lock) = LowPower::Off;
  Ref<EventFd> wake_event GUARDED_BY(lock);
  Ref<EventFd> error_event GUARDED_BY(lock);
  Ref<EventFd> request_event GUARDED_BY(lock);
  VfToken token;                  // of a physical function
  PciDevice* physical = nullptr;  // of a virtual function
  // Programs can have it. Otherwise nobody opens it: both are set under the lock.
  bool offered() const { return !gone.load(std::memory_order_acquire) && !unbound.load(std::memory_order_acquire); }
  std::atomic<bool> gone{function.physical() != nullptr};  // a virtual function that is not there
  std::atomic<bool> unbound{false};                        // from the driver, by an order to sysfs
};

}  // namespace perdure::vfio
