// Groups and containers (uapi.md 3.9, 2.13). What both kinds of containers answer alike is asked of both.
#include <sys/mman.h>

#include "tests/uapi/vfio.h"

namespace perdure::uapi_test::vfio {
namespace {

using namespace uapi;  // NOLINT(google-build-using-namespace): the structures of one API

constexpr u64 kIova = u64{1} << 30;

// --- groups
// -----------------------------------------------------------------------------------------------------------

UAPI_TEST("3.9 open", OneFile) {
  const GroupOf of = find_group(t);
  Fd group = t.open(of.node);
  CHECK_ERRNO(t.sys.open(of.node), Errno::Ebusy);
  group.reset();
  t.open(of.node).reset();
}

UAPI_TEST("3.9 open", OrItsDevicesByTheirNodes) {
  const GroupOf of = find_group(t);
  Fd group = t.open(of.node);
  const Fd iommufd = t.open("/dev/iommu");
  Fd device = t.open(t.devices()[0]);
  CHECK_ERRNO(bind(t, device, 9999), Errno::Ebusy);  // before the descriptor is looked at
  group.reset();
  MUST(bind(t, device, iommufd.number()));
  CHECK_ERRNO(t.sys.open(of.node), Errno::Ebusy);
  device.reset();
  t.open(of.node).reset();
}

UAPI_TEST("3.9 open", UnknownIoctls) {
  const Fd group = t.open(find_group(t).node);
  u32 argument[16] = {64};
  for (const u32 cmd : {0x3b64u, 0x3b6bu, 0x3b76u, 0x1234u}) CHECK_ERRNO(t.ioctl(group, cmd, argument), Errno::Enotty);
}

UAPI_TEST("3.9 GET_STATUS", Flags) {
  const Fd group = t.open(find_group(t).node);
  const VfioGroupStatus good{.argsz = 8, .flags = 0};
  check_argsz(t, group, kVfioGroupGetStatus, good, 8);
  VfioGroupStatus status = good;
  MUST(t.ioctl(group, kVfioGroupGetStatus, status));
  CHECK_EQ(status.flags, vfio_group::kViable);
  const Fd box = container(t, Kind::Context);
  MUST(set_container(t, group, box.number()));
  MUST(t.ioctl(group, kVfioGroupGetStatus, status));
  CHECK_EQ(status.flags, vfio_group::kViable | vfio_group::kContainerSet);
}

UAPI_TEST("3.9 SET_CONTAINER", ChecksInOrder) {
  for (const Kind kind : {Kind::Context, Kind::Node}) {
    const Fd group = t.open(find_group(t).node);
    const Fd box = container(t, kind), other = container(t, kind);
    const UserMemory memory;
    CHECK_ERRNO(t.ioctl_at(group, kVfioGroupSetContainer, memory.beyond()), Errno::Efault);
    CHECK_ERRNO(set_container(t, group, 9999), Errno::Ebadf);
    CHECK_ERRNO(set_container(t, group, group.number()), Errno::Ebadfd);
    CHECK_ERRNO(t.ioctl_at(group, kVfioGroupUnsetContainer, nullptr), Errno::Einval);
    MUST(set_container(t, group, box.number()));
    CHECK_ERRNO(set_container(t, group, other.number()), Errno::Einval);
    MUST(t.ioctl_at(group, kVfioGroupUnsetContainer, nullptr));
    CHECK_OK(set_container(t, group, other.number()));
  }
}

UAPI_TEST("3.9 SET_CONTAINER", MakesTheContextsAddressSpace) {
  const Fd group = t.open(find_group(t).node);
  const Fd box = container(t, Kind::Context);
  IommuVfioIoas ask{.size = sizeof ask, .ioas_id = 0, .op = 0, .reserved = 0};
  CHECK_ERRNO(t.ioctl(box, kIommuVfioIoas, ask), Errno::Enodev);
  MUST(set_container(t, group, box.number()));
  CHECK_OK(t.ioctl(box, kIommuVfioIoas, ask));
  CHECK(ask.ioas_id != 0);
}

UAPI_TEST("3.9 GET_DEVICE_FD", ChecksInOrder) {
  const GroupOf of = find_group(t);
  const Fd group = t.open(of.node);
  const UserMemory memory;
  CHECK_ERRNO(t.ioctl_at(group, kVfioGroupGetDeviceFd, memory.beyond()), Errno::Efault);
  CHECK_ERRNO(device_fd(t, group, "nothing like it"), Errno::Enodev);
  CHECK_ERRNO(device_fd(t, group, of.device), Errno::Einval);  // no container
  const Fd box = container(t, Kind::Context);
  MUST(set_container(t, group, box.number()));
  CHECK_ERRNO(device_fd(t, group, ""), Errno::Enodev);
  CHECK_ERRNO(device_fd(t, group, of.device + "x"), Errno::Enodev);
  CHECK_ERRNO(device_fd(t, group, of.device + " unknown=1"), Errno::Einval);
  CHECK_ERRNO(device_fd(t, group, of.device + " vf_token=123"), Errno::Einval);
  CHECK_ERRNO(device_fd(t, group, of.device + " vf_token=00000000-0000-0000-0000-00000000000g"), Errno::Einval);
  CHECK_ERRNO(device_fd(t, group, of.device + " vf_token=00000000-0000-0000-0000-000000000000"), Errno::Einval);
  CHECK_OK(device_fd(t, group, of.device));
}

UAPI_TEST("3.9 GET_DEVICE_FD", AsOftenAsOneLikes) {
  for (const Kind kind : {Kind::Context, Kind::Node}) {
    const Grouped grouped(t, kind);
    Fd first = MUST(device_fd(t, grouped.group, grouped.of.device));
    const Fd second = MUST(device_fd(t, grouped.group, grouped.of.device));
    config_write<u16>(t, first, 4, 6);
    CHECK_EQ(config_read<u16>(t, second, 4) & 4, 4);
    first.reset();
    CHECK_EQ(config_read<u16>(t, second, 4) & 4, 4);
  }
}

UAPI_TEST("3.9 GET_DEVICE_FD", IsNotForBinding) {
  const Grouped grouped(t, Kind::Context);
  const Fd device = MUST(device_fd(t, grouped.group, grouped.of.device));
  const UserMemory memory;
  CHECK_ERRNO(t.ioctl_at(device, kVfioDeviceBindIommufd, memory.beyond()), Errno::Efault);
  CHECK_ERRNO(bind(t, device, grouped.box.number()), Errno::Einval);
  CHECK_ERRNO(attach(t, device, 1), Errno::Enotty);
  CHECK_ERRNO(detach(t, device), Errno::Enotty);
}

UAPI_TEST("3.9 GET_DEVICE_FD", HoldsTheGroupOpen) {
  for (const Kind kind : {Kind::Context, Kind::Node}) {
    Grouped grouped(t, kind);
    Fd device = MUST(device_fd(t, grouped.group, grouped.of.device));
    grouped.group.reset();
    CHECK_ERRNO(t.sys.open(grouped.of.node), Errno::Ebusy);
    grouped.box.reset();
    CHECK_OK(set_irqs(t, device, vfio_irq::kDataEventfd | vfio_irq::kActionTrigger, vfio_irq::kReq, 0, 1, {-1}));
    device.reset();
    t.open(grouped.of.node).reset();
  }
}

UAPI_TEST("3.9 UNSET_CONTAINER", WithDevicesOpen) {
  Grouped grouped(t, Kind::Context);
  const Fd device = MUST(device_fd(t, grouped.group, grouped.of.device));
  CHECK_OK(t.ioctl_at(grouped.group, kVfioGroupUnsetContainer, nullptr));
  CHECK_ERRNO(device_fd(t, grouped.group, grouped.of.device), Errno::Einval);
  CHECK_EQ(config_read<u16>(t, device, 0) == 0xffff, false);
}

// --- containers
// -------------------------------------------------------------------------------------------------------

UAPI_TEST("2.13 CHECK_EXTENSION", WhatThereIs) {
  for (const Kind kind : {Kind::Context, Kind::Node}) {
    const Fd box = container(t, kind);
    CHECK_EQ(MUST(t.ioctl_at(box, kVfioGetApiVersion, nullptr)), 0);
    for (const u64 there : {1, 3, 9}) CHECK_EQ(MUST(check_extension(t, box, there)), 1);
    for (const u64 none : {0, 5, 100}) CHECK_EQ(MUST(check_extension(t, box, none)), 0);
  }
}

UAPI_TEST("2.13 CHECK_EXTENSION", CoherencyIsADomainsMatter) {
  const Fd box = container(t, Kind::Context);
  CHECK_ERRNO(check_extension(t, box, 4), Errno::Enodev);
  const Grouped grouped(t, Kind::Node);
  CHECK_OK(check_extension(t, grouped.box, 4));
}

UAPI_TEST("2.13 SET_IOMMU", OfAContext) {
  const Fd group = t.open(find_group(t).node);
  const Fd box = container(t, Kind::Context);
  CHECK_ERRNO(set_iommu(t, box, 2), Errno::Einval);
  CHECK_ERRNO(set_iommu(t, box, 1), Errno::Enodev);
  MUST(set_container(t, group, box.number()));
  for (const u64 type : {1, 3, 1}) CHECK_OK(set_iommu(t, box, type));
  CHECK_ERRNO(set_iommu(t, box, 8), Errno::Einval);
}

UAPI_TEST("2.13 GET_INFO", PageSizesAndCapabilities) {
  for (const Kind kind : {Kind::Context, Kind::Node}) {
    const Grouped grouped(t, kind);
    const Fd device = MUST(device_fd(t, grouped.group, grouped.of.device));
    VfioIommuInfo info{.argsz = 16, .flags = 0, .iova_pgsizes = 0, .cap_offset = 77, .pad = 0};
    check_argsz(t, grouped.box, kVfioIommuGetInfo, info, 16);
    MUST(t.ioctl(grouped.box, kVfioIommuGetInfo, info));
    CHECK_EQ(info.flags, 3);
    CHECK_EQ(info.iova_pgsizes & (2 * kPage - 1), kPage);
    CHECK_EQ(info.cap_offset, 77);  // beyond what the caller has
    REQUIRE(info.argsz > sizeof info);
    const UserMemory memory;
    auto* const at = memory.put(info);
    const u32 needed = info.argsz;
    at->argsz = needed - 1;
    MUST(t.ioctl_at(grouped.box, kVfioIommuGetInfo, at));
    CHECK_EQ(at->cap_offset, 0);
    CHECK_EQ(at->argsz, needed);
    MUST(t.ioctl_at(grouped.box, kVfioIommuGetInfo, at));
    REQUIRE(at->cap_offset == sizeof info);
    u32 seen = 0;
    for (u32 offset = at->cap_offset; offset != 0;) {
      VfioCapHeader cap;
      std::memcpy(&cap, memory.at(offset), sizeof cap);
      seen |= 1u << cap.id;
      if (cap.id == vfio_iommu::kCapDmaAvail) {
        VfioIommuCapDmaAvail available;
        std::memcpy(&available, memory.at(offset), sizeof available);
        if (kind == Kind::Context) CHECK_EQ(available.available, ~u32{0});
        CHECK(available.available >= 65535);
      }
      if (cap.id == vfio_iommu::kCapIovaRange) {
        VfioIommuCapIovaRange ranges;
        std::memcpy(&ranges, memory.at(offset), sizeof ranges);
        CHECK(ranges.count >= 1);
        REQUIRE(ranges.count < 64);
        for (u32 i = 0; i < ranges.count; ++i) {
          IommuIovaRange range;
          std::memcpy(&range, memory.at(offset + sizeof ranges + i * sizeof range), sizeof range);
          CHECK(range.start <= range.last);
          CHECK(range.last < 0xfee00000 || range.start > 0xfeefffff);  // messages
        }
      }
      CHECK(cap.next == 0 || cap.next > offset);
      offset = cap.next;
    }
    CHECK_EQ(seen & 0b1010, 0b1010);
  }
}

UAPI_TEST("2.13 MAP_DMA", ChecksInOrder) {
  for (const Kind kind : {Kind::Context, Kind::Node}) {
    const Grouped grouped(t, kind);
    const Fd device = MUST(device_fd(t, grouped.group, grouped.of.device));
    const Shared memory(t, 4 * kPage);
    VfioDmaMap call{.argsz = 32, .flags = 3, .vaddr = 0, .iova = kIova, .size = kPage};
    check_argsz(t, grouped.box, kVfioIommuMapDma, call, 32);
    const Fd& box = grouped.box;
    CHECK_ERRNO(map_dma(t, box, memory.at(), kIova, kPage, 8 | 3), Errno::Einval);
    CHECK_ERRNO(map_dma(t, box, memory.at(), kIova, 0), Errno::Einval);
    CHECK_ERRNO(map_dma(t, box, memory.at(), kIova, 100), Errno::Einval);
    CHECK_ERRNO(map_dma(t, box, memory.at(), kIova + 1, kPage), Errno::Einval);
    CHECK_ERRNO(map_dma(t, box, memory.at(), ~u64{0xfff}, 2 * kPage), Errno::Eoverflow);
    CHECK_ERRNO(map_dma(t, box, memory.at(), 0xfee00000, kPage), Errno::Einval);
    const UserMemory none;
    CHECK_ERRNO(map_dma(t, box, none.beyond(), kIova, kPage), Errno::Efault);
    MUST(map_dma(t, box, memory.at(), kIova, 2 * kPage));
    CHECK_ERRNO(map_dma(t, box, memory.at(2 * kPage), kIova + kPage, kPage), Errno::Eexist);
    CHECK_OK(map_dma(t, box, memory.at(2 * kPage), kIova + 2 * kPage, kPage, 1));
  }
}

UAPI_TEST("2.13 UNMAP_DMA", ChecksInOrder) {
  for (const Kind kind : {Kind::Context, Kind::Node}) {
    const Grouped grouped(t, kind);
    const Fd device = MUST(device_fd(t, grouped.group, grouped.of.device));
    const Fd& box = grouped.box;
    check_argsz(t, box, kVfioIommuUnmapDma, VfioDmaUnmap{.argsz = 24, .flags = 0, .iova = kIova, .size = kPage}, 24);
    u64 size = kPage;
    CHECK_ERRNO(unmap_dma(t, box, kIova, size, 8), Errno::Einval);
    size = kPage;
    CHECK_ERRNO(unmap_dma(t, box, 0, size, 2), Errno::Einval);  // all, and a size
    size = 0;
    CHECK_ERRNO(unmap_dma(t, box, kIova, size), Errno::Einval);
    size = 2 * kPage;
    CHECK_ERRNO(unmap_dma(t, box, ~u64{0xfff}, size), Errno::Eoverflow);
    CHECK_EQ(unmapped(t, box, kIova, kPage), 0);  // nothing there
    CHECK_EQ(unmapped(t, box, 0, 0, 2), 0);
    const Shared memory(t, 4 * kPage);
    for (const u64 i : {0, 1, 2, 3}) MUST(map_dma(t, box, memory.at(i * kPage), kIova + 2 * i * kPage, kPage));
    CHECK_EQ(unmapped(t, box, kIova + 2 * kPage, kPage), kPage);
    CHECK_EQ(unmapped(t, box, kIova, 3 * kPage), kPage);
    CHECK_EQ(unmapped(t, box, 0, 0, 2), 2 * kPage);
  }
}

UAPI_TEST("2.13 others", AreEnotty) {
  const Grouped grouped(t, Kind::Context);
  u32 argument[16] = {64};
  for (const u32 cmd : {0x3b6bu, 0x3b73u, 0x3b75u, 0x3b7fu}) {
    CHECK_ERRNO(t.ioctl(grouped.box, cmd, argument), Errno::Enotty);
  }
}

// --- VFIO's own container
// ---------------------------------------------------------------------------------------------

// Skips where iommufd stands in for it, which does not need a group to have a type.
Fd own_container(Case& t) {
  Fd box = container(t, Kind::Node);
  IommuVfioIoas ask{.size = sizeof ask, .ioas_id = 0, .op = 0, .reserved = 0};
  const auto answer = t.ioctl(box, kIommuVfioIoas, ask);
  if (answer || answer.error() == Errno::Enodev) Case::skip("iommufd stands in for the container");
  return box;
}

UAPI_TEST("3.9 type 1", NeedsAGroupFirst) {
  const Fd box = own_container(t);
  CHECK_ERRNO(set_iommu(t, box, 1), Errno::Einval);
  u32 argument[16] = {64};
  CHECK_ERRNO(t.ioctl(box, kVfioIommuGetInfo, argument), Errno::Einval);
  const GroupOf of = find_group(t);
  const Fd group = t.open(of.node);
  MUST(set_container(t, group, box.number()));
  CHECK_ERRNO(device_fd(t, group, of.device), Errno::Einval);  // no IOMMU yet
  CHECK_ERRNO(set_iommu(t, box, 2), Errno::Enodev);
  MUST(set_iommu(t, box, 1));
  CHECK_ERRNO(set_iommu(t, box, 1), Errno::Einval);
  Fd device = MUST(device_fd(t, group, of.device));
  CHECK_ERRNO(t.ioctl_at(group, kVfioGroupUnsetContainer, nullptr), Errno::Ebusy);
  device.reset();
  CHECK_OK(t.ioctl_at(group, kVfioGroupUnsetContainer, nullptr));
}

UAPI_TEST("3.9 type 1", TheFirstVersionUnmapsWhatBeginsThere) {
  own_container(t).reset();
  const Grouped grouped(t, Kind::Node, vfio_extension::kType1);
  const Shared memory(t, 4 * kPage);
  MUST(map_dma(t, grouped.box, memory.at(), kIova, 4 * kPage));
  CHECK_EQ(unmapped(t, grouped.box, kIova + kPage, kPage), 0);
  CHECK_EQ(unmapped(t, grouped.box, kIova, kPage), 4 * kPage);
}

UAPI_TEST("3.9 type 1", TheSecondVersionCutsNothing) {
  own_container(t).reset();
  const Grouped grouped(t, Kind::Node, vfio_extension::kType1v2);
  const Shared memory(t, 4 * kPage);
  MUST(map_dma(t, grouped.box, memory.at(), kIova, 4 * kPage));
  u64 size = kPage;
  CHECK_ERRNO(unmap_dma(t, grouped.box, kIova + kPage, size), Errno::Einval);
  size = kPage;
  CHECK_ERRNO(unmap_dma(t, grouped.box, kIova, size), Errno::Einval);
  CHECK_ERRNO(map_dma(t, grouped.box, memory.at(), kIova + 4 * kPage, kPage, 0), Errno::Einval);  // for nobody
  CHECK_EQ(unmapped(t, grouped.box, kIova - kPage, 6 * kPage), 4 * kPage);
}

// A BAR of the device, mapped by the program as a test of Linux's maps it.
UAPI_PROGRAM_TEST("3.9 type 1", RegistersCanBeMapped) {
  own_container(t).reset();
  for (const Kind kind : {Kind::Node, Kind::Context}) {
    const Grouped grouped(t, kind);
    const Fd device = MUST(device_fd(t, grouped.group, grouped.of.device));
    const auto info = bar(t, device);
    if ((info.flags & vfio_region::kMmap) == 0) Case::skip("no BAR that can be mapped");
    void* const at =
        mmap(nullptr, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, device.number(), static_cast<off_t>(info.offset));
    REQUIRE(at != MAP_FAILED);
    if (kind == Kind::Context) {
      CHECK_ERRNO(map_dma(t, grouped.box, at, kIova, info.size), Errno::Efault);
    } else {
      CHECK_OK(map_dma(t, grouped.box, at, kIova, info.size));
      CHECK_EQ(unmapped(t, grouped.box, kIova, info.size), info.size);
      CHECK_OK(map_dma(t, grouped.box, static_cast<std::byte*>(at) + info.size / 2, kIova, info.size / 2));
      CHECK_EQ(unmapped(t, grouped.box, kIova, info.size / 2), info.size / 2);
    }
    munmap(at, info.size);
  }
}

}  // namespace
}  // namespace perdure::uapi_test::vfio
