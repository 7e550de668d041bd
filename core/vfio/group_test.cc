// Groups and containers (uapi §3.9, §2.13): who may open what, what a container is made of, and what an update thinks
// of devices that were opened through their group.
#include "core/vfio/testing/vfio_update.h"

namespace perdure::testing {
namespace {

constexpr u32 kViable = uapi::vfio_group::kViable, kInContainer = uapi::vfio_group::kContainerSet;
constexpr std::string_view kName = "0000:01:00.0";
constexpr u64 kVa = u64{1} << 40;

enum class Mode { Iommufd, Context, Type1 };

// Behind each kind of container groups are the same.
class GroupTest : public ::testing::TestWithParam<Mode> {
 protected:
  GroupTest() {
    if (GetParam() == Mode::Type1) {
      vfio::Vfio::Config config = w.vfio_config;
      config.container = vfio::Vfio::Container::Type1;
      w.vfio_handler.destroy();
      w.vfio.destroy();
      w.vfio.make(*w.module, *w.pci_live, config);
      EXPECT_TRUE(w.vfio->add_device(*w.function_a, w.iommu.device(IommufdWorld::a0)));
      EXPECT_TRUE(w.vfio->add_device(*w.function_b, w.iommu.device(IommufdWorld::b0)));
      w.vfio_handler.make(*w.vfio);
    }
  }
  s32 container() { return GetParam() == Mode::Context ? w.open() : w.open_container(); }
  // A group in a container with an IOMMU.
  void set_up() {
    group = w.open_group();
    box = container();
    ASSERT_TRUE(w.set_container(group, box));
    ASSERT_TRUE(w.set_iommu(box, 3));
  }
  VfioWorld w;
  s32 group = -1, box = -1;
};

INSTANTIATE_TEST_SUITE_P(Containers, GroupTest, ::testing::Values(Mode::Iommufd, Mode::Context, Mode::Type1),
                         [](const ::testing::TestParamInfo<Mode>& mode) {
                           return mode.param == Mode::Type1     ? "Type1"
                                  : mode.param == Mode::Context ? "Context"
                                                                : "Iommufd";
                         });

TEST_P(GroupTest, OneFileHasItOpen) {
  EXPECT_EQ(error_of(w.vfio->open_group(99)), Errno::Enoent);
  group = w.open_group();
  EXPECT_EQ(error_of(w.vfio->open_group(w.group_id(a0))), Errno::Ebusy);
  w.task.close(group);
  group = w.open_group();
  EXPECT_EQ(error_of(w.ioctl(group, 0x3b6b, UserAddr(0))), Errno::Enotty);
  EXPECT_EQ(error_of(w.ioctl(group, 0x3b64, UserAddr(0))), Errno::Enotty);
}

TEST_P(GroupTest, GroupAndNodeOfADeviceExcludeEachOther) {
  const s32 context = w.open(), node = w.open_device();
  group = w.open_group();
  EXPECT_EQ(error_of(w.bind_device(node, 99)), Errno::Ebusy) << "before the descriptor is looked at";
  w.task.close(group);
  EXPECT_EQ(error_of(w.bind_device(node, 99)), Errno::Ebadf);
  group = w.open_group();
  w.task.close(group);
  ASSERT_TRUE(w.bind_device(node, context));
  EXPECT_EQ(error_of(w.vfio->open_group(w.group_id(a0))), Errno::Ebusy);
  EXPECT_EQ(error_of(w.bind_device(node, context)), Errno::Einval);
  EXPECT_EQ(error_of(w.vfio->open_group(w.group_id(a0))), Errno::Ebusy) << "a failed bind lets nobody in";
  w.task.close(node);
  group = w.open_group();
}

TEST_P(GroupTest, Status) {
  group = w.open_group();
  EXPECT_EQ(error_of(w.ioctl(group, uapi::kVfioGroupGetStatus, UserAddr(8))), Errno::Efault);
  uapi::VfioGroupStatus cmd{.argsz = 7, .flags = 0};
  EXPECT_EQ(error_of(w.call(group, uapi::kVfioGroupGetStatus, cmd)), Errno::Einval);
  EXPECT_EQ(*w.status(group), kViable);
  auto stranger = w.iommu.owner();
  ASSERT_TRUE(w.iommu.group(a0).claim(stranger));
  EXPECT_EQ(*w.status(group), 0u) << "somebody else has its DMA";
  w.iommu.group(a0).release(*stranger);
  box = container();
  ASSERT_TRUE(w.set_container(group, box));
  EXPECT_EQ(*w.status(group), kViable | kInContainer);
  ASSERT_TRUE(w.unset_container(group));
  EXPECT_EQ(*w.status(group), kViable);
}

TEST_P(GroupTest, IntoAContainerAndOut) {
  group = w.open_group();
  box = container();
  const s32 other = container();
  EXPECT_EQ(error_of(w.ioctl(group, uapi::kVfioGroupSetContainer, UserAddr(8))), Errno::Efault);
  EXPECT_EQ(error_of(w.set_container(group, 99)), Errno::Ebadf);
  EXPECT_EQ(error_of(w.set_container(group, -1)), Errno::Ebadf);
  EXPECT_EQ(error_of(w.set_container(group, group)), Errno::Ebadfd);
  EXPECT_EQ(error_of(w.set_container(group, w.open_device(1))), Errno::Ebadfd);
  EXPECT_EQ(error_of(w.unset_container(group)), Errno::Einval) << "in none";
  ASSERT_TRUE(w.set_container(group, box));
  EXPECT_EQ(error_of(w.set_container(group, other)), Errno::Einval) << "in one";
  EXPECT_EQ(error_of(w.set_container(group, 99)), Errno::Ebadf) << "the descriptor first";
  ASSERT_TRUE(w.unset_container(group));
  ASSERT_TRUE(w.set_container(group, other));
  // What a closed group was in it is not in any more.
  w.task.close(group);
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::Unowned);
  group = w.open_group();
  EXPECT_EQ(*w.status(group), kViable);
}

TEST_P(GroupTest, NamesOfDevices) {
  set_up();
  EXPECT_EQ(error_of(w.ioctl(group, uapi::kVfioGroupGetDeviceFd, UserAddr(8))), Errno::Efault);
  EXPECT_EQ(error_of(w.device_fd(group, std::string(5000, 'x'))), Errno::Einval) << "no end within a page";
  EXPECT_EQ(error_of(w.device_fd(group, "")), Errno::Enodev);
  EXPECT_EQ(error_of(w.device_fd(group, "0000:80:00.0")), Errno::Enodev) << "of another group";
  EXPECT_EQ(error_of(w.device_fd(group, "0000:01:00.0x")), Errno::Enodev);
  EXPECT_EQ(error_of(w.device_fd(group, "0000:01:00")), Errno::Enodev);
  EXPECT_EQ(error_of(w.device_fd(group, "0000:01:00.0 token=1")), Errno::Einval) << "no such option";
  EXPECT_EQ(error_of(w.device_fd(group, "0000:01:00.0 vf_token=0123")), Errno::Einval) << "too short";
  EXPECT_EQ(error_of(w.device_fd(group, "0000:01:00.0 vf_token=00112233-4455-6677-8899-aabbccddeefg")), Errno::Einval);
  EXPECT_EQ(error_of(w.device_fd(group, "0000:01:00.0 vf_token=00112233-4455-6677-8899-aabbccddeeff")), Errno::Einval)
      << "it has no virtual functions";
  w.task.fd_limit = w.task.files.size();
  EXPECT_EQ(error_of(w.device_fd(group, kName)), Errno::Emfile);
  w.task.fd_limit = 64;
  EXPECT_TRUE(w.device_fd(group, "0000:01:00.0   ")) << "blanks say nothing";
}

TEST_P(GroupTest, ADeviceNeedsAContainerWithAnIommu) {
  group = w.open_group();
  EXPECT_EQ(error_of(w.device_fd(group, kName)), Errno::Einval);
  box = container();
  ASSERT_TRUE(w.set_container(group, box));
  if (GetParam() == Mode::Type1) {
    EXPECT_EQ(error_of(w.device_fd(group, kName)), Errno::Einval) << "no IOMMU yet";
    ASSERT_TRUE(w.set_iommu(box, 1));
  }
  EXPECT_TRUE(w.device_fd(group, kName));
  EXPECT_EQ(w.hw_a.resets, 1u);
}

TEST_P(GroupTest, AFailedOpeningLeavesNothingBehind) {
  set_up();
  const auto entries = w.iommu.hw_a.entries.size();
  w.hw_a.set<u16>(0x04, 2);
  for (u64 n = 1;; ++n) {
    const Result<s32> opened = w.machine().counting.failing(n, [&] { return w.device_fd(group, kName); });
    if (opened) break;
    ASSERT_EQ(opened.error(), Errno::Enomem) << n;
    ASSERT_EQ(w.iommu.hw_a.entries.size(), entries) << n;
    ASSERT_EQ(w.hw_a.get<u16>(0x04) & 4, 0) << n;
    ASSERT_LT(n, 100u);
  }
}

TEST_P(GroupTest, ADeviceOfAGroupIsUsableAtOnceAndMoreThanOnce) {
  set_up();
  const s32 fd = *w.device_fd(group, kName);
  EXPECT_NE(w.reached(a0, 0), "blocked");
  const s32 again = *w.device_fd(group, kName);
  EXPECT_EQ(w.hw_a.resets, 1u) << "the first opening resets it";
  EXPECT_EQ(w.config_read<u32>(fd, 0), 0x10011234u);
  w.config_write<u16>(fd, 4, 6);
  EXPECT_EQ(w.config_read<u16>(again, 4), 6u);
  // Neither bound by a program nor attached by it.
  uapi::VfioBindIommufd bind{};
  EXPECT_EQ(error_of(w.ioctl(fd, uapi::kVfioDeviceBindIommufd, UserAddr(8))), Errno::Efault);
  bind.argsz = 15;
  EXPECT_EQ(error_of(w.call(fd, uapi::kVfioDeviceBindIommufd, bind)), Errno::Einval);
  bind.argsz = sizeof(bind);
  bind.iommufd = w.open();
  EXPECT_EQ(error_of(w.call(fd, uapi::kVfioDeviceBindIommufd, bind)), Errno::Einval);
  uapi::VfioAttachIommufdPt attach{.argsz = sizeof(attach), .flags = 0, .pt_id = 1, .pasid = 0};
  EXPECT_EQ(error_of(w.call(fd, uapi::kVfioDeviceAttachIommufdPt, attach)), Errno::Enotty);
  EXPECT_EQ(error_of(w.call(fd, uapi::kVfioDeviceDetachIommufdPt, attach)), Errno::Enotty);
  // Its own node cannot be bound meanwhile, even when the program closed the group.
  w.task.close(group);
  const s32 node = w.open_device();
  EXPECT_EQ(error_of(w.bind_device(node, bind.iommufd)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.vfio->open_group(w.group_id(a0))), Errno::Ebusy);
  w.task.close(fd);
  EXPECT_EQ(w.hw_a.get<u16>(0x04) & 4, 4) << "still open once";
  w.task.close(box);
  EXPECT_NE(w.reached(a0, 0), "blocked");
  w.task.close(again);
  EXPECT_EQ(w.hw_a.get<u16>(0x04) & 4, 0);
  EXPECT_EQ(w.hw_a.resets, 2u);
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::Unowned);
  EXPECT_EQ(w.reached(a0, 0), "blocked");
  ASSERT_TRUE(w.bind_device(node, bind.iommufd));
}

