// /dev/vfio/devices: every function that programs may drive.
#pragma once
#include "core/abi/vfio_pci.h"
#include "core/iommufd/iommufd.h"
#include "core/pci/live_update.h"
#include "core/vfio/vfio_file.h"

namespace perdure::vfio {

class Vfio {
 public:
  struct Config {
    u32 write_version = abi::kVfioPciReadMax;  // of records
  };

  Vfio(iommufd::Iommufd& iommufd_module, pci::LiveUpdate& functions, Config configured)
      : iommufd(iommufd_module), pci_live_update(functions), config(configured), devices_(iommufd_module.heap()) {}
  Vfio(const Vfio&) = delete;
  Vfio& operator=(const Vfio&) = delete;

  // At boot, in bus order: the first is vfio0. Nothing is written to the device. Enomem.
  Result<void> add_device(pci::Function& function, IommuDevice& device);
  usize size() const { return devices_.size(); }
  PciDevice* at(u32 index) const { return index < devices_.size() ? devices_[index].get() : nullptr; }
  PciDevice* find(SourceId source) const;

  // /dev/vfio/devices/vfioN. Enoent: there is none; Ebusy: its device waits for its session, or is being taken over by
  // it; Enomem. Nothing can be done with the file before it is bound.
  Result<Ref<File>> open(u32 index);

  Heap& heap() const { return iommufd.heap(); }
  Machine& machine() const { return iommufd.machine(); }

  iommufd::Iommufd& iommufd;
  pci::LiveUpdate& pci_live_update;
  const Config config;

 private:
  Vec<Owned<PciDevice>> devices_;
};

}  // namespace perdure::vfio
