#include "client/vfio_device.h"

#include <cstring>

#include "core/uapi/vfio.h"

namespace perdure::client {

using namespace uapi;  // NOLINT(google-build-using-namespace): the structures of one API

Result<VfioDevice> VfioDevice::open(Syscalls& sys, std::string_view path) {
  return VfioDevice(Fd(sys, TRY(sys.open(path))));
}

Result<u32> VfioDevice::bind(const Iommufd& iommufd) const {
  VfioBindIommufd arg{};
  arg.argsz = sizeof arg;
  arg.iommufd = iommufd.number();
  TRY(fd_.sys().ioctl(number(), kVfioDeviceBindIommufd, &arg));
  return arg.out_devid;
}

Result<u32> VfioDevice::attach(u32 pt) const {
  VfioAttachIommufdPt arg{};
  arg.argsz = sizeof arg;
  arg.pt_id = pt;
  TRY(fd_.sys().ioctl(number(), kVfioDeviceAttachIommufdPt, &arg));
  return arg.pt_id;
}

Result<void> VfioDevice::detach() const {
  VfioDetachIommufdPt arg{};
  arg.argsz = sizeof arg;
  TRY(fd_.sys().ioctl(number(), kVfioDeviceDetachIommufdPt, &arg));
  return {};
}

Result<Region> VfioDevice::region(u32 index) const {
  VfioRegionInfo arg{};
  arg.argsz = sizeof arg;
  arg.index = index;
  TRY(fd_.sys().ioctl(number(), kVfioDeviceGetRegionInfo, &arg));
  return Region{.index = index, .flags = arg.flags, .size = arg.size, .offset = arg.offset};
}

Result<u64> VfioDevice::read(const Region& region, u64 offset, unsigned bytes) const {
  u64 value = 0;
  const usize n = TRY(fd_.sys().pread(number(), &value, bytes, region.offset + offset));
  if (n != bytes) return fail(Errno::Eio);
  return value;
}

Result<void> VfioDevice::write(const Region& region, u64 offset, unsigned bytes, u64 value) const {
  const usize n = TRY(fd_.sys().pwrite(number(), &value, bytes, region.offset + offset));
  if (n != bytes) return fail(Errno::Eio);
  return {};
}

Result<void> VfioDevice::set_bus_master(bool on) const {
  constexpr u64 kCommand = 4;
  constexpr u64 kBusMaster = 4;
  constexpr u64 kMemory = 2;
  const Region config = TRY(region(vfio_region::kConfig));
  const u64 command = TRY(read(config, kCommand, 2));
  return write(config, kCommand, 2, (on ? command | kBusMaster : command & ~kBusMaster) | kMemory);
}

Result<Mapping> VfioDevice::map(const Region& region) const {
  if ((region.flags & vfio_region::kMmap) == 0) return fail(Errno::Einval);
  return Mapping(fd_.sys(), TRY(fd_.sys().mmap(number(), region.offset, region.size)), region.size);
}

Result<u32> VfioDevice::ids() const {
  return static_cast<u32>(TRY(read(TRY(region(vfio_region::kConfig)), 0, 4)));
}

Result<void> VfioDevice::reset() const {
  TRY(fd_.sys().ioctl(number(), kVfioDeviceReset, nullptr));
  return {};
}

Result<void> VfioDevice::set_irqs(u32 index, const s32* eventfds, u32 count) const {
  constexpr u32 kMost = 64;
  if (count > kMost) return fail(Errno::Einval);
  struct {
    VfioIrqSet head;
    s32 fds[kMost];
  } arg{};
  arg.head.argsz = static_cast<u32>(sizeof arg.head + count * sizeof(s32));
  arg.head.flags = vfio_irq::kDataEventfd | vfio_irq::kActionTrigger;
  arg.head.index = index;
  arg.head.start = 0;
  arg.head.count = count;
  std::memcpy(arg.fds, eventfds, count * sizeof(s32));
  TRY(fd_.sys().ioctl(number(), kVfioDeviceSetIrqs, &arg));
  return {};
}

Result<void> VfioDevice::disable_irqs(u32 index) const {
  VfioIrqSet arg{};
  arg.argsz = sizeof arg;
  arg.flags = vfio_irq::kDataNone | vfio_irq::kActionTrigger;
  arg.index = index;
  TRY(fd_.sys().ioctl(number(), kVfioDeviceSetIrqs, &arg));
  return {};
}

}  // namespace perdure::client
