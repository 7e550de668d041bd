// A device in a program's hands: errors and their order (uapi §3.2 – §3.8), what it sees and what it does.
#include "core/vfio/testing/vfio_world.h"

namespace perdure::testing {
namespace {

using namespace uapi::vfio_irq;

class VfioTest : public ::testing::Test {
 protected:
  VfioWorld w;
  s32 iommufd = w.open();
  s32 fd = w.open_device();

  template <class T>
  Errno error(u32 command, T cmd) {
    return error_of(w.call(fd, command, cmd));
  }
  void bind() { ASSERT_TRUE(w.bind_device(fd, iommufd)); }
  FakeFunction& hw() { return w.hw_a; }
};

// --- life cycle ----------------------------------------------------------------------------------------------------

TEST_F(VfioTest, NothingWorksBeforeItIsBound) {
  const UserAddr at = w.task.allocate(64);
  w.task.poke(at, u32{64});
  File& file = *w.task.files.at(fd);
  for (u32 cmd = 0x3b64; cmd < 0x3b80; ++cmd) {
    if (cmd == uapi::kVfioDeviceBindIommufd) continue;
    EXPECT_EQ(error_of(file.ioctl(w.task, cmd, at)), Errno::Einval) << std::hex << cmd;
  }
  EXPECT_EQ(error_of(file.read(w.task, at, 4, w.region(7))), Errno::Einval);
  EXPECT_EQ(error_of(file.write(w.task, at, 4, w.region(7))), Errno::Einval);
  EXPECT_EQ(error_of(file.mmap(w.task, w.region(0), kPageSize, Access::Read)), Errno::Einval);
  EXPECT_EQ(error_of(w.vfio->open(2)), Errno::Enoent);
  bind();
  EXPECT_EQ(error_of(file.ioctl(w.task, 0x3b79, at)), Errno::Enotty) << "unknown, once bound";
}

TEST_F(VfioTest, BindChecksInOrder) {
  File& file = *w.task.files.at(fd);
  EXPECT_EQ(error_of(file.ioctl(w.task, uapi::kVfioDeviceBindIommufd, UserAddr(8))), Errno::Efault);
  uapi::VfioBindIommufd cmd{};
  cmd.argsz = 15;
  cmd.iommufd = -1;
  EXPECT_EQ(error(uapi::kVfioDeviceBindIommufd, cmd), Errno::Einval);
  struct {
    uapi::VfioBindIommufd cmd;
    u32 more[2];  // no padding, which would not be copied
  } longer{};
  longer.cmd.argsz = sizeof(longer);
  longer.cmd.iommufd = -1;
  longer.more[0] = 1;
  EXPECT_EQ(error(uapi::kVfioDeviceBindIommufd, longer), Errno::E2big);
  longer.more[0] = 0;
  EXPECT_EQ(error(uapi::kVfioDeviceBindIommufd, longer), Errno::Einval) << "negative descriptor";
  cmd.argsz = sizeof(cmd);
  cmd.iommufd = 99;
  cmd.flags = 2;
  EXPECT_EQ(error(uapi::kVfioDeviceBindIommufd, cmd), Errno::Einval);
  cmd.flags = 1;
  cmd.token_uuid_ptr = 8;
  EXPECT_EQ(error(uapi::kVfioDeviceBindIommufd, cmd), Errno::Efault) << "token";
  cmd.token_uuid_ptr = w.task.allocate(16).value;
  EXPECT_EQ(error(uapi::kVfioDeviceBindIommufd, cmd), Errno::Einval) << "no virtual function";
  cmd.flags = 0;
  EXPECT_EQ(error(uapi::kVfioDeviceBindIommufd, cmd), Errno::Ebadf);
  cmd.iommufd = fd;
  EXPECT_EQ(error(uapi::kVfioDeviceBindIommufd, cmd), Errno::Ebadfd);
  cmd.iommufd = iommufd;
  ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceBindIommufd, cmd));
  EXPECT_EQ(cmd.out_devid, 1u);
  cmd.iommufd = 99;
  EXPECT_EQ(error(uapi::kVfioDeviceBindIommufd, cmd), Errno::Einval) << "bound already, before anything is looked up";
  const s32 again = w.open_device();
  EXPECT_EQ(error_of(w.bind_device(again, 99)), Errno::Ebadf);
  EXPECT_EQ(error_of(w.bind_device(again, iommufd)), Errno::Einval) << "bound by another file";
}

TEST_F(VfioTest, BindQuietsTheDeviceAndLastCloseDoesSoAgain) {
  hw().set<u16>(0x04, 0x0004);
  bind();
  EXPECT_EQ(hw().resets, 1u);
  EXPECT_EQ(hw().get<u16>(0x04) & 6, 2) << "decoding, not mastering";
  w.config_write<u16>(fd, 4, 6);
  EXPECT_EQ(hw().get<u16>(0x04) & 6, 6);
  const u32 ioas = w.ioas(iommufd);
  ASSERT_TRUE(w.attach(fd, ioas));
  const auto e = w.event();
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 0, 1, {e.fd}));
  EXPECT_EQ(w.irqs.size(), 1u);
  // The context lives on without its descriptor.
  w.task.close(iommufd);
  EXPECT_NE(w.reached(IommufdWorld::a0, 0), "blocked");
  w.task.close(fd);
  EXPECT_EQ(w.reached(IommufdWorld::a0, 0), "blocked");
  EXPECT_EQ(hw().resets, 2u);
  EXPECT_EQ(hw().get<u16>(0x04) & 4, 0);
  EXPECT_TRUE(w.irqs.empty());
  iommufd = w.open();
  fd = w.open_device();
  bind();
}

