#include "core/vfio/vfio.h"

namespace perdure::vfio {

Result<void> Vfio::add_device(pci::Function& function, IommuDevice& device) {
  Owned<PciDevice> added = TRY(heap().make<PciDevice>(heap(), static_cast<u32>(devices_.size()), function, device));
  return devices_.push_back(std::move(added));
}

PciDevice* Vfio::find(SourceId source) const {
  for (const Owned<PciDevice>& device : devices_) {
    if (device->function.source() == source) return device.get();
  }
  return nullptr;
}

Result<Ref<File>> Vfio::open(u32 index) {
  PciDevice* const device = at(index);
  if (!device) return fail(Errno::Enoent);
  if (device->iommu_device.group().ownership() == Ownership::HeldForSession) return fail(Errno::Ebusy);
  {
    MutexGuard guard(device->lock);
    if (device->in_transfer) return fail(Errno::Ebusy);
  }
  Ref<VfioFile> file = TRY(heap().make_ref<VfioFile>(*this, *device));
  return Ref<File>(std::move(file));
}

}  // namespace perdure::vfio