TEST_P(GroupTest, LeavingAContainerWithOpenDevices) {
  set_up();
  const s32 fd = *w.device_fd(group, kName);
  if (GetParam() == Mode::Type1) {
    EXPECT_EQ(error_of(w.unset_container(group)), Errno::Ebusy);
    return;
  }
  // A context holds what is bound to it by itself.
  ASSERT_TRUE(w.unset_container(group));
  EXPECT_NE(w.reached(a0, 0), "blocked");
  EXPECT_EQ(error_of(w.device_fd(group, kName)), Errno::Einval);
  w.task.close(fd);
  EXPECT_EQ(w.reached(a0, 0), "blocked");
}

TEST_P(GroupTest, WhatIsMappedIsReached) {
  set_up();
  const auto m = w.memfd(4 * kMiB);
  w.task.map_shared(UserAddr(kVa), 4 * kMiB, m.memory, 0);
  ASSERT_TRUE(w.map_dma(box, kVa, kBase, 2 * kMiB));
  const s32 fd = *w.device_fd(group, kName);
  EXPECT_EQ(w.reached(a0, kBase + kMiB), w.place(m, kMiB));
  ASSERT_TRUE(w.map_dma(box, kVa + 2 * kMiB, kBase + 2 * kMiB, kMiB, 1));
  EXPECT_EQ(w.reached(a0, kBase + 2 * kMiB), w.place(m, 2 * kMiB) + " r");
  // A second group translates alike.
  const s32 group_b = w.open_group(IommufdWorld::b0);
  ASSERT_TRUE(w.set_container(group_b, box));
  const s32 fd_b = *w.device_fd(group_b, "0000:80:00.0");
  EXPECT_EQ(w.reached(IommufdWorld::b0, kBase + kMiB), w.place(m, kMiB));
  EXPECT_EQ(*w.unmap_dma(box, kBase, 2 * kMiB), 2 * kMiB);
  EXPECT_EQ(w.reached(IommufdWorld::b0, kBase + kMiB), "");
  EXPECT_EQ(w.reached(a0, kBase + kMiB), "");
  w.task.close(fd_b);
  w.task.close(fd);
}

