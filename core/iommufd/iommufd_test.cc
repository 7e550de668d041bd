// The ioctls of a context: errors and their order (uapi §2.1 – §2.8), and what devices reach afterwards.
#include <thread>

#include "core/iommufd/testing/iommufd_world.h"
#include "core/uapi/vfio.h"

namespace perdure::testing {
namespace {

constexpr u64 kMiB = u64{1} << 20;

class IommufdTest : public ::testing::Test {
 protected:
  static constexpr SourceId a0 = IommufdWorld::a0, a1 = IommufdWorld::a1, b0 = IommufdWorld::b0;
  IommufdWorld w;
  s32 fd = w.open();

  template <class T>
  Errno error(u32 command, T cmd) {
    return error_of(w.call(fd, command, cmd));
  }
  void unbind(Ref<iommufd::Device>& device) {
    w.file(fd).unbind(*device);
    device = nullptr;
  }
};

// --- dispatch ----------------------------------------------------------------------------------------------------

TEST_F(IommufdTest, NumberIsJudgedBeforeAndAfterTheSizeIsRead) {
  const Ref<File> file = w.task.files.at(fd);
  const UserAddr bad(8);
  const UserAddr good = w.task.put(u64{8});
  // Below and beyond the table: no look at the argument.
  for (const u32 cmd : {0u, 0x3b00u, 0x3b6bu, 0x3b75u, 0x3b7fu, 0x3b98u, 0x3ba0u, 0x3bffu}) {
    EXPECT_EQ(error_of(file->ioctl(w.task, cmd, bad)), Errno::Enotty) << cmd;
  }
  // In the table, but of another type, or with size bits: the size is read first.
  for (const u32 cmd : {0x80u, 0x3c80u, 0xc0083b80u}) {
    EXPECT_EQ(error_of(file->ioctl(w.task, cmd, bad)), Errno::Efault) << cmd;
    EXPECT_EQ(error_of(file->ioctl(w.task, cmd, good)), Errno::Enotty) << cmd;
  }
  EXPECT_EQ(error_of(file->ioctl(w.task, uapi::kIommuDestroy, bad)), Errno::Efault);
}

TEST_F(IommufdTest, EveryIoctlFollowsTheSizeRule) {
  struct Entry {
    u32 command, min, size;
  };
  const Entry table[] = {{0x3b80, 8, 8},   {0x3b81, 12, 12}, {0x3b82, 24, 24}, {0x3b83, 40, 40}, {0x3b84, 32, 32},
                         {0x3b85, 40, 40}, {0x3b86, 24, 24}, {0x3b87, 24, 24}, {0x3b88, 12, 12}, {0x3b89, 24, 48},
                         {0x3b8a, 32, 40}, {0x3b8b, 16, 16}, {0x3b8c, 48, 48}, {0x3b8d, 32, 32}, {0x3b8e, 16, 16},
                         {0x3b8f, 40, 40}, {0x3b90, 24, 40}, {0x3b91, 24, 24}, {0x3b92, 8, 8},   {0x3b93, 28, 32},
                         {0x3b94, 40, 40}, {0x3b95, 40, 40}, {0x3b96, 16, 16}, {0x3b97, 24, 24}};
  const Ref<File> file = w.task.files.at(fd);
  for (const Entry& e : table) {
    const UserAddr at = w.task.allocate(4096);
    const auto with_size = [&](u32 size) {
      w.task.poke(at, size);
      return error_of(file->ioctl(w.task, e.command, at));
    };
    EXPECT_EQ(with_size(0), Errno::Einval) << std::hex << e.command;
    EXPECT_EQ(with_size(e.min - 1), Errno::Einval) << std::hex << e.command;
    // A tail of zeroes is fine, whatever the ioctl then says; anything else is not.
    const Errno plain = with_size(e.size);
    EXPECT_NE(plain, Errno::E2big);
    w.task.poke(at + 4000, u8{1});
    EXPECT_EQ(with_size(4001), Errno::E2big) << std::hex << e.command;
    EXPECT_NE(with_size(4000), Errno::E2big) << std::hex << e.command;
    // The tail is readable up to a hole; a byte that is not 0 comes first.
    EXPECT_EQ(with_size(5000), Errno::E2big) << std::hex << e.command;
    w.task.poke(at + 4000, u8{0});
    EXPECT_EQ(with_size(5000), Errno::Efault) << std::hex << e.command;
    EXPECT_EQ(with_size(~u32{0}), Errno::Efault) << std::hex << e.command;
    // The structure itself is cut off by a hole.
    const UserAddr cut = w.task.allocate_before_hole(4);
    w.task.poke(cut, e.size);
    EXPECT_EQ(error_of(file->ioctl(w.task, e.command, cut)), Errno::Efault) << std::hex << e.command;
  }
}

TEST_F(IommufdTest, TheTwoOwnIoctlsCanMoveOrBeOff) {
  w.task.files.clear();
  for (const auto& [mark, restore] : {std::pair<u32, u32>{0, 0}, {0x3b95, 0x3bb0}}) {
    w.module.destroy();
    w.config.mark_preserve = mark;
    w.config.restore = restore;
    w.module.make(w.iommu.kho(), *w.iommu.iommu, *w.iommu.live, w.config);
    fd = w.open();
    EXPECT_EQ(error(0x3b96, uapi::IommuHwptMarkPreserve{.size = 16, .hwpt_id = 9, .token = 0}), Errno::Enotty);
    EXPECT_EQ(error(0x3b97, uapi::IommuHwptRestore{.size = 24}), Errno::Enotty);
    if (mark != 0) {
      EXPECT_EQ(error(mark, uapi::IommuHwptMarkPreserve{.size = 16, .hwpt_id = 9, .token = 0}), Errno::Enoent);
      EXPECT_EQ(error(restore, uapi::IommuHwptRestore{.size = 24, .flags = 2}), Errno::Eopnotsupp);
    }
    w.task.files.clear();
  }
}

TEST_F(IommufdTest, AnObjectWhoseAnswerCannotBeWrittenIsGone) {
  const Ref<File> file = w.task.files.at(fd);
  uapi::IommuIoasAlloc cmd{.size = sizeof(cmd), .flags = 0, .out_ioas_id = 0};
  const UserAddr at = w.task.put(cmd);
  w.task.set_writable(at, false);
  EXPECT_EQ(error_of(file->ioctl(w.task, uapi::kIommuIoasAlloc, at)), Errno::Efault);
  EXPECT_EQ(error_of(w.destroy(fd, 1)), Errno::Enoent);
  EXPECT_EQ(w.ioas(fd), 1u);

  Ref<iommufd::Device> device = w.bind(fd, a0);
  uapi::IommuHwptAlloc alloc{};
  alloc.size = sizeof(alloc);
  alloc.dev_id = device->id();
  alloc.pt_id = 1;
  const UserAddr alloc_at = w.task.put(alloc);
  w.task.set_writable(alloc_at, false);
  EXPECT_EQ(error_of(file->ioctl(w.task, uapi::kIommuHwptAlloc, alloc_at)), Errno::Efault);
  // Nothing uses the IOAS any more.
  EXPECT_TRUE(w.destroy(fd, 1));
  unbind(device);
}

// --- objects ----------------------------------------------------------------------------------------------------

TEST_F(IommufdTest, DestroyAnswersByUse) {
  EXPECT_EQ(error_of(w.destroy(fd, 0)), Errno::Enoent);
  EXPECT_EQ(error_of(w.destroy(fd, 1)), Errno::Enoent);
  const u32 ioas = w.ioas(fd);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  EXPECT_EQ(device->id(), 2u);
  const u32 hwpt = *w.hwpt(fd, device->id(), ioas);
  EXPECT_EQ(hwpt, 3u);
  EXPECT_EQ(error_of(w.destroy(fd, device->id())), Errno::Ebusy) << "its driver holds it";
  EXPECT_EQ(error_of(w.destroy(fd, ioas)), Errno::Ebusy) << "the HWPT uses it";
  EXPECT_EQ(*w.file(fd).attach(w.task, *device, hwpt), hwpt);
  EXPECT_EQ(error_of(w.destroy(fd, hwpt)), Errno::Ebusy) << "the device uses it";
  ASSERT_TRUE(w.file(fd).detach(*device));
  EXPECT_TRUE(w.destroy(fd, hwpt));
  EXPECT_TRUE(w.destroy(fd, ioas));
  unbind(device);
  // All ids are free again, the lowest first.
  EXPECT_EQ(w.ioas(fd), 1u);
}

TEST_F(IommufdTest, WrongTypeIsAsGoodAsUnknownWhereOneTypeIsMeant) {
  const u32 ioas = w.ioas(fd);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  const u32 hwpt = *w.hwpt(fd, device->id(), ioas);
  EXPECT_EQ(error_of(w.map(fd, hwpt, 0, kPageSize, kMiB)), Errno::Enoent);
  EXPECT_EQ(error_of(w.hwpt(fd, ioas, ioas)), Errno::Enoent) << "device id";
  EXPECT_EQ(error_of(w.hwpt(fd, device->id(), 77)), Errno::Einval) << "unknown pt_id";
  EXPECT_EQ(error_of(w.hwpt(fd, device->id(), device->id())), Errno::Einval) << "pt_id of another type";
  EXPECT_EQ(error_of(w.hwpt(fd, device->id(), hwpt)), Errno::Eopnotsupp) << "nesting";
  EXPECT_EQ(error_of(w.mark(fd, ioas, 1)), Errno::Enoent);
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *device, 77)), Errno::Enoent);
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *device, device->id())), Errno::Einval);
  unbind(device);
}