TEST_F(VfioTest, ABindThatCannotBeAnsweredIsUndone) {
  uapi::VfioBindIommufd cmd{};
  cmd.argsz = sizeof(cmd);
  cmd.iommufd = iommufd;
  const UserAddr at = w.task.put(cmd);
  w.task.set_writable(at, false);
  EXPECT_EQ(error_of(w.task.files.at(fd)->ioctl(w.task, uapi::kVfioDeviceBindIommufd, at)), Errno::Efault);
  EXPECT_EQ(w.iommu.group(IommufdWorld::a0).ownership(), Ownership::Unowned);
  bind();
  EXPECT_EQ(error_of(w.bind_device(fd, iommufd)), Errno::Einval);
}

TEST_F(VfioTest, EveryFailingAllocationOfBindIsUndone) {
  for (u64 n = 1;; ++n) {
    const Result<u32> bound = w.machine().counting.failing(n, [&] { return w.bind_device(fd, iommufd); });
    if (bound) break;
    ASSERT_EQ(w.iommu.group(IommufdWorld::a0).ownership(), Ownership::Unowned) << n;
    ASSERT_LT(n, 50u);
  }
}

TEST_F(VfioTest, AttachAndDetach) {
  bind();
  const u32 ioas = w.ioas(iommufd);
  uapi::VfioAttachIommufdPt cmd{};
  cmd.argsz = 11;
  EXPECT_EQ(error(uapi::kVfioDeviceAttachIommufdPt, cmd), Errno::Einval);
  cmd.argsz = 12;
  cmd.flags = 2;
  EXPECT_EQ(error(uapi::kVfioDeviceAttachIommufdPt, cmd), Errno::Einval);
  cmd.flags = 1;
  EXPECT_EQ(error(uapi::kVfioDeviceAttachIommufdPt, cmd), Errno::Einval) << "no room for the PASID";
  cmd.flags = 0;
  cmd.pt_id = 99;
  EXPECT_EQ(error(uapi::kVfioDeviceAttachIommufdPt, cmd), Errno::Enoent);
  cmd.pt_id = 1;
  EXPECT_EQ(error(uapi::kVfioDeviceAttachIommufdPt, cmd), Errno::Einval) << "a device";
  EXPECT_TRUE(w.detach(fd)) << "not attached";
  const u32 hwpt = *w.attach(fd, ioas);
  EXPECT_NE(w.reached(IommufdWorld::a0, 0), "blocked");
  EXPECT_EQ(*w.attach(fd, ioas), hwpt);
  const u32 other = w.ioas(iommufd);
  EXPECT_NE(*w.attach(fd, other), hwpt) << "replaced in place";
  ASSERT_TRUE(w.detach(fd));
  EXPECT_EQ(w.reached(IommufdWorld::a0, 0), "blocked");
  // An answer that cannot be written undoes a first attachment.
  cmd.argsz = sizeof(cmd);
  cmd.pt_id = ioas;
  const UserAddr at = w.task.put(cmd);
  w.task.set_writable(at, false);
  EXPECT_EQ(error_of(w.task.files.at(fd)->ioctl(w.task, uapi::kVfioDeviceAttachIommufdPt, at)), Errno::Efault);
  EXPECT_EQ(w.reached(IommufdWorld::a0, 0), "blocked");
}

// --- what there is -------------------------------------------------------------------------------------------------

TEST_F(VfioTest, InfoByArgsz) {
  bind();
  uapi::VfioDeviceInfo info{};
  info.argsz = 15;
  EXPECT_EQ(error(uapi::kVfioDeviceGetInfo, info), Errno::Einval);
  info.argsz = 16;
  info.cap_offset = 77;
  ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceGetInfo, info));
  EXPECT_EQ(info.flags, uapi::vfio_device::kFlagPci | uapi::vfio_device::kFlagReset);
  EXPECT_EQ(info.num_regions, 9u);
  EXPECT_EQ(info.num_irqs, 5u);
  EXPECT_EQ(info.cap_offset, 77u) << "beyond what the caller has";
  info.argsz = 1000;
  EXPECT_TRUE(w.call(fd, uapi::kVfioDeviceGetInfo, info)) << "longer is fine";
}