TEST_P(GroupTest, MapsAreJudgedInOrder) {
  set_up();
  const s32 fd = *w.device_fd(group, kName);
  const auto m = w.memfd(4 * kMiB);
  w.task.map_shared(UserAddr(kVa), 4 * kMiB, m.memory, 0);
  EXPECT_EQ(error_of(w.ioctl(box, uapi::kVfioIommuMapDma, UserAddr(8))), Errno::Efault);
  uapi::VfioDmaMap cmd{.argsz = 31, .flags = 3, .vaddr = kVa, .iova = kBase, .size = kPageSize};
  EXPECT_EQ(error_of(w.call(box, uapi::kVfioIommuMapDma, cmd)), Errno::Einval);
  cmd.argsz = 32;
  cmd.flags = 11;
  EXPECT_EQ(error_of(w.call(box, uapi::kVfioIommuMapDma, cmd)), Errno::Einval);
  EXPECT_EQ(error_of(w.map_dma(box, kVa, kBase, 0)), Errno::Einval);
  EXPECT_EQ(error_of(w.map_dma(box, kVa, kBase, 100)), Errno::Einval);
  EXPECT_EQ(error_of(w.map_dma(box, kVa, kBase + 100, kPageSize)), Errno::Einval);
  EXPECT_EQ(error_of(w.map_dma(box, kVa, ~u64{0xfff}, 2 * kPageSize)), Errno::Eoverflow);
  EXPECT_EQ(error_of(w.map_dma(box, ~u64{0xfff}, kBase, 2 * kPageSize)), Errno::Eoverflow);
  EXPECT_EQ(error_of(w.map_dma(box, kVa, 0xfee00000, kPageSize)), Errno::Einval) << "messages";
  EXPECT_EQ(error_of(w.map_dma(box, kVa, u64{1} << 60, kPageSize)), Errno::Einval) << "beyond what translates";
  EXPECT_EQ(error_of(w.map_dma(box, 0x1000, kBase, kPageSize)), Errno::Efault);
  ASSERT_TRUE(w.map_dma(box, kVa, kBase, 2 * kPageSize));
  EXPECT_EQ(error_of(w.map_dma(box, kVa, kBase + kPageSize, kPageSize)), Errno::Eexist);
  w.task.close(fd);
}