TEST_F(IommufdTest, HwptAllocChecksInOrder) {
  const u32 ioas = w.ioas(fd);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  uapi::IommuHwptAlloc cmd{};
  cmd.size = sizeof(cmd);
  cmd.reserved = 1;
  cmd.data_len = 4;
  cmd.dev_id = 99;
  cmd.pt_id = 99;
  cmd.flags = 16;
  EXPECT_EQ(error(uapi::kIommuHwptAlloc, cmd), Errno::Eopnotsupp);
  cmd.reserved = 0;
  EXPECT_EQ(error(uapi::kIommuHwptAlloc, cmd), Errno::Einval) << "data without a type";
  cmd.data_len = 0;
  cmd.data_type = 1;
  EXPECT_EQ(error(uapi::kIommuHwptAlloc, cmd), Errno::Einval) << "a type without data";
  cmd.data_type = 0;
  EXPECT_EQ(error(uapi::kIommuHwptAlloc, cmd), Errno::Enoent);
  cmd.dev_id = device->id();
  EXPECT_EQ(error(uapi::kIommuHwptAlloc, cmd), Errno::Einval);
  cmd.pt_id = ioas;
  for (const u32 flags : {16u, 1u, 8u, 3u, 5u}) {
    cmd.flags = flags;
    EXPECT_EQ(error(uapi::kIommuHwptAlloc, cmd), Errno::Eopnotsupp) << flags;
  }
  cmd.flags = uapi::iommu_hwpt::kFaultIdValid;
  EXPECT_EQ(error(uapi::kIommuHwptAlloc, cmd), Errno::Enoent) << "no fault queue";
  // The short form of the structure, and a second reserved word that nobody checks.
  cmd.flags = 0;
  cmd.reserved2 = 7;
  EXPECT_EQ(error(uapi::kIommuHwptAlloc, cmd), Errno{});
  cmd.reserved2 = 0;
  cmd.size = 24;
  EXPECT_EQ(error(uapi::kIommuHwptAlloc, cmd), Errno{});
  unbind(device);
}