TEST_F(VfioTest, Regions) {
  bind();
  struct Expected {
    u32 index;
    u64 size;
    u32 flags;
  };
  constexpr u32 kRw = 3, kMap = 4, kCaps = 8;
  const Expected all[] = {{0, 0x10000, kRw | kMap},
                          {1, 0, 0},
                          {2, 0x1000, kRw | kMap | kCaps},
                          {3, 16, kRw},
                          {4, 0, 0},
                          {5, 0, 0},
                          {6, 0, 0},
                          {7, 4096, kRw}};
  for (const Expected& e : all) {
    uapi::VfioRegionInfo info{};
    info.argsz = sizeof(info);
    info.index = e.index;
    ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceGetRegionInfo, info)) << e.index;
    EXPECT_EQ(info.size, e.size) << e.index;
    EXPECT_EQ(info.flags, e.flags) << e.index;
    EXPECT_EQ(info.offset, w.region(e.index));
    EXPECT_EQ(info.argsz, e.index == 2 ? 40u : 32u);
    EXPECT_EQ(info.cap_offset, 0u) << "no room";
  }
  uapi::VfioRegionInfo info{};
  info.argsz = 31;
  EXPECT_EQ(error(uapi::kVfioDeviceGetRegionInfo, info), Errno::Einval);
  info.argsz = 32;
  for (const u32 index : {8u, 9u, ~0u}) {
    info.index = index;
    EXPECT_EQ(error(uapi::kVfioDeviceGetRegionInfo, info), Errno::Einval) << index;
  }
  struct {
    uapi::VfioRegionInfo info;
    uapi::VfioCapHeader cap;
  } whole{};
  whole.info.argsz = sizeof(whole);
  whole.info.index = 2;
  ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceGetRegionInfo, whole));
  EXPECT_EQ(whole.info.cap_offset, 32u);
  EXPECT_EQ(whole.cap.id, uapi::vfio_region::kCapMsixMappable);
  EXPECT_EQ(whole.cap.next, 0u);
}

TEST_F(VfioTest, BarAccessIsSplitIntoNaturalPieces) {
  bind();
  hw().accesses.clear();
  const UserAddr at = w.task.allocate(64);
  File& file = *w.task.files.at(fd);
  EXPECT_EQ(*file.read(w.task, at, 21, w.region(0) + 1), 21u);
  EXPECT_EQ(hw().accesses, (std::vector<std::string>{"r1 0:1", "r2 0:2", "r4 0:4", "r8 0:8", "r4 0:16", "r2 0:20"}));
  hw().accesses.clear();
  EXPECT_EQ(*file.write(w.task, at, 8, w.region(0) + 16), 8u);
  EXPECT_EQ(hw().accesses, (std::vector<std::string>{"w8 0:16"}));
  ASSERT_TRUE(w.write<u32>(fd, 0, 0x20, 0x12345678));
  EXPECT_EQ(*w.read<u32>(fd, 0, 0x20), 0x12345678u);
  // Clipped at the end; nothing behind it.
  EXPECT_EQ(*file.read(w.task, at, 64, w.region(3) + 12), 4u);
  EXPECT_EQ(error_of(file.read(w.task, at, 4, w.region(3) + 16)), Errno::Einval);
  EXPECT_EQ(*file.read(w.task, at, 0, w.region(3) + 16), 0u);
  for (const u32 none : {1u, 4u, 5u, 6u, 8u}) {
    EXPECT_EQ(error_of(file.read(w.task, at, 4, w.region(none))), Errno::Einval) << none;
    EXPECT_EQ(error_of(file.write(w.task, at, 4, w.region(none))), Errno::Einval) << none;
  }
  EXPECT_EQ(error_of(file.read(w.task, at, 4, w.region(9))), Errno::Einval);
  EXPECT_EQ(error_of(file.read(w.task, at, 4, 0)), Errno::Einval);
  EXPECT_EQ(error_of(file.read(w.task, UserAddr(8), 4, w.region(0))), Errno::Efault);
  // Without decoding, and asleep.
  w.config_write<u16>(fd, 4, 0);
  EXPECT_EQ(error_of(file.read(w.task, at, 4, w.region(0))), Errno::Eio);
  EXPECT_EQ(error_of(file.write(w.task, at, 4, w.region(0))), Errno::Eio);
  w.config_write<u16>(fd, 4, 2);
  EXPECT_TRUE(file.read(w.task, at, 4, w.region(0)));
  w.config_write<u16>(fd, 0x44, 3);
  EXPECT_EQ(error_of(file.read(w.task, at, 4, w.region(0))), Errno::Eio);
  w.config_write<u16>(fd, 0x44, 0);
  EXPECT_TRUE(file.read(w.task, at, 4, w.region(0)));
}

TEST_F(VfioTest, TheVectorTableIsTheKernels) {
  bind();
  hw().accesses.clear();
  ASSERT_TRUE(w.write<u32>(fd, 2, 0x7fc, 0x11111111));
  ASSERT_TRUE(w.write<u32>(fd, 2, 0x800, 0x22222222));
  ASSERT_TRUE(w.write<u32>(fd, 2, 0x87c, 0x33333333));
  ASSERT_TRUE(w.write<u32>(fd, 2, 0x880, 0x44444444));
  EXPECT_EQ(hw().accesses, (std::vector<std::string>{"w4 2:2044", "w4 2:2176"}));
  EXPECT_EQ(*w.read<u32>(fd, 2, 0x7fc), 0x11111111u);
  EXPECT_EQ(*w.read<u32>(fd, 2, 0x800), ~0u);
  EXPECT_EQ(*w.read<u64>(fd, 2, 0x878), ~u64{0});
  EXPECT_EQ(*w.read<u32>(fd, 2, 0x880), 0x44444444u);
}