TEST_P(GroupTest, UnmapsAreJudgedInOrder) {
  set_up();
  const s32 fd = *w.device_fd(group, kName);
  EXPECT_EQ(error_of(w.ioctl(box, uapi::kVfioIommuUnmapDma, UserAddr(8))), Errno::Efault);
  uapi::VfioDmaUnmap cmd{.argsz = 23, .flags = 0, .iova = kBase, .size = kPageSize};
  EXPECT_EQ(error_of(w.call(box, uapi::kVfioIommuUnmapDma, cmd)), Errno::Einval);
  EXPECT_EQ(error_of(w.unmap_dma(box, kBase, kPageSize, 1)), Errno::Einval);
  EXPECT_EQ(error_of(w.unmap_dma(box, 0, kPageSize, 2)), Errno::Einval) << "all, and then some";
  EXPECT_EQ(error_of(w.unmap_dma(box, kBase, 0)), Errno::Einval);
  EXPECT_EQ(error_of(w.unmap_dma(box, ~u64{0xfff}, 2 * kPageSize)), Errno::Eoverflow);
  EXPECT_EQ(*w.unmap_dma(box, kBase, kPageSize), 0u) << "nothing there is nothing unmapped";
  EXPECT_EQ(*w.unmap_dma(box, 0, 0, 2), 0u);
  const auto m = w.memfd(kMiB);
  w.task.map_shared(UserAddr(kVa), kMiB, m.memory, 0);
  ASSERT_TRUE(w.map_dma(box, kVa, kBase, kPageSize));
  ASSERT_TRUE(w.map_dma(box, kVa, kBase + kMiB, kPageSize));
  EXPECT_EQ(*w.unmap_dma(box, 0, 0, 2), 2 * kPageSize);
  EXPECT_EQ(w.reached(a0, kBase), "");
  w.task.close(fd);
}

