#include "core/vfio/vfio.h"

#include "core/vfio/group_file.h"
#include "core/vfio/type1_container.h"

namespace perdure::vfio {

// --- what there is ------------------------------------------------------------------------------------------------

Result<DeviceSet*> Vfio::set_of(pci::Function& function) {
  for (const Owned<DeviceSet>& set : sets_) {
    if (set->bridge && set->bridge == function.parent()) return set.get();
  }
  Owned<DeviceSet> added = TRY(heap().make<DeviceSet>(heap(), function.parent()));
  DeviceSet* const set = added.get();
  TRY(sets_.push_back(std::move(added)));
  return set;
}

Result<VfioGroup*> Vfio::group_of(Group& group) {
  for (const Owned<VfioGroup>& known : groups_) {
    if (&known->iommu_group == &group) return known.get();
  }
  Owned<VfioGroup> added = TRY(heap().make<VfioGroup>(group));
  VfioGroup* const fresh = added.get();
  TRY(groups_.push_back(std::move(added)));
  return fresh;
}

Result<void> Vfio::add_device(pci::Function& function, IommuDevice& device) {
  DeviceSet* const set = TRY(set_of(function));
  VfioGroup* const group = TRY(group_of(device.group()));
  TRY(devices_.reserve(devices_.size() + 1));
  Owned<PciDevice> added =
      TRY(heap().make<PciDevice>(heap(), static_cast<u32>(devices_.size()), function, device, *set, *group));
  if (function.physical()) added->physical = known(function.physical()->source());
  {
    MutexGuard guard(set->lock);
    TRY(set->members.push_back({&function, added.get()}));
  }
  return devices_.push_back(std::move(added));
}

Result<void> Vfio::add_other(pci::Function& function) {
  if (!function.parent()) return {};
  DeviceSet* const set = TRY(set_of(function));
  MutexGuard guard(set->lock);
  return set->members.push_back({&function, nullptr});
}

PciDevice* Vfio::known(SourceId source) const {
  for (const Owned<PciDevice>& device : devices_) {
    if (device->function.source() == source) return device.get();
  }
  return nullptr;
}

Result<void> Vfio::let_go_virtual(const pci::Function& physical) {
  for (const Owned<PciDevice>& device : devices_) {
    if (device->function.physical() != &physical) continue;
    MutexGuard guard(device->lock);
    if (device->opens != 0) {
      note_virtual(physical);
      return fail(Errno::Ebusy);
    }
    device->gone.store(true, std::memory_order_release);
  }
  return {};
}

void Vfio::note_virtual(const pci::Function& physical) {
  for (const Owned<PciDevice>& device : devices_) {
    if (device->function.physical() != &physical) continue;
    const bool gone = !device->function.enabled();
    device->gone.store(gone, std::memory_order_release);
    if (gone) device->unbound.store(false, std::memory_order_release);  // one that comes again is another one
  }
}

Result<void> Vfio::bind(SourceId source) {
  PciDevice* const device = known(source);
  if (!device || device->gone.load(std::memory_order_acquire)) return fail(Errno::Enodev);
  return device->unbound.exchange(false) ? Result<void>() : fail(Errno::Ebusy);
}

Result<void> Vfio::unbind(SourceId source) {
  PciDevice* const device = find(source);
  if (!device) return fail(Errno::Enodev);
  if (reserved(*device)) return fail(Errno::Ebusy);
  MutexGuard guard(device->lock);
  if (device->opens != 0) return fail(Errno::Ebusy);
  return device->unbound.exchange(true) ? fail(Errno::Enodev) : Result<void>();
}

IommuDevice* Vfio::representative(const VfioGroup& group) const {
  for (const Owned<PciDevice>& device : devices_) {
    if (&device->group == &group) return &device->iommu_device;
  }
  return nullptr;
}

// --- nodes --------------------------------------------------------------------------------------------------------

bool Vfio::reserved(PciDevice& device) {
  if (device.iommu_device.group().ownership() == Ownership::HeldForSession) return true;
  MutexGuard guard(device.lock);
  return device.in_transfer;
}

Result<Ref<File>> Vfio::open(u32 index) {
  PciDevice* const device = at(index);
  if (!device) return fail(Errno::Enoent);
  if (reserved(*device)) return fail(Errno::Ebusy);
  Ref<VfioFile> file = TRY(heap().make_ref<VfioFile>(*this, *device));
  return Ref<File>(std::move(file));
}

Result<Ref<File>> Vfio::open_group(u32 id) {
  VfioGroup* group = nullptr;
  for (const Owned<VfioGroup>& known : groups_) {
    if (known->id() == id) group = known.get();
  }
  if (!group) return fail(Errno::Enoent);
  bool any = false;
  for (const Owned<PciDevice>& device : devices_) {
    if (&device->group != group || !device->offered()) continue;
    any = true;
    if (reserved(*device)) return fail(Errno::Ebusy);
  }
  if (!any) return fail(Errno::Enoent);
  Ref<GroupFile> file = TRY(heap().make_ref<GroupFile>(*this, *group));
  {
    MutexGuard guard(group->lock);
    if (group->bound_cdevs == 0 && !group->opened) {
      group->opened = file.get();
      return Ref<File>(std::move(file));
    }
  }
  file->never_opened();
  return fail(Errno::Ebusy);
}

Result<Ref<File>> Vfio::open_container() {
  if (config.container == Container::Iommufd) return Ref<File>(TRY(iommufd.open(iommufd::Accounting::Process)));
  Ref<iommufd::IommufdFile> context = TRY(iommufd.open(iommufd::Accounting::Process));
  return Ref<File>(TRY(heap().make_ref<Type1Container>(*this, std::move(context))));
}

void Vfio::service() {
  for (const Owned<PciDevice>& device : devices_) {
    MutexGuard guard(device->lock);
    device->intx.service();
    if (device->io_events.empty() || !device->config.memory_enabled()) continue;
    device->io_events.service([&](const IoEvents::Doorbell& doorbell) {
      machine().mmio_write(device->function.bars()[doorbell.bar].base + doorbell.offset,
                           static_cast<Width>(doorbell.bytes), doorbell.data);
    });
  }
}

}  // namespace perdure::vfio