TEST_F(VfioTest, MmapLeadsToRegisters) {
  bind();
  File& file = *w.task.files.at(fd);
  const Result<MapTarget> whole = file.mmap(w.task, w.region(0), 0x10000, Access::ReadWrite);
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->kind, MapTarget::Kind::Registers);
  EXPECT_EQ(whole->base, Phys(hw().bar0));
  EXPECT_EQ(whole->length, 0x10000u);
  EXPECT_EQ(file.mmap(w.task, w.region(0) + 0xf000, 0x1000, Access::Read)->base, Phys(hw().bar0 + 0xf000));
  EXPECT_TRUE(file.mmap(w.task, w.region(2), 0x1000, Access::Read)) << "with the vector table";
  for (const auto& [at, length] : {std::pair<u64, u64>{w.region(0), 0x11000},
                                   {w.region(0) + 0x10000, 0x1000},
                                   {w.region(0) + 8, 0x1000},
                                   {w.region(0), 0},
                                   {w.region(3), 0x1000},
                                   {w.region(1), 0x1000},
                                   {w.region(6), 0x1000},
                                   {w.region(7), 0x1000},
                                   {0, 0x1000}}) {
    EXPECT_EQ(error_of(file.mmap(w.task, at, length, Access::Read)), Errno::Einval) << at << " " << length;
  }
}

// Where nobody can carry out what it does to mapped registers, a program is told that there are none to map.
TEST_F(VfioTest, RegistersAreMappedOnlyWhereTheyCanBeTrapped) {
  bind();
  w.task.traps = false;
  uapi::VfioRegionInfo info{};
  for (const u32 index : {0u, 2u}) {
    info = {};
    info.argsz = sizeof(info);
    info.index = index;
    ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceGetRegionInfo, info));
    EXPECT_EQ(info.flags, 3u) << index;
    EXPECT_EQ(info.argsz, 32u) << "nor a capability that is about mapping";
  }
  EXPECT_EQ(error_of(w.task.files.at(fd)->mmap(w.task, w.region(0), 0x1000, Access::Read)), Errno::Einval);
}

// A region of memory begins below all regions of registers: a file with an end between them has pages for it alone.
TEST_F(VfioTest, PrefetchableBarsAreMemory) {
  w.hw_c.set<u32>(0x10, 0x0000000c);
  w.hw_c.bar0 = u64{0x13} << 32;
  w.hw_c.set<u32>(0x14, 0x13);
  w.add_bus();
  fd = w.open_device(2);
  bind();
  for (const bool traps : {true, false}) {
    w.task.traps = traps;
    uapi::VfioRegionInfo info{};
    info.argsz = sizeof(info);
    ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceGetRegionInfo, info));
    EXPECT_EQ(info.size, FakeFunction::kBar0Bytes);
    EXPECT_EQ(info.flags, 7u);
    ASSERT_EQ(info.offset, u64{1} << 60);
    File& file = *w.task.files.at(fd);
    const Result<MapTarget> target = file.mmap(w.task, info.offset + 0x2000, 0x1000, Access::ReadWrite);
    ASSERT_TRUE(target);
    EXPECT_EQ(target->kind, MapTarget::Kind::Memory);
    EXPECT_EQ(target->base, Phys(w.hw_c.bar0 + 0x2000));
    EXPECT_EQ(error_of(file.mmap(w.task, w.region(0), 0x1000, Access::Read)), Errno::Einval);
    const UserAddr at = w.task.put(u64{0x1122});
    EXPECT_EQ(*file.write(w.task, at, 8, info.offset + 0x10), 8u);
    EXPECT_EQ(*file.read(w.task, at, 8, info.offset + 0x10), 8u);
    EXPECT_EQ(error_of(file.read(w.task, at, 8, w.region(0) + 0x10)), Errno::Einval);
    EXPECT_EQ(error_of(file.read(w.task, at, 4, (u64{1} << 60) + (u64{7} << 40))), Errno::Einval);
    EXPECT_EQ(error_of(file.read(w.task, at, 4, (u64{1} << 60) - 4)), Errno::Einval);
  }
}

// --- configuration space ---------------------------------------------------------------------------------------------