TEST_P(GroupTest, IommuInfo) {
  set_up();
  const s32 fd = *w.device_fd(group, kName);
  EXPECT_EQ(error_of(w.ioctl(box, uapi::kVfioIommuGetInfo, UserAddr(8))), Errno::Efault);
  uapi::VfioIommuInfo info{.argsz = 15, .flags = 0, .iova_pgsizes = 0, .cap_offset = 77, .pad = 0};
  EXPECT_EQ(error_of(w.call(box, uapi::kVfioIommuGetInfo, info)), Errno::Einval);
  info.argsz = 16;
  ASSERT_TRUE(w.call(box, uapi::kVfioIommuGetInfo, info));
  EXPECT_EQ(info.flags, 3u);
  EXPECT_EQ(info.iova_pgsizes & 0xfff, 0u);
  EXPECT_EQ(info.iova_pgsizes & kPageSize, kPageSize);
  EXPECT_EQ(info.cap_offset, 77u) << "beyond what the caller has";
  const u32 needed = info.argsz;
  ASSERT_GT(needed, 24u);
  for (const u32 room : {24u, needed - 1}) {
    const UserAddr at = w.task.allocate(needed);
    w.task.poke(at, room);
    ASSERT_TRUE(w.ioctl(box, uapi::kVfioIommuGetInfo, at));
    EXPECT_EQ(w.task.peek<uapi::VfioIommuInfo>(at).cap_offset, 0u) << room;
    EXPECT_EQ(w.task.peek<uapi::VfioIommuInfo>(at).argsz, needed) << room;
  }
  const UserAddr at = w.task.allocate(needed);
  w.task.poke(at, needed);
  ASSERT_TRUE(w.ioctl(box, uapi::kVfioIommuGetInfo, at));
  EXPECT_EQ(w.task.peek<uapi::VfioIommuInfo>(at).cap_offset, 24u);
  const auto available = w.task.peek<uapi::VfioIommuCapDmaAvail>(at + 24);
  EXPECT_EQ(available.header.id, uapi::vfio_iommu::kCapDmaAvail);
  EXPECT_EQ(available.available, GetParam() == Mode::Type1 ? 65535u : ~0u);
  const UserAddr ranges_at = at + available.header.next;
  const auto ranges = w.task.peek<uapi::VfioIommuCapIovaRange>(ranges_at);
  EXPECT_EQ(ranges.header.id, uapi::vfio_iommu::kCapIovaRange);
  EXPECT_EQ(ranges.header.next, 0u);
  ASSERT_EQ(ranges.count, 2u) << "around the messages";
  const auto first = w.task.peek<uapi::IommuIovaRange>(ranges_at + sizeof(ranges));
  EXPECT_EQ(first.start, 0u);
  EXPECT_EQ(first.last, 0xfee00000u - 1);
  w.task.close(fd);
}

TEST_P(GroupTest, Extensions) {
  box = container();
  EXPECT_EQ(*w.ioctl(box, uapi::kVfioGetApiVersion, UserAddr(0)), 0u);
  const auto check = [&](u64 extension) { return w.ioctl(box, uapi::kVfioCheckExtension, UserAddr(extension)); };
  for (const u64 there : {1u, 3u, 9u}) EXPECT_EQ(*check(there), 1u) << there;
  for (const u64 not_there : {0u, 2u, 5u, 6u, 7u, 8u, 10u, 11u, 1000u}) EXPECT_EQ(*check(not_there), 0u) << not_there;
  if (GetParam() == Mode::Type1) {
    EXPECT_EQ(*check(4), 0u);
  } else {
    EXPECT_EQ(error_of(check(4)), Errno::Enodev);
  }
  set_up();
  EXPECT_EQ(*check(4), 1u);
  EXPECT_EQ(error_of(w.ioctl(box, uapi::kVfioIommuDirtyPages, UserAddr(0))), Errno::Enotty);
  EXPECT_EQ(error_of(w.ioctl(box, 0x3b7f, UserAddr(0))), Errno::Enotty);
}

