#include "core/vfio/group_file.h"

#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/vfio/device_name.h"
#include "core/vfio/type1_container.h"
#include "core/vfio/vfio.h"

namespace perdure::vfio {

namespace {

constexpr usize kMostName = kPageSize;
constexpr std::string_view kTokenArgument = "vf_token=";

}  // namespace

Result<u64> GroupFile::ioctl(Task& task, u32 cmd, UserAddr arg) {
  const auto run = [&]() -> Result<void> {
    switch (cmd) {
      case uapi::kVfioGroupGetStatus: return get_status(task, arg);
      case uapi::kVfioGroupSetContainer: return set_container(task, arg);
      case uapi::kVfioGroupUnsetContainer: return unset_container();
      default: return fail(Errno::Enotty);
    }
  };
  if (cmd == uapi::kVfioGroupGetDeviceFd) return get_device_fd(task, arg);
  TRY(run());
  return u64{0};
}

// Viable: nobody else has a hand on what its devices reach.
Result<void> GroupFile::get_status(Task& task, UserAddr arg) {
  auto status = TRY(copy_in_argsz<uapi::VfioGroupStatus>(task, arg, sizeof(uapi::VfioGroupStatus)));
  status.flags = 0;
  {
    MutexGuard guard(group_.lock);
    if (group_.iommufd || group_.container) {
      status.flags = uapi::vfio_group::kContainerSet | uapi::vfio_group::kViable;
    } else if (group_.iommu_group.ownership() == Ownership::Unowned) {
      status.flags = uapi::vfio_group::kViable;
    }
  }
  return task.copy_out(arg, status);
}

Result<void> GroupFile::set_container(Task& task, UserAddr arg) {
  const s32 fd = TRY(task.copy_in<s32>(arg));
  const Ref<File> file = TRY(task.file(fd));
  MutexGuard guard(group_.lock);
  if (group_.iommufd || group_.container) return fail(Errno::Einval);
  if (auto* const container = file_cast<Type1Container>(file.get())) {
    TRY(container->add(task, group_));
    group_.container = Ref<Type1Container>(container);
    return {};
  }
  auto* const iommufd = file_cast<iommufd::IommufdFile>(file.get());
  if (!iommufd) return fail(Errno::Ebadfd);
  TRY(iommufd->make_compat_ioas());
  group_.iommufd = Ref<iommufd::IommufdFile>(iommufd);
  return {};
}

Result<void> GroupFile::unset_container() {
  // Dropped with no lock held.
  Ref<iommufd::IommufdFile> iommufd;
  Ref<Type1Container> container;
  Ref<iommufd::Object> mappings;
  MutexGuard guard(group_.lock);
  if (!group_.iommufd && !group_.container) return fail(Errno::Einval);
  if (group_.container) {
    if (group_.open_devices != 0) return fail(Errno::Ebusy);
    mappings = group_.container->remove(group_);
  }
  iommufd = std::move(group_.iommufd);
  container = std::move(group_.container);
  group_.iommufd = nullptr;
  group_.container = nullptr;
  return {};
}

// Devices hold the group open, so none is left.
void GroupFile::last_close() {
  if (!open_) return;
  static_cast<void>(unset_container());
  MutexGuard guard(group_.lock);
  group_.opened = nullptr;
}

// --- devices ------------------------------------------------------------------------------------------------------

Result<PciDevice*> GroupFile::find_device(std::string_view wanted) const {
  for (usize i = 0; i < module_.size(); ++i) {
    PciDevice* const device = module_.at(static_cast<u32>(i));
    if (!device || &device->group != &group_) continue;
    const DeviceName name(device->function.source());
    if (!wanted.starts_with(name.text())) continue;
    std::string_view rest = wanted;
    rest.remove_prefix(name.text().size());
    if (!rest.empty() && rest[0] != ' ') continue;
    Uuid token;
    bool with_token = false;
    while (!rest.empty()) {
      if (rest[0] == ' ') {
        rest.remove_prefix(1);
      } else if (!with_token && rest.starts_with(kTokenArgument)) {
        rest.remove_prefix(kTokenArgument.size());
        if (rest.size() < kUuidText) return fail(Errno::Einval);
        std::string_view uuid = rest;
        uuid.remove_suffix(rest.size() - kUuidText);
        token = TRY(parse_uuid(uuid));
        with_token = true;
        rest.remove_prefix(kUuidText);
      } else {
        return fail(Errno::Einval);
      }
    }
    TRY(GroupDeviceFile::check_token(*device, with_token ? &token : nullptr));
    return device;
  }
  return fail(Errno::Enodev);
}

Result<u64> GroupFile::get_device_fd(Task& task, UserAddr arg) {
  Vec<char> name(module_.heap());
  for (usize i = 0;; ++i) {
    // No more than a page of it, as Linux.
    if (i == kMostName) return fail(Errno::Einval);
    const char c = TRY(task.copy_in<char>(arg + i));
    if (c == 0) break;
    TRY(name.push_back(c));
  }
  PciDevice* const device = TRY(find_device({name.begin(), name.size()}));
  FdSlot slot = TRY(FdSlot::reserve(task));
  Ref<GroupDeviceFile> file = TRY(module_.heap().make_ref<GroupDeviceFile>(module_, *device));
  TRY(file->open(task, Ref<GroupFile>(this)));
  const s32 fd = slot.number();
  slot.install(std::move(file));
  return static_cast<u64>(fd);
}

Result<u64> GroupDeviceFile::ioctl(Task& task, u32 cmd, UserAddr arg) {
  if (cmd == uapi::kVfioDeviceBindIommufd) {
    TRY(copy_in_bind(task, arg));
    return fail(Errno::Einval);
  }
  return device_ioctl(task, cmd, arg);
}

Result<void> GroupDeviceFile::open(Task& task, Ref<GroupFile> group_file) {
  VfioGroup& group = group_file->group();
  MutexGuard group_guard(group.lock);
  if (group.container ? !group.container->ready() : !group.iommufd) return fail(Errno::Einval);
  MutexGuard guard(device_.lock);
  if (!device_.offered()) return fail(Errno::Enodev);
  if (device_.opens == 0) TRY(first_open_locked(task, group));
  ++device_.opens;
  ++group.open_devices;
  group_file_ = std::move(group_file);
  return {};
}

Result<void> GroupDeviceFile::first_open_locked(Task& task, VfioGroup& group) {
  group.lock.assert_held();
  if (group.container) {
    // The container has the group's DMA in its hands already.
    quiet_locked();
    return {};
  }
  iommufd::IommufdFile& context = *group.iommufd;
  Ref<iommufd::Device> bound = TRY(context.bind(device_.iommu_device));
  ScopeGuard unbind([&] { context.unbind(*bound); });
  quiet_locked();
  ScopeGuard quiet([&]() NO_THREAD_SAFETY_ANALYSIS {
    device_.function.set_bus_master(false);
    if (device_.physical) device_.physical->token.drop_user();
  });
  const Ref<iommufd::Ioas> ioas = TRY(context.compat_ioas());
  TRY(context.attach(task, *bound, ioas->id()));
  quiet.dismiss();
  unbind.dismiss();
  device_.bound = std::move(bound);
  device_.iommufd = group.iommufd;
  return {};
}

void GroupDeviceFile::last_close() {
  if (!group_file_) return;
  Dropped dropped(module_.heap());
  {
    VfioGroup& group = group_file_->group();
    MutexGuard group_guard(group.lock);
    MutexGuard guard(device_.lock);
    if (device_.opens == 1) {
      shut_down_locked(dropped);
    } else {
      --device_.opens;
    }
    --group.open_devices;
  }
  group_file_ = nullptr;
}

}  // namespace perdure::vfio