TEST_F(VfioTest, ConfigBounds) {
  bind();
  const UserAddr at = w.task.allocate(8192);
  File& file = *w.task.files.at(fd);
  EXPECT_EQ(*file.read(w.task, at, 4096, w.region(7)), 4096u);
  EXPECT_EQ(w.task.peek<u32>(at), 0x10011234u);
  EXPECT_EQ(error_of(file.read(w.task, at, 4097, w.region(7))), Errno::Efault);
  EXPECT_EQ(error_of(file.read(w.task, at, 2, w.region(7) + 4095)), Errno::Efault);
  EXPECT_EQ(error_of(file.read(w.task, at, 1, w.region(7) + 4096)), Errno::Efault);
  EXPECT_EQ(error_of(file.write(w.task, at, 2, w.region(7) + 4095)), Errno::Efault);
  // Any piece of it is the same bytes.
  for (const u64 start : {u64{0}, u64{1}, u64{3}, u64{0x3f}, u64{0x50}, u64{0x101}}) {
    for (const usize bytes : {1, 2, 3, 5, 17}) {
      const UserAddr part = w.task.allocate(bytes);
      ASSERT_EQ(*file.read(w.task, part, bytes, w.region(7) + start), bytes);
      for (usize i = 0; i < bytes; ++i) {
        EXPECT_EQ(w.task.peek<u8>(part + i), w.task.peek<u8>(at + start + i)) << start << "+" << i;
      }
    }
  }
}

TEST_F(VfioTest, FixedAndVirtualHeaderFields) {
  bind();
  const auto before = hw().config;
  hw().writes.clear();
  for (const u16 fixed : {u16{0x00}, u16{0x02}, u16{0x06}, u16{0x08}, u16{0x0a}, u16{0x2c}, u16{0x2e}, u16{0x34}}) {
    w.config_write<u16>(fd, fixed, 0xffff);
  }
  w.config_write<u8>(fd, 0x0e, 0xff);
  w.config_write<u8>(fd, 0x3d, 0xff);
  EXPECT_TRUE(hw().writes.empty()) << hw().writes.front().offset;
  EXPECT_EQ(hw().config, before);
  w.config_write<u16>(fd, 0x0c, 0x4020);
  EXPECT_EQ(hw().get<u16>(0x0c), 0x4020) << "cache line and latency are the device's";
  EXPECT_EQ(w.config_read<u16>(fd, 0x3c), 0x000b) << "a line, but no pin";
  w.config_write<u8>(fd, 0x3c, 0x55);
  EXPECT_EQ(w.config_read<u8>(fd, 0x3c), 0x55);
  EXPECT_EQ(hw().config[0x3c], 0x0b);
  // Interrupt disable is remembered here, the rest goes to the device.
  w.config_write<u16>(fd, 0x04, 0x0406);
  EXPECT_EQ(w.config_read<u16>(fd, 0x04), 0x0406);
  EXPECT_EQ(hw().get<u16>(0x04), 0x0006);
}

TEST_F(VfioTest, BarsCanBeSizedAndNeverMove) {
  bind();
  const auto size_of = [&](u16 at) {
    const u32 before = w.config_read<u32>(fd, at);
    w.config_write<u32>(fd, at, ~0u);
    const u32 mask = w.config_read<u32>(fd, at);
    w.config_write<u32>(fd, at, before);
    EXPECT_EQ(w.config_read<u32>(fd, at), before) << at;
    return mask;
  };
  hw().writes.clear();
  EXPECT_EQ(size_of(0x10), 0xffff0004u);
  EXPECT_EQ(size_of(0x14), 0xffffffffu);
  EXPECT_EQ(size_of(0x18), 0xfffff000u);
  EXPECT_EQ(size_of(0x1c), 0xfffffff0u);
  EXPECT_EQ(size_of(0x24), 0u);
  EXPECT_EQ(size_of(0x30), 0u) << "no ROM";
  w.config_write<u8>(fd, 0x13, 0x77);
  EXPECT_EQ(w.config_read<u32>(fd, 0x10), 0x77000004u) << "byte by byte";
  for (const auto& write : hw().writes) EXPECT_TRUE(write.offset < 0x10 || write.offset > 0x30) << write.offset;
}

TEST_F(VfioTest, CapabilityListsLeaveOutWhatIsNotForPrograms) {
  bind();
  std::vector<u8> seen;
  for (u8 at = w.config_read<u8>(fd, 0x34); at != 0; at = w.config_read<u8>(fd, at + 1u)) {
    ASSERT_LT(seen.size(), 10u);
    seen.push_back(w.config_read<u8>(fd, at));
  }
  EXPECT_EQ(seen, (std::vector<u8>{0x01, 0x05, 0x11, 0x10, 0x09}));
  std::vector<u16> extended;
  for (u16 at = 0x100; at != 0; at = static_cast<u16>(w.config_read<u32>(fd, at) >> 20)) {
    ASSERT_LT(extended.size(), 10u);
    extended.push_back(w.config_read<u16>(fd, at));
  }
  EXPECT_EQ(extended, (std::vector<u16>{0x0000, 0x0001, 0x000b}));
}