TEST_P(GroupTest, Types) {
  group = w.open_group();
  box = container();
  if (GetParam() != Mode::Type1) {
    EXPECT_EQ(error_of(w.set_iommu(box, 2)), Errno::Einval);
    EXPECT_EQ(error_of(w.set_iommu(box, 1)), Errno::Enodev) << "no IOAS yet";
    ASSERT_TRUE(w.set_container(group, box));
    EXPECT_TRUE(w.set_iommu(box, 1));
    EXPECT_TRUE(w.set_iommu(box, 3)) << "again";
    return;
  }
  EXPECT_EQ(error_of(w.set_iommu(box, 1)), Errno::Einval) << "no group yet";
  EXPECT_EQ(error_of(w.map_dma(box, kVa, kBase, kPageSize)), Errno::Einval) << "no IOMMU yet";
  ASSERT_TRUE(w.set_container(group, box));
  EXPECT_EQ(error_of(w.set_iommu(box, 2)), Errno::Enodev);
  EXPECT_EQ(error_of(w.set_iommu(box, 9)), Errno::Einval) << "an extension";
  EXPECT_EQ(w.reached(a0, 0), "blocked");
  ASSERT_TRUE(w.set_iommu(box, 1));
  EXPECT_NE(w.reached(a0, 0), "blocked") << "the group translates, with no device open";
  EXPECT_EQ(error_of(w.set_iommu(box, 3)), Errno::Einval) << "once";
  // Without groups it is as it was at first.
  ASSERT_TRUE(w.unset_container(group));
  EXPECT_EQ(w.reached(a0, 0), "blocked");
  EXPECT_EQ(error_of(w.set_iommu(box, 3)), Errno::Einval);
  ASSERT_TRUE(w.set_container(group, box));
  EXPECT_TRUE(w.set_iommu(box, 3));
}

TEST_P(GroupTest, WhoHasItsDmaAlreadyKeepsIt) {
  auto stranger = w.iommu.owner();
  ASSERT_TRUE(w.iommu.group(a0).claim(stranger));
  group = w.open_group();
  box = container();
  if (GetParam() == Mode::Type1) {
    EXPECT_EQ(error_of(w.set_container(group, box)), Errno::Eperm);
  } else {
    ASSERT_TRUE(w.set_container(group, box));
    EXPECT_EQ(error_of(w.device_fd(group, kName)), Errno::Eperm);
  }
  EXPECT_EQ(w.hw_a.resets, 0u);
  w.iommu.group(a0).release(*stranger);
}

// --- live update ----------------------------------------------------------------------------------------------------

TEST_P(GroupTest, CannotBePreserved) {
  set_up();
  const s32 fd = *w.device_fd(group, kName);
  File& file = *w.task.files.at(fd);
  EXPECT_TRUE(w.vfio_handler->can_preserve(file)) << "so that it is told";
  EXPECT_EQ(error_of(w.preserve_device(fd, 7)), Errno::Eopnotsupp);
  EXPECT_NE(w.machine().lines.back().find("/dev/vfio/devices/vfio0"), std::string::npos) << w.machine().lines.back();
  EXPECT_FALSE(w.vfio_handler->can_preserve(*w.task.files.at(group)));
}

TEST_P(GroupTest, AQuarantinedDeviceIsNotTakenThroughItsGroup) {
  w.iommu.iommu->quarantine(w.iommu.device(a0), "for a test");
  group = w.open_group();
  EXPECT_EQ(*w.status(group), 0u);
  box = container();
  if (GetParam() == Mode::Type1) {
    EXPECT_EQ(error_of(w.set_container(group, box)), Errno::Eio);
  } else {
    ASSERT_TRUE(w.set_container(group, box));
    EXPECT_EQ(error_of(w.device_fd(group, kName)), Errno::Eio);
  }
  EXPECT_EQ(w.hw_a.resets, 0u);
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::Quarantined);
}

