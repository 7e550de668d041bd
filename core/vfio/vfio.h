// /dev/vfio/devices: every function that programs may drive.
#pragma once
#include "core/abi/vfio_pci.h"
#include "core/iommufd/iommufd.h"
#include "core/pci/live_update.h"
#include "core/vfio/vfio_file.h"
#include "core/vfio/vfio_group.h"

namespace perdure::vfio {

class Vfio {
 public:
  // Who is behind /dev/vfio/vfio.
  enum class Container : u8 {
    Iommufd,  // a context of iommufd that speaks a container's language (CONFIG_IOMMUFD_VFIO_CONTAINER)
    Type1,    // Linux's own container
  };
  struct Config {
    u32 write_version = abi::kVfioPciReadMax;  // of records
    Container container = Container::Iommufd;
  };

  Vfio(iommufd::Iommufd& iommufd_module, pci::LiveUpdate& functions, Config configured)
      : iommufd(iommufd_module),
        pci_live_update(functions),
        config(configured),
        sets_(iommufd_module.heap()),
        groups_(iommufd_module.heap()),
        devices_(iommufd_module.heap()) {}
  Vfio(const Vfio&) = delete;
  Vfio& operator=(const Vfio&) = delete;

  // At boot, in bus order: the first is vfio0. Nothing is written to the device. Enomem.
  Result<void> add_device(pci::Function& function, IommuDevice& device);
  // One that is not for programs, but may be on a bus with those that are. Enomem.
  Result<void> add_other(pci::Function& function);
  usize size() const { return devices_.size(); }
  // Null also for virtual functions that are not there, and for what is not bound to the driver.
  PciDevice* at(u32 index) const {
    return index < devices_.size() && devices_[index]->offered() ? devices_[index].get() : nullptr;
  }
  PciDevice* find(SourceId source) const {
    PciDevice* const device = known(source);
    return device && device->offered() ? device : nullptr;
  }
  PciDevice* known(SourceId source) const;
  // Its virtual functions are about to go: nobody opens them any more. Ebusy: somebody has, and all stay.
  Result<void> let_go_virtual(const pci::Function& physical);
  // They came, or went, or stay after all.
  void note_virtual(const pci::Function& physical);
  // What sysfs has of a driver: at boot it has all devices. Enodev: there is none such, or it is not bound; Ebusy: it
  // is bound; it is open, or preserved (Linux would wait until its user lets it go).
  Result<void> bind(SourceId source);
  Result<void> unbind(SourceId source);
  // Any device of the group: what is attached for it is attached for all. Null: there is none.
  IommuDevice* representative(const VfioGroup& group) const;

  // /dev/vfio/devices/vfioN. Enoent: there is none; Ebusy: its device waits for its session, or is being taken over by
  // it; Enomem. Nothing can be done with the file before it is bound.
  Result<Ref<File>> open(u32 index);
  // /dev/vfio/<id>. Enoent: there is none; Ebusy: it is open, or a device of it is bound, or waits for its session, or
  // is being taken over by it; Enomem.
  Result<Ref<File>> open_group(u32 id);
  // /dev/vfio/vfio. Enomem.
  Result<Ref<File>> open_container();

  // Now and then: events that programs signal to devices.
  void service();

  Heap& heap() const { return iommufd.heap(); }
  Machine& machine() const { return iommufd.machine(); }

  iommufd::Iommufd& iommufd;
  pci::LiveUpdate& pci_live_update;
  const Config config;

 private:
  Result<DeviceSet*> set_of(pci::Function& function);
  Result<VfioGroup*> group_of(Group& group);
  // It was preserved, and nobody but its session gets it.
  static bool reserved(PciDevice& device);

  Vec<Owned<DeviceSet>> sets_;
  Vec<Owned<VfioGroup>> groups_;
  Vec<Owned<PciDevice>> devices_;
};

}  // namespace perdure::vfio