TEST_F(VfioTest, WhoMayWriteWhatInCapabilities) {
  bind();
  EXPECT_EQ(w.config_read<u16>(fd, 0x42) & 0xf800, 0) << "no power management events";
  EXPECT_EQ(w.config_read<u16>(fd, 0x44) & 0x8100, 0);
  hw().writes.clear();
  w.config_write<u16>(fd, 0x72, 0x8000);  // MSI-X
  w.config_write<u32>(fd, 0x74, 0);
  w.config_write<u32>(fd, 0x84, 0);   // Express capabilities
  w.config_write<u32>(fd, 0x140, 0);  // header of error reporting
  w.config_write<u32>(fd, 0x100, 0);  // hidden
  w.config_write<u32>(fd, 0xd0, 0);   // hidden
  w.config_write<u16>(fd, 0xc0, 0);   // header of the vendor's
  EXPECT_TRUE(hw().writes.empty()) << hw().writes.front().offset;
  w.config_write<u32>(fd, 0xc4, 0xabcd);   // the vendor's own
  w.config_write<u8>(fd, 0x1a1, 0x5a);     // in no capability
  w.config_write<u16>(fd, 0x148, 0x1010);  // error mask
  w.config_write<u32>(fd, 0x194, 0x77);
  EXPECT_EQ(hw().get<u32>(0xc4), 0xabcdu);
  EXPECT_EQ(hw().config[0x1a1], 0x5a);
  EXPECT_EQ(hw().get<u16>(0x148), 0x1010);
  EXPECT_EQ(hw().get<u32>(0x194), 0x77u);
  // Device control: sizes are the program's, phantom functions nobody's, the rest the device's.
  const u16 before = hw().get<u16>(0x88);
  w.config_write<u16>(fd, 0x88, 0x52ef);
  EXPECT_EQ(w.config_read<u16>(fd, 0x88) & 0x70e0, 0x50e0);
  EXPECT_EQ(hw().get<u16>(0x88) & 0x72e0, before & 0x72e0);
  EXPECT_EQ(hw().get<u16>(0x88) & 0x000f, 0x000f);
  w.config_write<u16>(fd, 0xa8, 0x0021);
  EXPECT_EQ(hw().get<u16>(0xa8), 0x0001) << "not ARI";
}

TEST_F(VfioTest, ResetByIoctlAndByConfigSpace) {
  bind();
  const unsigned resets = hw().resets;
  const auto e = w.event();
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 0, 1, {e.fd}));
  w.config_write<u16>(fd, 4, 6);
  ASSERT_TRUE(w.task.files.at(fd)->ioctl(w.task, uapi::kVfioDeviceReset, UserAddr(0)));
  EXPECT_EQ(hw().resets, resets + 1);
  EXPECT_EQ(hw().get<u16>(0x04) & 6, 2) << "bus mastering off, decoding as before";
  w.send_msix(hw(), 0);
  EXPECT_EQ(e.host->count, 1u) << "eventfds stay connected";
  w.config_write<u16>(fd, 0x88, 0x8000);
  EXPECT_EQ(hw().resets, resets + 2);
  EXPECT_EQ(w.config_read<u16>(fd, 0x88) & 0x8000, 0);
  // A device that cannot be reset says so from the start.
  hw().set<u32>(0x84, 0x8000);
  w.task.close(fd);
  fd = w.open_device();
  bind();
  EXPECT_EQ(error_of(w.task.files.at(fd)->ioctl(w.task, uapi::kVfioDeviceReset, UserAddr(0))), Errno::Einval);
  uapi::VfioDeviceInfo info{};
  info.argsz = 16;
  ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceGetInfo, info));
  EXPECT_EQ(info.flags, uapi::vfio_device::kFlagPci);
  w.config_write<u16>(fd, 4, 6);
  w.task.close(fd);
  EXPECT_EQ(hw().get<u16>(0x04) & 4, 0) << "off the bus without a reset, too";
  fd = w.open_device();
}

// --- interrupts --------------------------------------------------------------------------------------------------

TEST_F(VfioTest, IrqInfo) {
  bind();
  const std::pair<u32, u32> expected[] = {{0, 7}, {4, 9}, {8, 1}, {1, 9}, {1, 9}};  // count, flags
  for (u32 index = 0; index < 5; ++index) {
    uapi::VfioIrqInfo info{};
    info.argsz = sizeof(info);
    info.index = index;
    ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceGetIrqInfo, info));
    EXPECT_EQ(info.count, expected[index].first) << index;
    EXPECT_EQ(info.flags, expected[index].second) << index;
  }
  uapi::VfioIrqInfo info{};
  info.argsz = 15;
  EXPECT_EQ(error(uapi::kVfioDeviceGetIrqInfo, info), Errno::Einval);
  info.argsz = 16;
  info.index = 5;
  EXPECT_EQ(error(uapi::kVfioDeviceGetIrqInfo, info), Errno::Einval);
}