TEST_P(GroupTest, AContextsContainerMapsForNobody) {
  if (GetParam() == Mode::Type1) return;
  set_up();
  const s32 fd = *w.device_fd(group, kName);
  const auto m = w.memfd(kMiB);
  w.task.map_shared(UserAddr(kVa), kMiB, m.memory, 0);
  ASSERT_TRUE(w.map_dma(box, kVa, kBase, 4 * kPageSize, 0));
  EXPECT_EQ(w.reached(a0, kBase), "");
  EXPECT_EQ(error_of(w.map_dma(box, kVa, kBase, kPageSize)), Errno::Eexist);
  EXPECT_EQ(*w.unmap_dma(box, kBase, 4 * kPageSize), 4 * kPageSize);
  ASSERT_TRUE(w.map_dma(box, kVa, kBase, kPageSize));
  w.task.close(fd);
}

TEST_P(GroupTest, AContextsContainerCutsInItsFirstVersionOnly) {
  if (GetParam() == Mode::Type1) return;
  for (const u64 type : {1, 3}) {
    group = w.open_group();
    box = container();
    ASSERT_TRUE(w.set_container(group, box));
    ASSERT_TRUE(w.set_iommu(box, type));
    const s32 fd = *w.device_fd(group, kName);
    const auto m = w.memfd(kMiB);
    w.task.map_shared(UserAddr(kVa), kMiB, m.memory, 0);
    ASSERT_TRUE(w.map_dma(box, kVa, kBase, 8 * kPageSize));
    u64 told = 77;
    const Result<u64> hole = w.unmap_dma(box, kBase + 2 * kPageSize, 3 * kPageSize, 0, &told);
    if (type == 1) {
      ASSERT_TRUE(hole);
      EXPECT_EQ(*hole, 3 * kPageSize);
      EXPECT_EQ(w.reached(a0, kBase + kPageSize), w.place(m, kPageSize));
      EXPECT_EQ(w.reached(a0, kBase + 2 * kPageSize), "");
      EXPECT_EQ(w.reached(a0, kBase + 4 * kPageSize), "");
      EXPECT_EQ(w.reached(a0, kBase + 5 * kPageSize), w.place(m, 5 * kPageSize));
    } else {
      EXPECT_EQ(error_of(hole), Errno::Enoent);
      EXPECT_EQ(told, 0u) << "written on failure, too";
      EXPECT_EQ(w.reached(a0, kBase + 2 * kPageSize), w.place(m, 2 * kPageSize));
    }
    EXPECT_TRUE(w.unmap_dma(box, 0, 0, 2));
    w.task.close(fd);
    w.task.close(group);
  }
}

// A program's task that has one of our own files mapped.
TEST_P(GroupTest, RegistersAreMappedByVfiosOwnContainerOnly) {
  set_up();
  const s32 fd = *w.device_fd(group, kName);
  w.task.map_own(UserAddr(kVa), 0x10000, w.task.files.at(fd), w.region(0));
  if (GetParam() != Mode::Type1) {
    EXPECT_EQ(error_of(w.map_dma(box, kVa, kBase, kPageSize)), Errno::Efault);
    return;
  }
  EXPECT_EQ(error_of(w.map_dma(box, kVa, kBase, 0x11000)), Errno::Efault) << "beyond the mapping";
  ASSERT_TRUE(w.map_dma(box, kVa + 2 * kPageSize, kBase, 3 * kPageSize));
  const Result<pt::Leaf> leaf = w.iommu.group(a0).domain()->leaf_at(Iova(kBase + kPageSize));
  ASSERT_TRUE(leaf);
  EXPECT_EQ(leaf->phys + (kBase + kPageSize - leaf->iova.value), Phys(w.hw_a.bar0 + 3 * kPageSize));
  EXPECT_EQ(error_of(w.map_dma(box, kVa, kBase + kPageSize, kPageSize)), Errno::Eexist);
  EXPECT_EQ(*w.unmap_dma(box, kBase, 3 * kPageSize), 3 * kPageSize);
  EXPECT_EQ(w.reached(a0, kBase), "");
  ASSERT_TRUE(w.map_dma(box, kVa, kBase, kPageSize));
  w.task.close(fd);
}

// --- type 1 alone
// -----------------------------------------------------------------------------------------------------