TEST_F(IommufdTest, HwInfoFillsWhatIsAskedFor) {
  Ref<iommufd::Device> device = w.bind(fd, a0);
  const UserAddr data = w.task.allocate(4096);
  for (u64 i = 0; i < 64; ++i) w.task.poke(data + i, u8{0xff});
  uapi::IommuHwInfo cmd{};
  cmd.size = sizeof(cmd);
  cmd.flags = 2;
  cmd.dev_id = 99;
  EXPECT_EQ(error(uapi::kIommuGetHwInfo, cmd), Errno::Eopnotsupp);
  cmd.flags = 0;
  cmd.reserved[2] = 1;
  EXPECT_EQ(error(uapi::kIommuGetHwInfo, cmd), Errno::Eopnotsupp);
  cmd.reserved[2] = 0;
  EXPECT_EQ(error(uapi::kIommuGetHwInfo, cmd), Errno::Enoent);
  cmd.dev_id = device->id();
  cmd.flags = 1;
  cmd.data_type = 2;
  EXPECT_EQ(error(uapi::kIommuGetHwInfo, cmd), Errno::Eopnotsupp);
  cmd.flags = 0;  // the type is not an input then
  cmd.data_len = 40;
  cmd.data_uptr = data.value;
  ASSERT_TRUE(w.call(fd, uapi::kIommuGetHwInfo, cmd));
  EXPECT_EQ(cmd.data_len, 24u);
  EXPECT_EQ(cmd.data_type, uapi::iommu_hw_info::kTypeIntelVtd);
  const auto info = w.task.peek<uapi::IommuHwInfoVtd>(data);
  EXPECT_EQ(info.cap_reg, w.iommu.hw_a.cap);
  EXPECT_EQ(info.ecap_reg, w.iommu.hw_a.ecap);
  for (u64 i = 24; i < 40; ++i) EXPECT_EQ(w.task.peek<u8>(data + i), 0) << i;
  EXPECT_EQ(w.task.peek<u8>(data + 40), 0xff);
  cmd.data_uptr = 8;
  EXPECT_EQ(error(uapi::kIommuGetHwInfo, cmd), Errno::Efault);
  cmd.data_len = 0;
  EXPECT_EQ(error(uapi::kIommuGetHwInfo, cmd), Errno{});
  unbind(device);
}

TEST_F(IommufdTest, InvalidateWritesItsCountOnFailureToo) {
  const u32 ioas = w.ioas(fd);
  uapi::IommuHwptInvalidate cmd{};
  cmd.size = sizeof(cmd);
  cmd.hwpt_id = 99;
  cmd.entry_num = 3;
  cmd.reserved = 1;
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuHwptInvalidate, cmd)), Errno::Eopnotsupp);
  EXPECT_EQ(cmd.entry_num, 0u);
  cmd.reserved = 0;
  cmd.entry_num = 3;
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuHwptInvalidate, cmd)), Errno::Einval) << "no data";
  cmd.entry_num = 0;
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuHwptInvalidate, cmd)), Errno::Enoent);
  cmd.hwpt_id = ioas;
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuHwptInvalidate, cmd)), Errno::Einval);
}

// VFIO_IOAS: GET none Enodev; SET unknown Enoent; another op Eopnotsupp; the IOAS is named, not used.
TEST_F(IommufdTest, TheContainersIoasIsNamedAndForgotten) {
  const auto call = [&](u16 op, u32 id = 0, u16 reserved = 0) {
    uapi::IommuVfioIoas cmd{.size = sizeof(cmd), .ioas_id = id, .op = op, .reserved = reserved};
    const Result<void> done = w.call(fd, uapi::kIommuVfioIoas, cmd);
    return done ? Result<u32>(cmd.ioas_id) : fail(done.error());
  };
  EXPECT_EQ(error_of(call(9, 99, 1)), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(call(3, 99)), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(call(uapi::iommu_vfio_ioas::kGet)), Errno::Enodev);
  EXPECT_EQ(error_of(call(uapi::iommu_vfio_ioas::kSet, 99)), Errno::Enoent);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  EXPECT_EQ(error_of(call(uapi::iommu_vfio_ioas::kSet, device->id())), Errno::Enoent);
  const u32 one = w.ioas(fd), two = w.ioas(fd);
  for (const u32 id : {one, two}) {
    EXPECT_TRUE(call(uapi::iommu_vfio_ioas::kSet, id));
    EXPECT_EQ(*call(uapi::iommu_vfio_ioas::kGet), id);
  }
  EXPECT_TRUE(call(uapi::iommu_vfio_ioas::kClear, 77));
  EXPECT_EQ(error_of(call(uapi::iommu_vfio_ioas::kGet)), Errno::Enodev);
  ASSERT_TRUE(call(uapi::iommu_vfio_ioas::kSet, two));
  EXPECT_TRUE(w.destroy(fd, one));
  EXPECT_TRUE(call(uapi::iommu_vfio_ioas::kGet));
  EXPECT_TRUE(w.destroy(fd, two));
  EXPECT_EQ(error_of(call(uapi::iommu_vfio_ioas::kGet)), Errno::Enodev) << "gone with the IOAS";
  unbind(device);
}

// --- IOVA ranges -------------------------------------------------------------------------------------------------

TEST_F(IommufdTest, IovaRangesShowWhatDevicesAndDomainsLeave) {
  const u32 ioas = w.ioas(fd);
  const UserAddr out = w.task.allocate(256);
  uapi::IommuIoasIovaRanges cmd{};
  cmd.size = sizeof(cmd);
  cmd.ioas_id = 99;
  cmd.reserved = 1;
  EXPECT_EQ(error(uapi::kIommuIoasIovaRanges, cmd), Errno::Eopnotsupp);
  cmd.reserved = 0;
  EXPECT_EQ(error(uapi::kIommuIoasIovaRanges, cmd), Errno::Enoent);
  cmd.ioas_id = ioas;
  cmd.num_iovas = 1;
  cmd.allowed_iovas = out.value;
  ASSERT_TRUE(w.call(fd, uapi::kIommuIoasIovaRanges, cmd));
  EXPECT_EQ(cmd.num_iovas, 1u);
  EXPECT_EQ(cmd.out_iova_alignment, 1u);
  EXPECT_EQ(w.task.peek<uapi::IommuIovaRange>(out).last, ~u64{0});

  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
  // Too many for the program: an error, with everything written that fits.
  cmd.num_iovas = 1;
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuIoasIovaRanges, cmd)), Errno::Emsgsize);
  EXPECT_EQ(cmd.num_iovas, 2u);
  EXPECT_EQ(cmd.out_iova_alignment, kPageSize);
  EXPECT_EQ(w.task.peek<uapi::IommuIovaRange>(out).start, 0u);
  EXPECT_EQ(w.task.peek<uapi::IommuIovaRange>(out).last, 0xfedfffffu);
  cmd.num_iovas = 2;
  ASSERT_TRUE(w.call(fd, uapi::kIommuIoasIovaRanges, cmd));
  EXPECT_EQ(w.task.peek<uapi::IommuIovaRange>(out + 16).start, 0xfef00000u);
  EXPECT_EQ(w.task.peek<uapi::IommuIovaRange>(out + 16).last, (u64{1} << 48) - 1);
  cmd.allowed_iovas = 8;
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuIoasIovaRanges, cmd)), Errno::Efault);
  ASSERT_TRUE(w.file(fd).detach(*device));
  cmd.allowed_iovas = out.value;
  cmd.num_iovas = 0;
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuIoasIovaRanges, cmd)), Errno::Emsgsize);
  EXPECT_EQ(cmd.num_iovas, 1u);
  EXPECT_EQ(cmd.out_iova_alignment, 1u);
  unbind(device);
}