TEST_F(VfioTest, SetIrqsIsValidatedWhole) {
  bind();
  const auto e = w.event();
  uapi::VfioIrqSet set{19, kDataNone | kActionTrigger, kMsix, 0, 0};
  EXPECT_EQ(error(uapi::kVfioDeviceSetIrqs, set), Errno::Einval);
  set.argsz = 20;
  const auto with = [&](auto change) {
    uapi::VfioIrqSet changed = set;
    change(changed);
    return error(uapi::kVfioDeviceSetIrqs, changed);
  };
  EXPECT_EQ(with([](auto& s) { s.index = 5; }), Errno::Einval);
  EXPECT_EQ(with([](auto& s) { s.count = ~0u; }), Errno::Einval);
  EXPECT_EQ(with([](auto& s) { s.flags |= 0x40; }), Errno::Einval);
  EXPECT_EQ(with([](auto& s) { s.start = 8; }), Errno::Einval);
  EXPECT_EQ(with([](auto& s) { s.start = 1, s.count = 8; }), Errno::Einval);
  EXPECT_EQ(with([](auto& s) { s.index = kIntx; }), Errno::Einval) << "no vectors: not even to disable";
  EXPECT_EQ(with([](auto& s) { s.flags = kActionTrigger; }), Errno::Einval) << "no data type";
  EXPECT_EQ(with([](auto& s) { s.flags = kActionTrigger | kDataNone | kDataBool; }), Errno::Einval);
  EXPECT_EQ(with([](auto& s) { s.flags = kActionTrigger | kDataEventfd, s.count = 1; }), Errno::Einval) << "no data";
  EXPECT_EQ(with([](auto& s) { s.flags = kDataNone; }), Errno::Enotty) << "no action";
  EXPECT_EQ(with([](auto& s) { s.flags = kDataNone | kActionMask; }), Errno::Enotty);
  EXPECT_EQ(with([](auto& s) { s.flags = kDataNone | kActionMask | kActionTrigger; }), Errno::Enotty);
  EXPECT_EQ(error(uapi::kVfioDeviceSetIrqs, set), Errno::Einval) << "disable what is not enabled";
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataNone | kActionTrigger, kMsix, 0, 1)), Errno::Einval) << "trigger, likewise";
}

TEST_F(VfioTest, MsixVectorsComeAndGoOneByOne) {
  bind();
  auto a = w.event(), b = w.event(), c = w.event();
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 1, 2, {a.fd, b.fd}));
  EXPECT_EQ(w.irqs.size(), 2u);
  for (unsigned i = 0; i < 8; ++i) EXPECT_EQ(hw().msix_masked(i), i != 1 && i != 2) << i;
  w.send_msix(hw(), 1);
  w.send_msix(hw(), 2);
  w.send_msix(hw(), 2);
  EXPECT_EQ(a.host->count, 1u);
  EXPECT_EQ(b.host->count, 2u);
  // Beyond what was enabled first; one replaced, one removed.
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 5, 1, {c.fd}));
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 1, 2, {c.fd, -1}));
  w.send_msix(hw(), 1);
  w.send_msix(hw(), 2);
  w.send_msix(hw(), 5);
  EXPECT_EQ(c.host->count, 2u);
  EXPECT_EQ(b.host->count, 2u);
  EXPECT_TRUE(hw().msix_masked(2));
  EXPECT_EQ(w.irqs.size(), 2u);
  // Loopback; a vector without eventfd is skipped.
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionTrigger, kMsix, 0, 8));
  EXPECT_EQ(c.host->count, 4u);
  ASSERT_TRUE(w.set_irqs<u8>(fd, kDataBool | kActionTrigger, kMsix, 4, 2, {1, 0}));
  EXPECT_EQ(c.host->count, 4u);
  ASSERT_TRUE(w.set_irqs<u8>(fd, kDataBool | kActionTrigger, kMsix, 4, 2, {0, 1}));
  EXPECT_EQ(c.host->count, 5u);
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsi, 0, 1, {a.fd})), Errno::Einval) << "other mode";
  // The program closes its eventfd: the device keeps its own reference.
  w.task.close(c.fd);
  w.send_msix(hw(), 5);
  EXPECT_EQ(c.host->count, 6u);
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionTrigger, kMsix, 0, 0));
  EXPECT_TRUE(w.irqs.empty());
  EXPECT_EQ(hw().get<u16>(0x72) & 0x8000, 0);
  EXPECT_EQ(c.host->ref_count(), 2u) << "the test's and the world's";
}

TEST_F(VfioTest, ABadEventfdEndsTheCallWhereItStands) {
  bind();
  const auto a = w.event(), b = w.event();
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 0, 2, {a.fd, 99})), Errno::Ebadf);
  EXPECT_TRUE(w.irqs.empty());
  EXPECT_EQ(hw().get<u16>(0x72) & 0x8000, 0) << "this call had enabled it";
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 0, 1, {iommufd})), Errno::Einval);
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 0, 4, {a.fd, a.fd, a.fd, b.fd}));
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 0, 3, {b.fd, -2, b.fd})), Errno::Ebadf);
  // Vectors 0 and 1 were handled and are gone; 2 was not reached, 3 not named.
  w.send_msix(hw(), 0);
  w.send_msix(hw(), 1);
  EXPECT_EQ(a.host->count + b.host->count, 0u);
  w.send_msix(hw(), 2);
  w.send_msix(hw(), 3);
  EXPECT_EQ(a.host->count, 1u);
  EXPECT_EQ(b.host->count, 1u);
  EXPECT_NE(hw().get<u16>(0x72) & 0x8000, 0);
}