class Type1Test : public GroupTest {
 protected:
  void map_three(u64 type) {
    group = w.open_group();
    box = container();
    ASSERT_TRUE(w.set_container(group, box));
    ASSERT_TRUE(w.set_iommu(box, type));
    w.task.map_shared(UserAddr(kVa), kMiB, m.memory, 0);
    for (const u64 i : {0, 1, 2}) {
      ASSERT_TRUE(w.map_dma(box, kVa + i * 4 * kPageSize, kBase + i * 4 * kPageSize, 4 * kPageSize));
    }
  }
  IommufdWorld::Memfd m = w.memfd(kMiB);
  // Of the mappings, which are there.
  std::string there() {
    std::string s;
    for (const u64 i : {0, 1, 2}) s += w.reached(a0, kBase + i * 4 * kPageSize).empty() ? '-' : '+';
    return s;
  }
};

INSTANTIATE_TEST_SUITE_P(Type1, Type1Test, ::testing::Values(Mode::Type1));

TEST_P(Type1Test, TheFirstVersionUnmapsWhatBeginsThere) {
  map_three(1);
  EXPECT_EQ(*w.unmap_dma(box, kBase + kPageSize, kPageSize), 0u) << "begins before";
  EXPECT_EQ(there(), "+++");
  EXPECT_EQ(*w.unmap_dma(box, kBase + kPageSize, 8 * kPageSize), 0u) << "and ends the search";
  EXPECT_EQ(there(), "+++");
  EXPECT_EQ(*w.unmap_dma(box, kBase, kPageSize), 4 * kPageSize) << "as a whole";
  EXPECT_EQ(there(), "-++");
  EXPECT_EQ(*w.unmap_dma(box, kBase, 9 * kPageSize), 8 * kPageSize);
  EXPECT_EQ(there(), "---");
}

TEST_P(Type1Test, TheSecondVersionCutsNothing) {
  map_three(3);
  EXPECT_EQ(error_of(w.unmap_dma(box, kBase + kPageSize, 3 * kPageSize)), Errno::Einval);
  EXPECT_EQ(error_of(w.unmap_dma(box, kBase, 3 * kPageSize)), Errno::Einval);
  EXPECT_EQ(error_of(w.unmap_dma(box, kBase, 11 * kPageSize)), Errno::Einval);
  EXPECT_EQ(there(), "+++") << "nothing happened";
  EXPECT_EQ(*w.unmap_dma(box, kBase + 4 * kPageSize, 4 * kPageSize), 4 * kPageSize);
  EXPECT_EQ(there(), "+-+");
  EXPECT_EQ(*w.unmap_dma(box, kBase - kPageSize, 20 * kPageSize), 8 * kPageSize);
  EXPECT_EQ(there(), "---");
  EXPECT_EQ(error_of(w.unmap_dma(box, kBase + 1, kPageSize)), Errno::Einval) << "between pages";
  EXPECT_EQ(error_of(w.map_dma(box, kVa, kBase, kPageSize, 0)), Errno::Einval) << "for nobody";
}

TEST_P(Type1Test, AvailableMappingsAreCounted) {
  map_three(3);
  const UserAddr at = w.task.allocate(256);
  const auto available = [&] {
    w.task.poke(at, u32{256});
    EXPECT_TRUE(w.ioctl(box, uapi::kVfioIommuGetInfo, at));
    return w.task.peek<uapi::VfioIommuCapDmaAvail>(at + 24).available;
  };
  EXPECT_EQ(available(), 65532u);
  EXPECT_EQ(*w.unmap_dma(box, kBase, 4 * kPageSize), 4 * kPageSize);
  EXPECT_EQ(available(), 65533u);
  EXPECT_EQ(error_of(w.map_dma(box, 0x1000, kBase, kPageSize)), Errno::Efault);
  EXPECT_EQ(available(), 65533u) << "one that failed is none";
}

TEST_P(Type1Test, AGroupThatDoesNotFitStaysOut) {
  map_three(3);
  const s32 other = w.open_group(IommufdWorld::b0);
  w.iommu.hw_b.fail_after["set_entry"] = 0;
  EXPECT_EQ(error_of(w.set_container(other, box)), Errno::Enomem);
  EXPECT_EQ(w.iommu.group(IommufdWorld::b0).ownership(), Ownership::Unowned);
  EXPECT_EQ(there(), "+++");
  w.iommu.hw_b.fail_after.clear();
  ASSERT_TRUE(w.set_container(other, box));
  EXPECT_EQ(w.reached(IommufdWorld::b0, kBase), w.place(m, 0));
}

}  // namespace
}  // namespace perdure::testing
