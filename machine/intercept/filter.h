// Which system calls of a program come to the supervisor, as a seccomp filter (x86-64).
#pragma once
#include <linux/filter.h>

#include <vector>

#include "core/base/types.h"

namespace perdure::intercept {

struct FilterOptions {
  // Calls that look at files without opening them: what programs learn from sysfs.
  bool files = true;
  // eventfd2() is carried out by the supervisor: where it may not take descriptors out of programs.
  bool eventfds = false;
  // writes to descriptors from this number on: files in sysfs that take orders stand there.
  u32 high_fd = 0x7fffffff;
};

// Positions from here on are those of our files (DeviceFile::kMemoryRegions); no other file is that large.
inline constexpr u64 kOurPositions = u64{1} << 60;
// KVM's _IOW(0xae, 0xe1, struct kvm_device_attr): hypervisors tell KVM of devices by it.
inline constexpr u32 kKvmSetDeviceAttr = 0x4018aee1;
// The type bytes of the ioctls of iommufd and VFIO, and of live update.
inline constexpr u32 kIommuType = 0x3b00;
inline constexpr u32 kLiveUpdateType = 0xba00;
inline constexpr u32 kTypeMask = 0xff00;

std::vector<sock_filter> build_filter(const FilterOptions& options);

}  // namespace perdure::intercept