// --- mapping ----------------------------------------------------------------------------------------------------

TEST_F(IommufdTest, MapChecksInOrder) {
  const u32 ioas = w.ioas(fd);
  const auto m = w.memfd(kMiB);
  uapi::IommuIoasMap cmd{};
  cmd.size = sizeof(cmd);
  cmd.ioas_id = 99;
  cmd.flags = 8;
  cmd.iova = ~u64{0};
  EXPECT_EQ(error(uapi::kIommuIoasMap, cmd), Errno::Eopnotsupp);
  cmd.flags = 0;
  cmd.reserved = 1;
  EXPECT_EQ(error(uapi::kIommuIoasMap, cmd), Errno::Eopnotsupp);
  cmd.reserved = 0;
  EXPECT_EQ(error(uapi::kIommuIoasMap, cmd), Errno::Eoverflow);
  cmd.iova = 0;
  cmd.length = ~u64{0};
  EXPECT_EQ(error(uapi::kIommuIoasMap, cmd), Errno::Eoverflow);
  cmd.length = 0;
  EXPECT_EQ(error(uapi::kIommuIoasMap, cmd), Errno::Einval) << "neither read nor write";
  cmd.flags = IommufdWorld::kRw | uapi::iommu_map::kFixedIova;
  EXPECT_EQ(error(uapi::kIommuIoasMap, cmd), Errno::Enoent);
  cmd.ioas_id = ioas;
  cmd.user_va = ~u64{0} - 10;
  cmd.length = 20;
  EXPECT_EQ(error(uapi::kIommuIoasMap, cmd), Errno::Eoverflow);
  cmd.length = 0;
  EXPECT_EQ(error(uapi::kIommuIoasMap, cmd), Errno::Einval);
  cmd.user_va = 0x10000;
  cmd.length = kPageSize;
  cmd.iova = ~u64{0} - 1;
  EXPECT_EQ(error(uapi::kIommuIoasMap, cmd), Errno::Eoverflow);

  uapi::IommuIoasMapFile file{};
  file.size = sizeof(file);
  file.flags = IommufdWorld::kRw;
  file.ioas_id = ioas;
  file.fd = 99;
  file.start = ~u64{0} - 10;
  EXPECT_EQ(error(uapi::kIommuIoasMapFile, file), Errno::Einval) << "length 0";
  file.length = 20;
  EXPECT_EQ(error(uapi::kIommuIoasMapFile, file), Errno::Eoverflow);
  file.start = 0;
  EXPECT_EQ(error(uapi::kIommuIoasMapFile, file), Errno::Ebadf);
  file.fd = m.fd;
  EXPECT_EQ(error(uapi::kIommuIoasMapFile, file), Errno{}) << "no domain, no alignment";
}

TEST_F(IommufdTest, WithADomainEverythingIsAlignedAndPinned) {
  const u32 ioas = w.ioas(fd);
  const auto m = w.memfd(kMiB);
  const auto small = w.memfd(100);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));

  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, 100, kMiB)), Errno::Einval) << "length";
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, kPageSize, kMiB + 1)), Errno::Einval) << "address";
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 100, kPageSize, kMiB)), Errno::Einval) << "offset";
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0xfee00000)), Errno::Einval) << "reserved";
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, kPageSize, u64{1} << 48)), Errno::Einval) << "aperture";
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, 2 * kMiB, kMiB)), Errno::Einval) << "beyond the file";
  EXPECT_EQ(error_of(w.map_file(fd, ioas, fd, 0, kPageSize, kMiB)), Errno::Einval) << "not memory";
  EXPECT_EQ(error_of(w.map(fd, ioas, 0x7000, kPageSize, kMiB)), Errno::Efault) << "nothing there";
  EXPECT_EQ(w.reached(a0, kMiB), "");

  EXPECT_EQ(*w.map_file(fd, ioas, m.fd, 0x3000, 0x2000, kMiB), kMiB);
  EXPECT_EQ(w.reached(a0, kMiB), w.place(m, 0x3000));
  EXPECT_EQ(w.reached(a0, kMiB + 0x1fff), w.place(m, 0x4fff));
  EXPECT_EQ(w.reached(a0, kMiB + 0x2000), "");
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, kPageSize, kMiB + 0x1000)), Errno::Eexist);
  EXPECT_EQ(*w.map_file(fd, ioas, small.fd, 0, kPageSize, 0, uapi::iommu_map::kReadable | 1), 0u) << "last page";
  EXPECT_EQ(w.reached(a0, 0), w.place(small, 0) + " r");
  EXPECT_EQ(*w.map_file(fd, ioas, m.fd, 0, kPageSize, 0x9000, uapi::iommu_map::kWriteable | 1), 0x9000u);
  EXPECT_EQ(w.reached(a0, 0x9000), w.place(m, 0) + " w");
  unbind(device);
}