TEST_F(VfioTest, MsiVectorsAreOneRun) {
  bind();
  const auto a = w.event(), b = w.event(), c = w.event();
  EXPECT_EQ(w.config_read<u16>(fd, 0x52) & 0x0f, 0) << "nothing is enabled";
  w.config_write<u16>(fd, 0x52, 0x0001);
  EXPECT_EQ(w.config_read<u16>(fd, 0x52) & 1, 0) << "does not stick before";
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsi, 0, 3, {a.fd, b.fd, c.fd}));
  EXPECT_EQ(hw().get<u16>(0x52) & 0x71, 0x21) << "four, enabled";
  EXPECT_EQ(w.config_read<u16>(fd, 0x52) & 0x0f, 0x05) << "four can be had, enabled";
  w.send_msi(hw(), 0);
  w.send_msi(hw(), 2);
  w.send_msi(hw(), 3);
  EXPECT_EQ(a.host->count, 1u);
  EXPECT_EQ(b.host->count, 0u);
  EXPECT_EQ(c.host->count, 1u);
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsi, 3, 1, {a.fd})), Errno::Einval)
      << "cannot grow";
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsi, 2, 1, {-1}));
  w.send_msi(hw(), 2);
  EXPECT_EQ(c.host->count, 1u);
  // What the program writes to addresses stays in its own view.
  w.config_write<u32>(fd, 0x54, 0xdeadbee0);
  EXPECT_EQ(w.config_read<u32>(fd, 0x54), 0xdeadbee0u);
  EXPECT_EQ(hw().get<u32>(0x54), 0xfee00000u);
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionTrigger, kMsi, 0, 0));
  EXPECT_TRUE(w.irqs.empty());
  EXPECT_EQ(hw().get<u16>(0x52) & 1, 0);
  // Something else sits in the middle of the run.
  w.irqs[66] = nullptr;
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsi, 0, 4, {a.fd, a.fd, a.fd, a.fd})),
            Errno::Enospc);
  EXPECT_EQ(w.irqs.size(), 1u);
  EXPECT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsi, 0, 2, {a.fd, a.fd}));
}

TEST_F(VfioTest, ErrorAndRequestEvents) {
  bind();
  const auto e = w.event();
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataNone | kActionTrigger, kReq, 0, 0)), Errno::Einval) << "nothing set";
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kReq, 0, 1, {e.fd}));
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionTrigger, kReq, 0, 1));
  ASSERT_TRUE(w.set_irqs<u8>(fd, kDataBool | kActionTrigger, kReq, 0, 1, {0}));
  ASSERT_TRUE(w.set_irqs<u8>(fd, kDataBool | kActionTrigger, kReq, 0, 1, {1}));
  EXPECT_EQ(e.host->count, 2u);
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kErr, 0, 1, {e.fd}));
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionTrigger, kErr, 0, 0));
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataNone | kActionTrigger, kErr, 0, 0)), Errno::Einval);
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionTrigger, kErr, 0, 1, {99})), Errno::Ebadf);
}

TEST_F(VfioTest, EveryFailingAllocationOfInterruptsIsUndone) {
  bind();
  const auto a = w.event();
  for (const u32 index : {u32{kMsi}, u32{kMsix}}) {
    for (u64 n = 1;; ++n) {
      const Result<void> done = w.machine().counting.failing(
          n, [&] { return w.set_irqs(fd, kDataEventfd | kActionTrigger, index, 0, 4, {a.fd, a.fd, a.fd, a.fd}); });
      if (done) break;
      ASSERT_TRUE(w.irqs.empty()) << n;
      ASSERT_EQ(hw().get<u16>(0x72) & 0x8000, 0) << n;
      ASSERT_EQ(hw().get<u16>(0x52) & 1, 0) << n;
      ASSERT_LT(n, 100u);
    }
    EXPECT_EQ(w.irqs.size(), 4u);
    ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionTrigger, index, 0, 0));
  }
}

TEST_F(VfioTest, FeaturesAndHotReset) {
  bind();
  uapi::VfioFeature cmd{7, 0};
  EXPECT_EQ(error(uapi::kVfioDeviceFeature, cmd), Errno::Einval);
  cmd = {8, 1u << 19};
  EXPECT_EQ(error(uapi::kVfioDeviceFeature, cmd), Errno::Einval);
  cmd = {8, uapi::vfio_feature::kGet | uapi::vfio_feature::kSet};
  EXPECT_EQ(error(uapi::kVfioDeviceFeature, cmd), Errno::Einval);
  cmd = {8, uapi::vfio_feature::kProbe | 1};
  EXPECT_EQ(error(uapi::kVfioDeviceFeature, cmd), Errno::Enotty);
  std::array<u32, 3> reset{11, 0, 0};
  EXPECT_EQ(error(uapi::kVfioDeviceGetPciHotResetInfo, reset), Errno::Einval);
  reset[0] = 12;
  EXPECT_EQ(error(uapi::kVfioDeviceGetPciHotResetInfo, reset), Errno::Enodev);
}

}  // namespace
}  // namespace perdure::testing
