// /dev/vfio/<group> and the devices that are opened through it (uapi §3.9).
#pragma once
#include "core/vfio/device_file.h"
#include "core/vfio/vfio_group.h"

namespace perdure::vfio {

class GroupFile final : public File {
 public:
  static constexpr FileType kType{"/dev/vfio/"};

  GroupFile(Vfio& module, VfioGroup& group) : module_(module), group_(group) {}
  const FileType& type() const override { return kType; }
  Result<u64> ioctl(Task& task, u32 cmd, UserAddr arg) override;

  VfioGroup& group() const { return group_; }
  // Somebody else came first.
  void never_opened() { open_ = false; }

 protected:
  void last_close() override;

 private:
  Result<void> get_status(Task& task, UserAddr arg);
  Result<void> set_container(Task& task, UserAddr arg);
  Result<void> unset_container();
  Result<u64> get_device_fd(Task& task, UserAddr arg);
  // The group's device with this name, which may be followed by a token. Enodev, Einval, Eacces.
  Result<PciDevice*> find_device(std::string_view wanted) const;

  Vfio& module_;
  VfioGroup& group_;
  bool open_ = true;
};

// A device opened through its group: usable from the start, and as often as the group's owner likes. Holds the group
// open. It cannot be preserved: what would be reclaimed after an update is an iommufd's device.
class GroupDeviceFile final : public DeviceFile {
 public:
  static constexpr FileType kType{"anon_inode:[vfio-device]"};

  GroupDeviceFile(Vfio& module, PciDevice& device) : DeviceFile(module, device) {}
  const FileType& type() const override { return kType; }
  Result<u64> ioctl(Task& task, u32 cmd, UserAddr arg) override;

  // Before the program has it. Einval: the group has no container, or one without IOMMU; Enodev: a context without
  // IOAS for it; what binding and attaching say.
  Result<void> open(Task& task, Ref<GroupFile> group);

 protected:
  void last_close() override;

 private:
  bool usable() const override { return true; }
  Result<void> first_open_locked(Task& task, VfioGroup& group) REQUIRES(device_.lock);

  Ref<GroupFile> group_file_;  // null: never opened
};

}  // namespace perdure::vfio