TEST_F(IommufdTest, WithoutADomainTroubleWaitsForTheFirstOne) {
  const auto m = w.memfd(kMiB);
  const auto refuses = [&](auto add, Errno expected) {
    const s32 own = w.open();
    const u32 ioas = w.ioas(own);
    const Result<u64> mapped = add(own, ioas);
    ASSERT_TRUE(mapped) << errno_name(mapped.error());
    Ref<iommufd::Device> device = w.bind(own, a0);
    EXPECT_EQ(error_of(w.hwpt(own, device->id(), ioas)), expected);
    EXPECT_EQ(error_of(w.file(own).attach(w.task, *device, ioas)), expected);
    EXPECT_EQ(w.reached(a0, 0x10000), "blocked");
    // Nothing was left: not even a use of the IOAS.
    EXPECT_TRUE(w.destroy(own, ioas));
    w.file(own).unbind(*device);
    device = nullptr;
    w.task.close(own);
  };
  refuses([&](s32 own, u32 ioas) { return w.map_file(own, ioas, m.fd, 0, 2 * kMiB, 0x10000); }, Errno::Einval);
  refuses([&](s32 own, u32 ioas) { return w.map_file(own, ioas, fd, 0, kPageSize, 0x10000); }, Errno::Einval);
  refuses([&](s32 own, u32 ioas) { return w.map(own, ioas, 0x7000, kPageSize, 0x10000); }, Errno::Efault);
  refuses([&](s32 own, u32 ioas) { return w.map_file(own, ioas, m.fd, 0, 100, 0x10000); }, Errno::Eaddrinuse);
  refuses([&](s32 own, u32 ioas) { return w.map_file(own, ioas, m.fd, 0, kPageSize, 0x10800); }, Errno::Eaddrinuse);
  refuses([&](s32 own, u32 ioas) { return w.map_file(own, ioas, m.fd, 0x800, kPageSize, 0x10000); }, Errno::Eaddrinuse);
  refuses([&](s32 own, u32 ioas) { return w.map_file(own, ioas, m.fd, 0, kPageSize, u64{1} << 48); },
          Errno::Eaddrinuse);
  // The window of interrupts concerns only attaching.
  const u32 ioas = w.ioas(fd);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0xfee00000));
  Ref<iommufd::Device> device = w.bind(fd, a0);
  const Result<u32> hwpt = w.hwpt(fd, device->id(), ioas);
  ASSERT_TRUE(hwpt);
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *device, *hwpt)), Errno::Eaddrinuse);
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *device, ioas)), Errno::Eaddrinuse);
  unbind(device);
}

// An automatic HWPT is attached first and filled then: what a device could reach for a moment is unmapped and flushed
// before its memory is let go.
TEST_F(IommufdTest, AFailedFillTakesBackWhatItGave) {
  auto m = w.memfd(kMiB);
  const u32 ioas = w.ioas(fd);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x4000, 0x10000));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 2 * kMiB, 0x100000)) << "beyond the file: shows now";
  Ref<iommufd::Device> device = w.bind(fd, a0);
  w.iommu.events.clear();
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *device, ioas)), Errno::Einval);
  usize flushed = w.iommu.event("set 1:0.0 did 2");
  while (flushed < w.iommu.events.size() && !w.iommu.events[flushed].starts_with("flush_pages did 2")) ++flushed;
  EXPECT_LT(flushed, w.iommu.event("clear 1:0.0"));
  unbind(device);
  // Nothing stayed pinned.
  EXPECT_TRUE(w.destroy(fd, ioas));
  w.task.close(m.fd);
  m.memory = nullptr;
  EXPECT_TRUE(w.machine().banks.empty());
}

TEST_F(IommufdTest, ProgramsAddressesLeadToTheMemoryBehindThemAtThatTime) {
  const u32 ioas = w.ioas(fd);
  const auto m = w.memfd(kMiB), n = w.memfd(kMiB), ro = w.memfd(kMiB);
  w.task.map_shared(UserAddr(0x100000), 0x4000, m.memory, 0x2000);
  w.task.map_shared(UserAddr(0x104000), 0x4000, n.memory, 0);
  w.task.map_shared(UserAddr(0x108000), 0x1000, ro.memory, 0, false);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
  ASSERT_EQ(*w.map(fd, ioas, 0x102000, 0x4000, 0x50000), 0x50000u);
  EXPECT_EQ(w.reached(a0, 0x50000), w.place(m, 0x4000));
  EXPECT_EQ(w.reached(a0, 0x52000), w.place(n, 0));
  // The program maps something else there: devices do not follow.
  w.task.map_shared(UserAddr(0x100000), 0x4000, n.memory, 0);
  EXPECT_EQ(w.reached(a0, 0x50000), w.place(m, 0x4000));
  EXPECT_EQ(error_of(w.map(fd, ioas, 0x107000, 0x2000, 0x60000)), Errno::Efault) << "read-only";
  EXPECT_EQ(w.reached(a0, 0x60000), "");
  EXPECT_EQ(*w.map(fd, ioas, 0x107000, 0x2000, 0x60000, uapi::iommu_map::kReadable | 1), 0x60000u);
  EXPECT_EQ(error_of(w.map(fd, ioas, 0x108000, 0x2000, 0x70000, uapi::iommu_map::kReadable | 1)), Errno::Efault);
  // One area, whatever lies behind it.
  EXPECT_EQ(error_of(w.unmap(fd, ioas, 0x50000, 0x2000)), Errno::Enoent);
  EXPECT_EQ(*w.unmap(fd, ioas, 0x50000, 0x4000), 0x4000u);
  unbind(device);
}

TEST_F(IommufdTest, AutomaticAddressesAreTheLowestThatFit) {
  const u32 ioas = w.ioas(fd);
  const auto m = w.memfd(64 * kMiB);
  const auto automatic = [&](u64 start, u64 length) {
    return w.map_file(fd, ioas, m.fd, start, length, 0, IommufdWorld::kRw);
  };
  EXPECT_EQ(*automatic(0, kPageSize), 0x1000u) << "never 0";
  // The alignment of the length, as far as the start has it, and the start's place in its page.
  EXPECT_EQ(*automatic(0, 0x3000), 0x4000u);
  EXPECT_EQ(*automatic(0x1000, 0x3000), 0x7000u);
  EXPECT_EQ(*automatic(0x10800, 0x100), 0x2800u);
  EXPECT_EQ(*automatic(0, kMiB), kMiB);
  EXPECT_EQ(*automatic(0, 16 * kMiB), 2 * kMiB) << "2 MiB is as much as is asked for";
  EXPECT_EQ(error_of(automatic(0, ~u64{0} / 2)), Errno::Eoverflow);
  EXPECT_EQ(error_of(automatic(0, ~u64{0} / 2 - 1)), Errno{}) << "no domain: nothing is looked at";
  EXPECT_EQ(error_of(automatic(0, ~u64{0} / 2 - 1)), Errno::Enospc);
}

