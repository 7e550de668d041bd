// Reset of one function, and of all that a reset of their bus reaches (uapi §3.7).
#include "core/base/scope_guard.h"
#include "core/vfio/group_file.h"
#include "core/vfio/vfio.h"

namespace perdure::vfio {

// Never while a session has the device: whoever takes it over finds it at work (design §7).
Result<void> DeviceFile::reset_locked() {
  if (device_.in_transfer) return fail(Errno::Ebusy);
  TRY(device_.iommu_device.group().may_change());
  if (!device_.reset_works) return fail(Errno::Einval);
  TRY(device_.function.reset());
  // Eventfds stay connected.
  device_.irqs.reprogram();
  return {};
}

// Of a function in the caller's eyes, who came by the device's own node: what he may name it by.
u32 DeviceFile::dependent_id_locked(const DeviceSet::Member& member) const {
  PciDevice* const other = member.device;
  if (!other || !device_.iommufd) return uapi::vfio_hot_reset::kNotOwned;
  other->lock.assert_held();
  if (other->iommufd == device_.iommufd) return device_.iommufd->id_of(*other->bound);
  // Not bound, but nobody else's either: its group is the caller's through another device of it.
  return device_.iommufd->owns(other->iommu_device.group()) ? uapi::vfio_hot_reset::kOwned
                                                            : uapi::vfio_hot_reset::kNotOwned;
}

Result<void> DeviceFile::get_hot_reset_info(Task& task, UserAddr arg) {
  auto head = TRY(copy_in_argsz<uapi::VfioHotResetInfo>(task, arg, sizeof(uapi::VfioHotResetInfo)));
  // A root bus cannot be reset.
  if (!device_.set.bridge) return fail(Errno::Enodev);
  const usize room = (head.argsz - sizeof(head)) / sizeof(uapi::VfioDependentDevice);
  Vec<uapi::VfioDependentDevice> all(module_.heap());
  {
    MutexGuard guard(device_.lock);
    device_.set.lock.assert_held();
    const bool by_id = device_.by_cdev;
    head.flags = by_id ? uapi::vfio_hot_reset::kDeviceId | uapi::vfio_hot_reset::kDeviceIdOwned : 0;
    for (const DeviceSet::Member& member : device_.set.members) {
      if (!member.function->enabled()) continue;
      const SourceId source = member.function->source();
      uapi::VfioDependentDevice entry{
          .id = 0, .segment = source.segment, .bus = source.bus(), .devfn = static_cast<u8>(source.bdf)};
      if (by_id) {
        entry.id = dependent_id_locked(member);
        if (entry.id == uapi::vfio_hot_reset::kNotOwned) head.flags &= ~uapi::vfio_hot_reset::kDeviceIdOwned;
      } else {
        const IommuDevice* const known = module_.iommufd.iommu.find(source);
        if (!known) return fail(Errno::Eperm);
        entry.id = known->group().id();
      }
      TRY(all.push_back(entry));
    }
  }
  head.count = static_cast<u32>(all.size());
  if (all.size() <= room) TRY(task.copy_out(arg + sizeof(head), std::as_bytes(all.span())));
  TRY(task.copy_out(arg, head));
  if (all.size() > room) return fail(Errno::Enospc);
  return {};
}

Result<void> DeviceFile::hot_reset(Task& task, UserAddr arg) {
  const auto head = TRY(copy_in_argsz<uapi::VfioHotReset>(task, arg, sizeof(uapi::VfioHotReset)));
  if (head.flags != 0) return fail(Errno::Einval);
  Vec<Ref<File>> files(module_.heap());
  {
    MutexGuard guard(device_.lock);
    device_.set.lock.assert_held();
    // Whoever came by the device's own node proves by his iommufd what is his; others by the groups they have open.
    if ((head.count != 0) == device_.by_cdev) return fail(Errno::Einval);
    if (!device_.set.bridge) return fail(Errno::Enodev);
    if (head.count > device_.set.members.size()) return fail(Errno::Einval);
  }
  TRY(files.reserve(head.count));
  for (u32 i = 0; i < head.count; ++i) {
    const s32 fd = TRY(task.copy_in<s32>(arg + sizeof(head) + u64{i} * sizeof(s32)));
    Ref<File> file = TRY(task.file(fd));
    if (!file_cast<GroupFile>(file.get())) return fail(Errno::Einval);
    TRY(files.push_back(std::move(file)));
  }
  MutexGuard guard(device_.lock);
  if (device_.by_cdev) {
    return reset_set_locked([&](const DeviceSet::Member& member) NO_THREAD_SAFETY_ANALYSIS {
      return dependent_id_locked(member) != uapi::vfio_hot_reset::kNotOwned;
    });
  }
  return reset_set_locked([&](const DeviceSet::Member& member) {
    for (const Ref<File>& file : files) {
      if (&file_cast<GroupFile>(file.get())->group() == &member.device->group) return true;
    }
    return false;
  });
}

Result<void> DeviceFile::reset_set_locked(FunctionRef<bool(const DeviceSet::Member&)> owned) {
  device_.set.lock.assert_held();
  Vec<DeviceSet::Member> members(module_.heap());
  for (const DeviceSet::Member& member : device_.set.members) {
    if (member.function->enabled()) TRY(members.push_back(member));
  }
  // All of them are for programs, and these are the caller's.
  for (const DeviceSet::Member& member : members) {
    if (!member.device) return fail(Errno::Einval);
  }
  for (const DeviceSet::Member& member : members) {
    if (!owned(member)) return fail(Errno::Einval);
  }
  for (const DeviceSet::Member& member : members) {
    member.device->lock.assert_held();
    if (member.device->in_transfer || member.function->inherited() != pci::Inherited::No) return fail(Errno::Ebusy);
    TRY(member.device->iommu_device.group().may_change());
  }
  if (device_.set.bridge->inherited() != pci::Inherited::No) return fail(Errno::Ebusy);
  Vec<pci::SavedFunction> saved(module_.heap());
  TRY(saved.reserve(members.size()));
  for (const DeviceSet::Member& member : members) TRY(saved.push_back(member.function->quiesce()));
  device_.set.bridge->reset_secondary();
  Result<void> back;
  for (usize i = 0; i < members.size(); ++i) {
    PciDevice& device = *members[i].device;
    device.lock.assert_held();
    const Result<void> restored = members[i].function->restore(saved[i]);
    if (!restored) back = restored;
    if (restored) device.irqs.reprogram();
  }
  return back;
}

}  // namespace perdure::vfio
