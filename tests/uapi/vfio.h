// Calls on VFIO's devices, groups and containers with nothing around them: what tests of them share.
#pragma once
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <optional>
#include <string>

#include "client/iommufd.h"
#include "core/uapi/iommufd.h"
#include "core/uapi/vfio.h"
#include "tests/uapi/user_memory.h"

namespace perdure::uapi_test::vfio {

inline constexpr u64 kPage = kPageSize;

// VFIO's rule for structures, which begin with argsz: too short EINVAL, longer is not looked at, unreadable EFAULT.
// `good`: what the call would execute.
template <class T>
void check_argsz(Case& t, const Fd& fd, u32 cmd, const T& good, u32 min) {
  const UserMemory memory;
  CHECK_ERRNO(t.ioctl_at(fd, cmd, memory.beyond()), Errno::Efault);
  CHECK_ERRNO(t.ioctl_at(fd, cmd, memory.beyond() - 4), Errno::Efault);
  for (const u32 size : {0U, 4U, min - 1}) {
    T changed = good;
    changed.argsz = size;
    CHECK_ERRNO(t.ioctl_at(fd, cmd, memory.put(changed)), Errno::Einval);
  }
}

inline Result<u64> bind(Case& t, const Fd& device, s32 iommufd, u32* id = nullptr) {
  uapi::VfioBindIommufd call{.argsz = sizeof call, .flags = 0, .iommufd = iommufd, .out_devid = 0, .token_uuid_ptr = 0};
  const auto result = t.ioctl(device, uapi::kVfioDeviceBindIommufd, call);
  if (id) *id = call.out_devid;
  return result;
}
inline Result<u64> attach(Case& t, const Fd& device, u32 pt, u32* hwpt = nullptr) {
  uapi::VfioAttachIommufdPt call{.argsz = sizeof call, .flags = 0, .pt_id = pt, .pasid = 0};
  const auto result = t.ioctl(device, uapi::kVfioDeviceAttachIommufdPt, call);
  if (hwpt) *hwpt = call.pt_id;
  return result;
}
inline Result<u64> detach(Case& t, const Fd& device) {
  uapi::VfioDetachIommufdPt call{.argsz = sizeof call, .flags = 0, .pasid = 0};
  return t.ioctl(device, uapi::kVfioDeviceDetachIommufdPt, call);
}
inline u32 ioas(Case& t, const Fd& iommufd) {
  uapi::IommuIoasAlloc call{.size = sizeof call, .flags = 0, .out_ioas_id = 0};
  MUST(t.ioctl(iommufd, uapi::kIommuIoasAlloc, call));
  return call.out_ioas_id;
}

// A device that is bound to a context of its own.
struct Bound {
  explicit Bound(Case& t, usize index = 0)
      : iommufd(t.open("/dev/iommu")), device(t.open(t.devices(index + 1)[index])) {
    MUST(bind(t, device, iommufd.number(), &id));
  }
  Fd iommufd;
  Fd device;
  u32 id = 0;
};

inline uapi::VfioRegionInfo region(Case& t, const Fd& device, u32 index) {
  uapi::VfioRegionInfo info{.argsz = sizeof info, .flags = 0, .index = index, .cap_offset = 0, .size = 0, .offset = 0};
  MUST(t.ioctl(device, uapi::kVfioDeviceGetRegionInfo, info));
  return info;
}
inline uapi::VfioIrqInfo irq(Case& t, const Fd& device, u32 index) {
  uapi::VfioIrqInfo info{.argsz = sizeof info, .flags = 0, .index = index, .count = 0};
  MUST(t.ioctl(device, uapi::kVfioDeviceGetIrqInfo, info));
  return info;
}
// The first BAR of memory with registers.
inline uapi::VfioRegionInfo bar(Case& t, const Fd& device) {
  for (u32 i = 0; i < 6; ++i) {
    const auto info = region(t, device, i);
    if (info.size >= 64 && (info.flags & 3) == 3) return info;
  }
  Case::skip("the device has no BAR");
}

template <class T>
T config_read(Case& t, const Fd& device, u64 offset) {
  const auto config = region(t, device, uapi::vfio_region::kConfig);
  T value{};
  CHECK_EQ(MUST(t.sys.pread(device.number(), &value, sizeof value, config.offset + offset)), sizeof value);
  return value;
}
template <class T>
void config_write(Case& t, const Fd& device, u64 offset, T value) {
  const auto config = region(t, device, uapi::vfio_region::kConfig);
  CHECK_EQ(MUST(t.sys.pwrite(device.number(), &value, sizeof value, config.offset + offset)), sizeof value);
}
// Offset of a standard capability, 0: there is none.
inline u16 capability(Case& t, const Fd& device, u8 id) {
  for (u8 at = config_read<u8>(t, device, 0x34); at >= 0x40; at = config_read<u8>(t, device, at + 1u)) {
    if (config_read<u8>(t, device, at) == id) return at;
  }
  return 0;
}

// `data`: bytes or descriptors, as the flags say.
template <class T = s32>
Result<u64> set_irqs(Case& t, const Fd& device, u32 flags, u32 index, u32 start, u32 count,
                     const std::vector<T>& data = {}) {
  std::vector<std::byte> bytes(sizeof(uapi::VfioIrqSet) + data.size() * sizeof(T));
  const uapi::VfioIrqSet set{static_cast<u32>(bytes.size()), flags, index, start, count};
  std::memcpy(bytes.data(), &set, sizeof set);
  if (!data.empty()) std::memcpy(bytes.data() + sizeof set, data.data(), data.size() * sizeof(T));
  return t.ioctl_at(device, uapi::kVfioDeviceSetIrqs, bytes.data());
}

// --- groups
// -----------------------------------------------------------------------------------------------------------

// A group with a device that tests may use, and that device's name.
struct GroupOf {
  std::string node;
  std::string device;
};

// By sysfs where there is one. Where a test knows nothing but system calls: whoever opens and has a device of some
// name.
inline GroupOf find_group(Case& t) {
  const std::string path = t.devices()[0];
  if (t.program) {
    const std::string device = "/sys/class/vfio-dev/" + path.substr(path.rfind('/') + 1) + "/device";
    const auto last_of = [](const std::string& link) -> std::string {
      char target[512] = {};
      if (readlink(link.c_str(), target, sizeof target - 1) <= 0) return {};
      const std::string to = target;
      return to.substr(to.rfind('/') + 1);
    };
    const std::string name = last_of(device), group = last_of(device + "/iommu_group");
    if (!name.empty() && !group.empty()) return {"/dev/vfio/" + group, name};
  }
  for (unsigned group = 0; group < 16; ++group) {
    const std::string node = "/dev/vfio/" + std::to_string(group);
    const auto opened = t.sys.open(node);
    if (!opened) continue;
    const Fd fd(t.sys, *opened);
    Fd context = t.open("/dev/iommu");
    s32 number = context.number();
    if (!t.ioctl(fd, uapi::kVfioGroupSetContainer, number)) continue;
    for (unsigned bdf = 0; bdf < 0x800; ++bdf) {
      char name[16];
      std::snprintf(name, sizeof name, "0000:%02x:%02x.%x", bdf >> 8, bdf >> 3 & 31, bdf & 7);
      const auto device = t.ioctl_at(fd, uapi::kVfioGroupGetDeviceFd, name);
      if (!device) continue;
      Fd(t.sys, static_cast<s32>(*device)).reset();
      return {node, name};
    }
  }
  Case::skip("no group");
}

enum class Kind { Context, Node };

// Another one on each call.
inline Fd container(Case& t, Kind kind) {
  return t.open(kind == Kind::Context ? "/dev/iommu" : "/dev/vfio/vfio");
}
inline Result<u64> set_container(Case& t, const Fd& group, s32 container) {
  return t.ioctl(group, uapi::kVfioGroupSetContainer, container);
}
inline Result<u64> set_iommu(Case& t, const Fd& container, u64 type) {
  return t.sys.ioctl(container.number(), uapi::kVfioSetIommu, reinterpret_cast<void*>(type));
}
inline Result<u64> check_extension(Case& t, const Fd& container, u64 extension) {
  return t.sys.ioctl(container.number(), uapi::kVfioCheckExtension, reinterpret_cast<void*>(extension));
}
inline Result<Fd> device_fd(Case& t, const Fd& group, const std::string& name) {
  const u64 fd = TRY(t.ioctl_at(group, uapi::kVfioGroupGetDeviceFd, name.c_str()));
  return Fd(t.sys, static_cast<s32>(fd));
}

// A group in a container that translates.
struct Grouped {
  explicit Grouped(Case& t, Kind kind, u64 type = uapi::vfio_extension::kType1v2)
      : of(find_group(t)), group(t.open(of.node)), box(container(t, kind)) {
    MUST(set_container(t, group, box.number()));
    MUST(set_iommu(t, box, type));
  }
  GroupOf of;
  Fd group;
  Fd box;
};

inline Result<u64> map_dma(Case& t, const Fd& container, const void* at, u64 iova, u64 size, u32 flags = 3) {
  uapi::VfioDmaMap call{.argsz = sizeof call,
                        .flags = flags,
                        .vaddr = reinterpret_cast<u64>(at),  // NOLINT(performance-no-int-to-ptr)
                        .iova = iova,
                        .size = size};
  return t.ioctl(container, uapi::kVfioIommuMapDma, call);
}
// `size`: what was unmapped.
inline Result<u64> unmap_dma(Case& t, const Fd& container, u64 iova, u64& size, u32 flags = 0) {
  uapi::VfioDmaUnmap call{.argsz = sizeof call, .flags = flags, .iova = iova, .size = size};
  const auto result = t.ioctl(container, uapi::kVfioIommuUnmapDma, call);
  size = call.size;
  return result;
}
inline u64 unmapped(Case& t, const Fd& container, u64 iova, u64 size, u32 flags = 0) {
  MUST(unmap_dma(t, container, iova, size, flags));
  return size;
}

// Shared memory that devices can reach for as long as this lives.
class Shared {
 public:
  Shared(Case& t, u64 bytes) : sys_(t.sys), bytes_(bytes), fd_(t.sys, MUST(t.sys.memfd_create("vfio"))) {
    MUST(t.sys.ftruncate(fd_.number(), bytes));
    at_ = MUST(t.sys.mmap(fd_.number(), 0, bytes));
  }
  ~Shared() { static_cast<void>(sys_.munmap(at_, bytes_)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  std::byte* at(u64 offset = 0) const { return at_ + offset; }

 private:
  Syscalls& sys_;
  u64 bytes_;
  Fd fd_;
  std::byte* at_ = nullptr;
};

}  // namespace perdure::uapi_test::vfio