TEST_F(IommufdTest, AutomaticAddressesAvoidReservedOnesAndOneByteHoles) {
  const u32 ioas = w.ioas(fd);
  const auto m = w.memfd(64 * kMiB);
  // All but one byte of the first page that is looked at.
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 1, 0x1001));
  EXPECT_EQ(*w.map_file(fd, ioas, m.fd, 0, 1, 0, IommufdWorld::kRw), 0x1002u);
  ASSERT_TRUE(w.unmap(fd, ioas, 0, ~u64{0}));
  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0x800, kPageSize, 0, IommufdWorld::kRw)), Errno::Einval)
      << "the alignment that the start has is less than the domain's";
  // Everything up to the interrupt window is in use.
  const auto large = w.memfd(1024 * kMiB);
  for (u64 i = 0; i < 3; ++i) ASSERT_TRUE(w.map_file(fd, ioas, large.fd, 0, 1024 * kMiB, i * 1024 * kMiB));
  ASSERT_TRUE(w.map_file(fd, ioas, large.fd, 0, 0xfee00000 - 3072 * kMiB, 3072 * kMiB));
  EXPECT_EQ(*w.map_file(fd, ioas, m.fd, 0, kPageSize, 0, IommufdWorld::kRw), 0xfef00000u);
  unbind(device);
}

TEST_F(IommufdTest, UnmapTakesWholeAreasOrNone) {
  const u32 ioas = w.ioas(fd);
  const auto m = w.memfd(kMiB);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
  EXPECT_EQ(error_of(w.unmap(fd, 99, 0, 1)), Errno::Enoent);
  EXPECT_EQ(error_of(w.unmap(fd, ioas, ~u64{0}, 1)), Errno::Eoverflow);
  EXPECT_EQ(error_of(w.unmap(fd, ioas, 1, ~u64{0})), Errno::Eoverflow);
  EXPECT_EQ(error_of(w.unmap(fd, ioas, 0, 0)), Errno::Einval);
  EXPECT_EQ(error_of(w.unmap(fd, ioas, ~u64{0} - 1, 3)), Errno::Eoverflow);
  EXPECT_EQ(error_of(w.unmap(fd, ioas, 0, kMiB)), Errno::Enoent);
  EXPECT_EQ(*w.unmap(fd, ioas, 0, ~u64{0}), 0u) << "everything, of nothing";
  for (u64 i = 0; i < 3; ++i) ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x2000, 0x10000 + i * 0x2000));
  EXPECT_EQ(error_of(w.unmap(fd, ioas, 0x10000, 0x5000)), Errno::Enoent);
  EXPECT_EQ(w.reached(a0, 0x10000), "") << "areas before the cut one are gone";
  EXPECT_EQ(w.reached(a0, 0x12000), "");
  EXPECT_EQ(w.reached(a0, 0x14000), w.place(m, 0));
  EXPECT_EQ(error_of(w.unmap(fd, ioas, 0x15000, 0x1000)), Errno::Enoent);
  EXPECT_EQ(*w.unmap(fd, ioas, 0x3000, kMiB), 0x2000u);
  EXPECT_EQ(w.reached(a0, 0x14000), "");
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x2000, 0x10000));
  EXPECT_EQ(*w.unmap(fd, ioas, 0, ~u64{0}), 0x2000u);
  unbind(device);
}

TEST_F(IommufdTest, MemoryIsPinnedWhileADomainMapsIt) {
  const u32 ioas = w.ioas(fd);
  auto m = w.memfd(kMiB);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kMiB, 0x100000));
  EXPECT_TRUE(w.machine().banks.empty());
  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
  EXPECT_EQ(w.machine().banks.size(), 1u);
  w.task.close(m.fd);
  m.memory = nullptr;
  EXPECT_EQ(w.reached(a0, 0x100000), w.place(m, 0)) << "the program closed it, the device does not notice";
  unbind(device);
  EXPECT_EQ(w.machine().banks.size(), 1u) << "the area still is there";
  ASSERT_TRUE(w.unmap(fd, ioas, 0, ~u64{0}));
  EXPECT_TRUE(w.machine().banks.empty());
}

// A unit that does not answer may still have the old translation in its caches.
TEST_F(IommufdTest, WhatAUnitDidNotConfirmIsNeverGivenBack) {
  const u32 ioas = w.ioas(fd);
  auto m = w.memfd(kMiB);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kMiB, 0x100000));
  w.iommu.hw_a.fail_after["flush_pages"] = 0;
  w.iommu.hw_a.fail_after["flush_domain"] = 0;
  EXPECT_EQ(error_of(w.unmap(fd, ioas, 0, ~u64{0})), Errno::Eio);
  w.task.close(m.fd);
  m.memory = nullptr;
  EXPECT_EQ(w.machine().banks.size(), 1u);
  unbind(device);
}

// --- domains ----------------------------------------------------------------------------------------------------

TEST_F(IommufdTest, AnIoasTranslatesAlikeThroughAllOfItsDomains) {
  const u32 ioas = w.ioas(fd);
  const auto m = w.memfd(kMiB);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x4000, 0x10000));
  Ref<iommufd::Device> one = w.bind(fd, a0), two = w.bind(fd, a1);
  const u32 manual = *w.hwpt(fd, one->id(), ioas);
  ASSERT_EQ(*w.file(fd).attach(w.task, *one, manual), manual);
  const u32 automatic = *w.file(fd).attach(w.task, *two, ioas);
  EXPECT_NE(automatic, manual) << "manual HWPTs are never picked";
  EXPECT_EQ(w.reached(a0, 0x11000), w.place(m, 0x1000));
  EXPECT_EQ(w.reached(a1, 0x11000), w.place(m, 0x1000));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0x8000, 0x1000, 0x20000));
  EXPECT_EQ(w.reached(a0, 0x20000), w.place(m, 0x8000));
  EXPECT_EQ(w.reached(a1, 0x20000), w.place(m, 0x8000));
  ASSERT_TRUE(w.unmap(fd, ioas, 0x10000, 0x4000));
  EXPECT_EQ(w.reached(a0, 0x11000), "");
  EXPECT_EQ(w.reached(a1, 0x11000), "");
  unbind(one);
  unbind(two);
}

TEST_F(IommufdTest, AutomaticHwptsAreSharedAndGoWithTheirLastDevice) {
  const u32 ioas = w.ioas(fd), other = w.ioas(fd);
  Ref<iommufd::Device> one = w.bind(fd, a0), two = w.bind(fd, a1);
  const u32 hwpt = *w.file(fd).attach(w.task, *one, ioas);
  EXPECT_EQ(*w.file(fd).attach(w.task, *two, ioas), hwpt);
  EXPECT_EQ(*w.file(fd).attach(w.task, *two, ioas), hwpt) << "again: nothing to do";
  EXPECT_EQ(error_of(w.destroy(fd, hwpt)), Errno::Ebusy);
  ASSERT_TRUE(w.file(fd).detach(*one));
  EXPECT_EQ(w.reached(a0, 0), "blocked");
  EXPECT_EQ(error_of(w.destroy(fd, ioas)), Errno::Ebusy);
  const u32 next = *w.file(fd).attach(w.task, *two, other);
  EXPECT_NE(next, hwpt);
  const auto m = w.memfd(kMiB);
  EXPECT_TRUE(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0xfee00000)) << "no device reserves it here any more";
  EXPECT_EQ(error_of(w.destroy(fd, hwpt)), Errno::Enoent) << "replaced by its last device";
  EXPECT_TRUE(w.destroy(fd, ioas));
  ASSERT_TRUE(w.file(fd).detach(*one)) << "not attached: nothing to do";
  ASSERT_TRUE(w.file(fd).detach(*two));
  EXPECT_TRUE(w.destroy(fd, other));
  unbind(one);
  unbind(two);
}

TEST_F(IommufdTest, AFailedReplaceLeavesTheOldAttachment) {
  const u32 ioas = w.ioas(fd), bad = w.ioas(fd);
  const auto m = w.memfd(kMiB);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x1000, 0x10000));
  ASSERT_TRUE(w.map_file(fd, bad, m.fd, 0, 0x1000, 0xfee00000));
  Ref<iommufd::Device> device = w.bind(fd, a0);
  const u32 hwpt = *w.file(fd).attach(w.task, *device, ioas);
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *device, bad)), Errno::Eaddrinuse);
  EXPECT_EQ(w.reached(a0, 0x10000), w.place(m, 0));
  EXPECT_EQ(*w.file(fd).attach(w.task, *device, ioas), hwpt);
  EXPECT_TRUE(w.destroy(fd, bad));
  // The old IOAS lets go of its interrupt window only with the device.
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, 0x1000, 0xfee00000)), Errno::Einval);
  ASSERT_TRUE(w.file(fd).detach(*device));
  EXPECT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x1000, 0xfee00000));
  unbind(device);
}

TEST_F(IommufdTest, AGroupHasOneOwner) {
  const s32 other = w.open();
  Ref<iommufd::Device> device = w.bind(fd, a0);
  EXPECT_EQ(error_of(w.file(other).bind(w.iommu.device(a0))), Errno::Eperm);
  EXPECT_EQ(w.ioas(other), 1u) << "no id was lost";
  unbind(device);
  device = w.bind(other, a0);
  w.file(other).unbind(*device);
  device = nullptr;
}

TEST_F(IommufdTest, LastCloseEndsEverything) {
  auto m = w.memfd(kMiB);
  const u64 before = (w.heap().trim(), w.iommu.frames().totals().free);
  {
    const s32 own = w.open();
    const u32 ioas = w.ioas(own);
    w.ioas(own);
    ASSERT_TRUE(w.map_file(own, ioas, m.fd, 0, kMiB, 0x100000));
    Ref<iommufd::Device> device = w.bind(own, a0);
    ASSERT_TRUE(w.hwpt(own, device->id(), ioas));
    ASSERT_TRUE(w.file(own).attach(w.task, *device, ioas));
    w.file(own).unbind(*device);
    device = nullptr;
    w.task.close(own);
  }
  EXPECT_EQ(m.memory->ref_count(), 2u) << "the test's and the descriptor's";
  w.heap().trim();
  EXPECT_EQ(w.iommu.frames().totals().free, before);
  w.task.close(m.fd);
  m.memory = nullptr;
  EXPECT_TRUE(w.machine().banks.empty()) << "nothing stayed pinned";
}

// In the middle of one domain, and after another one was filled.
TEST_F(IommufdTest, AFailedMapTakesBackWhatItGave) {
  const auto m = w.memfd(kMiB, 0);
  ASSERT_TRUE(m.memory->extents(0, kMiB, [](const FileExtent&) -> Result<void> { return {}; }));
  ASSERT_TRUE(m.host->resize(2 * kMiB));  // two banks: filled in two steps
  Ref<iommufd::Device> device = w.bind(fd, a0), second = w.bind(fd, b0);
  const u32 ioas = w.ioas(fd);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, *w.hwpt(fd, device->id(), ioas)));
  ASSERT_TRUE(w.file(fd).attach(w.task, *second, *w.hwpt(fd, second->id(), ioas)));
  for (const SourceId where : {a0, b0}) {
    // Something is in the way that the IOAS does not know of.
    const Ref<PagingDomain> domain = w.iommu.group(where).domain();
    const Iova obstacle(0x40000000 + kMiB + 0x8000);
    ASSERT_TRUE(domain->map(obstacle, Phys(0x1000), kPageSize, Access::Read));
    EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, 2 * kMiB, 0x40000000)), Errno::Eaddrinuse);
    for (const SourceId s : {a0, b0}) {
      EXPECT_EQ(w.reached(s, 0x40000000), "") << text(where) << " " << text(s);
      EXPECT_EQ(w.reached(s, 0x40000000 + kMiB), "") << text(where) << " " << text(s);
    }
    ASSERT_TRUE(domain->unmap(obstacle, kPageSize));
  }
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 2 * kMiB, 0x40000000));
  EXPECT_EQ(w.reached(b0, 0x40000000 + kMiB), w.place(m, kMiB));
  unbind(device);
  unbind(second);
}

// --- several programs at once --------------------------------------------------------------------------------------

TEST_F(IommufdTest, ThreadsOfOneContextGetInNobodysWay) {
  const auto m = w.memfd(kMiB);
  const Ref<File> file = w.task.files.at(fd);
  std::vector<std::thread> threads;
  std::atomic<u32> mapped{0};
  for (u64 me = 0; me < 3; ++me) {
    threads.emplace_back([&, me] {
      test::FakeTask task;
      const s32 memory = task.add(m.memory);
      const auto call = [&](u32 command, auto& cmd) {
        const UserAddr at = task.put(cmd);
        const bool done = file->ioctl(task, command, at).has_value();
        cmd = task.peek<std::remove_reference_t<decltype(cmd)>>(at);
        return done;
      };
      for (u64 round = 0; round < 40; ++round) {
        uapi::IommuIoasAlloc alloc{.size = sizeof(alloc)};
        ASSERT_TRUE(call(uapi::kIommuIoasAlloc, alloc));
        // Anybody's: ids are small numbers.
        for (u32 id = 1; id <= 4; ++id) {
          uapi::IommuIoasMapFile map{.size = sizeof(map),
                                     .flags = IommufdWorld::kRw | 1,
                                     .ioas_id = id,
                                     .fd = memory,
                                     .start = 0,
                                     .length = kPageSize,
                                     .iova = me * kMiB + round * kPageSize};
          if (call(uapi::kIommuIoasMapFile, map)) ++mapped;
          uapi::IommuIoasUnmap unmap{.size = sizeof(unmap), .ioas_id = id, .iova = 0, .length = ~u64{0}};
          if (round % 3 == 0) call(uapi::kIommuIoasUnmap, unmap);
        }
        uapi::IommuDestroy destroy{.size = sizeof(destroy), .id = alloc.out_ioas_id};
        call(uapi::kIommuDestroy, destroy);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_GT(mapped.load(), 0u);
  // All gone but what one thread may have mapped into another's address space as it went.
  EXPECT_EQ(w.ioas(fd), 1u);
  ASSERT_TRUE(w.unmap(fd, 1, 0, ~u64{0}));
  EXPECT_EQ(m.memory->ref_count(), 2u);
}

// --- every allocation fails once -----------------------------------------------------------------------------------

TEST_F(IommufdTest, EveryFailingAllocationIsUndone) {
  // Two banks, so that one domain is filled in two steps; two domains, one after the other.
  const auto m = w.memfd(4 * kMiB, 0);
  ASSERT_TRUE(m.memory->extents(0, 4 * kMiB, [](const FileExtent&) -> Result<void> { return {}; }));
  ASSERT_TRUE(m.host->resize(8 * kMiB));
  Ref<iommufd::Device> device = w.bind(fd, a0), second = w.bind(fd, b0);
  const u32 ioas = w.ioas(fd);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
  ASSERT_TRUE(w.file(fd).attach(w.task, *second, *w.hwpt(fd, second->id(), ioas)));
  struct Step {
    const char* what;
    std::function<bool()> run;
    std::function<void()> undo;
  };
  u32 made = 0;
  const Step steps[] = {
      {"map", [&] { return w.map_file(fd, ioas, m.fd, 0, 8 * kMiB, 0x40001000).has_value(); },
       [&] { ASSERT_TRUE(w.unmap(fd, ioas, 0x40001000, 8 * kMiB)); }},
      {"hwpt",
       [&] {
         const Result<u32> id = w.hwpt(fd, device->id(), ioas);
         if (id) made = *id;
         return id.has_value();
       },
       [&] { ASSERT_TRUE(w.destroy(fd, made)); }},
      {"replace by an automatic HWPT",
       [&] {
         const Result<u32> id = w.file(fd).attach(w.task, *device, made);
         return id.has_value();
       },
       [&] { ASSERT_TRUE(w.destroy(fd, made)); }},
  };
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0x1000, 0x200000, 0x80000000));
  for (const Step& step : steps) {
    if (std::string_view(step.what).starts_with("replace")) made = w.ioas(fd);
    const std::string reached = w.reached(a0, 0x80000000);
    for (u64 n = 1;; ++n) {
      const bool done = w.machine().counting.failing(n, [&] { return step.run(); });
      if (done) {
        EXPECT_GT(n, 3u) << step.what << ": nothing was tried";
        break;
      }
      ASSERT_EQ(w.reached(a0, 0x80000000), reached) << step.what << " " << n;
      ASSERT_EQ(w.reached(a0, 0x40001000), "") << step.what << " " << n;
      ASSERT_EQ(w.reached(a0, 0x40401000), "") << step.what << " " << n;
      ASSERT_EQ(w.reached(b0, 0x40001000), "") << step.what << " " << n;
      ASSERT_LT(n, 500u);
    }
    if (std::string_view(step.what).starts_with("replace")) {
      ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
    }
    step.undo();
  }
  // What could be undone after all those failures leaves nothing behind.
  unbind(device);
  unbind(second);
  w.task.close(fd);
  EXPECT_EQ(m.memory->ref_count(), 2u);
}

// Type 1 in its first version: what was mapped in one piece is unmapped in parts, while a device goes on using the
// rest.
TEST_F(IommufdTest, CutUnmapsWhatAContainerOfTheFirstVersionAsksFor) {
  const Ref<iommufd::Ioas> compat = *w.file(fd).make_compat_ioas();
  const Ref<File> file = w.task.files.at(fd);
  ASSERT_TRUE(file->ioctl(w.task, uapi::kVfioSetIommu, UserAddr(uapi::vfio_extension::kType1)));
  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, compat->id()));
  IommufdWorld::Memfd m = w.memfd(4 * kMiB);
  ASSERT_TRUE(w.map_file(fd, compat->id(), m.fd, 0, 4 * kMiB, 2 * kMiB));
  const auto unmap = [&](u64 iova, u64 bytes) {
    uapi::VfioDmaUnmap cmd{.argsz = sizeof(cmd), .flags = 0, .iova = iova, .size = bytes};
    EXPECT_TRUE(w.call(fd, uapi::kVfioIommuUnmapDma, cmd));
    return cmd.size;
  };
  const std::string first = w.reached(a0, 2 * kMiB), last = w.reached(a0, 6 * kMiB - kPageSize);
  EXPECT_EQ(unmap(3 * kMiB, kPageSize), kPageSize);
  EXPECT_EQ(w.reached(a0, 3 * kMiB), "");
  EXPECT_NE(w.reached(a0, 3 * kMiB - kPageSize), "");
  EXPECT_NE(w.reached(a0, 3 * kMiB + kPageSize), "");
  EXPECT_EQ(unmap(2 * kMiB + kPageSize, 2 * kMiB), 2 * kMiB - kPageSize);
  EXPECT_EQ(w.reached(a0, 2 * kMiB), first);
  EXPECT_EQ(w.reached(a0, 6 * kMiB - kPageSize), last);
  EXPECT_EQ(unmap(0, 16 * kMiB), 2 * kMiB);
  EXPECT_EQ(unmap(0, 16 * kMiB), 0u);
  unbind(device);
  m.memory = nullptr;
  w.task.files.erase(m.fd);
  EXPECT_TRUE(w.machine().banks.empty()) << "everything that was pinned is given back";
}

}  // namespace
}  // namespace perdure::testing
