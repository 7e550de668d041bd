// What a device's file offers beside registers and message-signalled interrupts: its interrupt pin, sleep, doorbells by
// eventfd, resets of its whole bus, tokens of virtual functions (uapi §3.5, §3.7, §3.8).
#include "core/vfio/testing/vfio_update.h"

namespace perdure::testing {
namespace {

namespace feat = uapi::vfio_feature;

class DeviceTest : public ::testing::Test {
 protected:
  void bind() { ASSERT_TRUE(w.bind_device(fd, iommufd)); }
  // A header, and what follows it.
  template <class T>
  Errno feature(u32 flags, T data, u32 argsz = 8 + sizeof(T)) {
    struct {
      uapi::VfioFeature head;
      T data;
    } cmd{{argsz, flags}, data};
    return error_of(w.call(fd, uapi::kVfioDeviceFeature, cmd));
  }
  Errno feature(u32 flags) {
    uapi::VfioFeature cmd{8, flags};
    return error_of(w.call(fd, uapi::kVfioDeviceFeature, cmd));
  }
  static constexpr Errno kOk{};

  VfioWorld w;
  s32 iommufd = w.open();
  s32 fd = w.open_device();
};

// --- INTx ---------------------------------------------------------------------------------------------------------

class IntxTest : public DeviceTest {
 protected:
  IntxTest() { w.wired = true; }
  Result<void> trigger(const std::vector<s32>& events) {
    return w.set_irqs(fd, kDataEventfd | kActionTrigger, kIntx, 0, static_cast<u32>(events.size()), events);
  }
};

TEST_F(IntxTest, APinThatLeadsSomewhereIsShown) {
  bind();
  uapi::VfioIrqInfo info{.argsz = sizeof(info), .flags = 0, .index = kIntx, .count = 0};
  ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceGetIrqInfo, info));
  EXPECT_EQ(info.count, 1u);
  EXPECT_EQ(info.flags, 7u);
  EXPECT_EQ(w.config_read<u16>(fd, 0x3c), 0x010bu);
  w.config_write<u8>(fd, 0x3d, 2);
  EXPECT_EQ(w.config_read<u8>(fd, 0x3d), 1u);
}

TEST_F(IntxTest, ChecksInOrder) {
  bind();
  const auto e = w.event();
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataNone | kActionTrigger, kIntx, 0, 0)), Errno::Einval) << "not on";
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataNone | kActionTrigger, kIntx, 0, 1)), Errno::Einval);
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataNone | kActionMask, kIntx, 0, 1)), Errno::Einval);
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataNone | kActionUnmask, kIntx, 0, 1)), Errno::Einval);
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataNone | kActionMask | kActionUnmask, kIntx, 0, 1)), Errno::Enotty);
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionTrigger, kIntx, 0, 0)), Errno::Einval);
  EXPECT_EQ(error_of(trigger({99})), Errno::Ebadf);
  EXPECT_EQ(error_of(trigger({iommufd})), Errno::Einval);
  ASSERT_TRUE(trigger({e.fd}));
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionMask, kIntx, 0, 1, {e.fd})), Errno::Enotty);
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataNone | kActionMask, kIntx, 0, 0)), Errno::Einval) << "none of it";
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 0, 1, {e.fd})), Errno::Einval)
      << "one way at a time";
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionTrigger, kIntx, 0, 0));
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 0, 1, {e.fd}));
  EXPECT_EQ(error_of(trigger({e.fd})), Errno::Einval);
}

TEST_F(IntxTest, MasksItselfUntilItIsUnmasked) {
  bind();
  const auto e = w.event();
  ASSERT_TRUE(trigger({e.fd}));
  w.drive_line(true);
  w.drive_line(true);
  EXPECT_EQ(e.host->count, 1u);
  EXPECT_TRUE(w.line_masked);
  // Still asserted: it interrupts again at once.
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionUnmask, kIntx, 0, 1));
  EXPECT_EQ(e.host->count, 2u);
  w.drive_line(false);
  ASSERT_TRUE(w.set_irqs<u8>(fd, kDataBool | kActionUnmask, kIntx, 0, 1, {0}));
  EXPECT_TRUE(w.line_masked) << "not chosen";
  ASSERT_TRUE(w.set_irqs<u8>(fd, kDataBool | kActionUnmask, kIntx, 0, 1, {1}));
  EXPECT_FALSE(w.line_masked);
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionMask, kIntx, 0, 1));
  w.drive_line(true);
  EXPECT_EQ(e.host->count, 2u);
  // By loopback it comes masked or not.
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionTrigger, kIntx, 0, 1));
  ASSERT_TRUE(w.set_irqs<u8>(fd, kDataBool | kActionTrigger, kIntx, 0, 1, {0}));
  EXPECT_EQ(e.host->count, 3u);
  w.task.close(fd);
  EXPECT_EQ(w.line_sink, nullptr);
  fd = w.open_device();
}

TEST_F(IntxTest, StaysOnWithoutAnEvent) {
  bind();
  const auto a = w.event(), b = w.event();
  ASSERT_TRUE(trigger({a.fd}));
  ASSERT_TRUE(trigger({-1}));
  EXPECT_EQ(a.host->ref_count(), 3u) << "the world's, the test's, and the descriptor's";
  w.drive_line(true);
  EXPECT_EQ(a.host->count, 0u);
  ASSERT_TRUE(trigger({b.fd}));
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionUnmask, kIntx, 0, 1));
  EXPECT_EQ(b.host->count, 1u);
}

TEST_F(IntxTest, UnmaskedByAnEvent) {
  bind();
  const auto e = w.event(), resample = w.event();
  ASSERT_TRUE(trigger({e.fd}));
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionUnmask, kIntx, 0, 1, {resample.fd}));
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionUnmask, kIntx, 0, 1, {resample.fd})), Errno::Ebusy);
  w.drive_line(true);
  w.drive_line(false);
  w.vfio->service();
  EXPECT_TRUE(w.line_masked);
  resample.host->rung = 1;
  w.vfio->service();
  EXPECT_FALSE(w.line_masked);
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionUnmask, kIntx, 0, 1, {-1}));
  w.drive_line(true);
  resample.host->rung = 1;
  w.vfio->service();
  EXPECT_TRUE(w.line_masked);
}

TEST_F(IntxTest, TheDisableBitIsAMask) {
  bind();
  const auto e = w.event();
  w.config_write<u16>(fd, 4, 0x0402);
  ASSERT_TRUE(trigger({e.fd}));
  w.drive_line(true);
  EXPECT_EQ(e.host->count, 0u);
  EXPECT_EQ(w.hw_a.get<u16>(4) & 0x400, 0) << "the device does not know";
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionUnmask, kIntx, 0, 1));
  EXPECT_EQ(e.host->count, 0u) << "disabled is stronger";
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionTrigger, kIntx, 0, 1));
  EXPECT_EQ(e.host->count, 0u) << "than loopback, too";
  w.config_write<u16>(fd, 4, 0x0002);
  EXPECT_EQ(e.host->count, 1u);
}

TEST_F(IntxTest, ALineThatSomebodyHasIsBusy) {
  bind();
  const auto e = w.event();
  struct Other final : IrqSink {
    void raise() override {}
  } other;
  ASSERT_TRUE(w.line_connect({0, a0.bdf, 1}, other));
  EXPECT_EQ(error_of(trigger({e.fd})), Errno::Ebusy);
  w.line_disconnect({0, a0.bdf, 1});
  EXPECT_TRUE(trigger({e.fd}));
}

// --- features -------------------------------------------------------------------------------------------------------

TEST_F(DeviceTest, FeaturesByIndex) {
  bind();
  uapi::VfioFeature cmd{7, 0};
  EXPECT_EQ(error_of(w.ioctl(fd, uapi::kVfioDeviceFeature, UserAddr(8))), Errno::Efault);
  EXPECT_EQ(error_of(w.call(fd, uapi::kVfioDeviceFeature, cmd)), Errno::Einval);
  EXPECT_EQ(feature(1u << 19 | feat::kLowPowerExit | feat::kSet), Errno::Einval);
  EXPECT_EQ(feature(feat::kGet | feat::kSet | feat::kLowPowerExit), Errno::Einval);
  for (const u32 none : {0u, 1u, 2u, 6u, 7u, 8u, 9u, 10u, 12u, 13u, 14u, 0xffffu}) {
    for (const u32 how : {feat::kGet, feat::kSet, feat::kProbe, 0u}) {
      EXPECT_EQ(feature(how | none), Errno::Enotty) << none;
    }
  }
  EXPECT_EQ(feature(feat::kProbe | feat::kGet | feat::kDmaBuf), Errno::Eopnotsupp);
  for (const u32 sleep : {feat::kLowPowerEntry, feat::kLowPowerEntryWakeup, feat::kLowPowerExit}) {
    EXPECT_EQ(feature(feat::kProbe | sleep), kOk);
    EXPECT_EQ(feature(feat::kProbe | feat::kSet | sleep), kOk);
    EXPECT_EQ(feature(feat::kProbe | feat::kGet | sleep), Errno::Einval) << "not offered";
    EXPECT_EQ(feature(feat::kProbe | feat::kGet | feat::kSet | sleep), Errno::Einval);
    EXPECT_EQ(feature(feat::kGet | sleep), Errno::Einval);
    EXPECT_EQ(feature(sleep), Errno::Einval) << "asks for nothing";
  }
}

TEST_F(DeviceTest, Sleep) {
  bind();
  EXPECT_EQ(feature(feat::kSet | feat::kLowPowerExit), kOk) << "awake already";
  EXPECT_EQ(feature(feat::kSet | feat::kLowPowerEntry), kOk);
  EXPECT_EQ(feature(feat::kSet | feat::kLowPowerEntry), Errno::Einval) << "asleep already";
  const auto e = w.event();
  EXPECT_EQ(feature(feat::kSet | feat::kLowPowerEntryWakeup, uapi::VfioLowPowerWakeup{e.fd, 0}), Errno::Einval);
  EXPECT_EQ(w.config_read<u32>(fd, 0), 0x10011234u) << "an access wakes it for its time";
  EXPECT_EQ(feature(feat::kSet | feat::kLowPowerEntry), Errno::Einval);
  EXPECT_EQ(feature(feat::kSet | feat::kLowPowerExit), kOk);
  EXPECT_EQ(feature(feat::kSet | feat::kLowPowerEntry), kOk);
}

TEST_F(DeviceTest, SleepUntilItIsWoken) {
  bind();
  const auto e = w.event();
  EXPECT_EQ(feature(feat::kSet | feat::kLowPowerEntryWakeup), Errno::Einval) << "no event";
  EXPECT_EQ(feature(feat::kSet | feat::kLowPowerEntryWakeup, uapi::VfioLowPowerWakeup{-1, 0}), Errno::Einval);
  EXPECT_EQ(feature(feat::kSet | feat::kLowPowerEntryWakeup, uapi::VfioLowPowerWakeup{99, 0}), Errno::Ebadf);
  EXPECT_EQ(feature(feat::kSet | feat::kLowPowerEntryWakeup, uapi::VfioLowPowerWakeup{fd, 0}), Errno::Einval);
  const auto sleep = [&] {
    return feature(feat::kSet | feat::kLowPowerEntryWakeup, uapi::VfioLowPowerWakeup{e.fd, 0});
  };
  EXPECT_EQ(sleep(), kOk);
  EXPECT_EQ(e.host->count, 0u);
  EXPECT_EQ(w.config_read<u32>(fd, 0), 0x10011234u);
  EXPECT_EQ(e.host->count, 1u) << "an access of the program wakes it";
  EXPECT_EQ(w.config_read<u32>(fd, 0), 0x10011234u);
  EXPECT_EQ(e.host->count, 1u) << "once";
  EXPECT_EQ(sleep(), kOk);
  EXPECT_EQ(sleep(), kOk) << "this call woke it, and lets it sleep again";
  EXPECT_EQ(e.host->count, 2u);
  w.task.close(fd);
  EXPECT_EQ(e.host->count, 2u);
  fd = w.open_device();
}

// --- vital product data ---------------------------------------------------------------------------------------------

TEST_F(DeviceTest, VitalProductDataGoesThroughTheKernel) {
  w.hw_a.has_vpd = true;
  w.hw_a.power_on();
  w.hw_a.vpd[2] = 0x12345678;
  bind();
  w.hw_a.writes.clear();
  w.config_write<u8>(fd, 0xe2, 8);
  EXPECT_TRUE(w.hw_a.writes.empty()) << "half an address asks for nothing";
  w.config_write<u16>(fd, 0xe2, 8);
  EXPECT_EQ(w.config_read<u16>(fd, 0xe2), 0x8008u) << "done";
  EXPECT_EQ(w.config_read<u32>(fd, 0xe4), 0x12345678u);
  w.config_write<u32>(fd, 0xe4, 0xcafe);
  EXPECT_EQ(w.hw_a.vpd[3], 0u);
  w.config_write<u16>(fd, 0xe2, 0x800c);
  EXPECT_EQ(w.config_read<u16>(fd, 0xe2), 0x000cu) << "done";
  EXPECT_EQ(w.hw_a.vpd[3], 0xcafeu);
  w.config_write<u16>(fd, 0xe2, 6);
  EXPECT_EQ(w.config_read<u16>(fd, 0xe2), 0x0006u) << "never done: not a multiple of 4";
}

// --- doorbells
// --------------------------------------------------------------------------------------------------------

TEST_F(DeviceTest, DoorbellsAreJudgedInOrder) {
  bind();
  const auto e = w.event();
  EXPECT_EQ(error_of(w.ioctl(fd, uapi::kVfioDeviceIoeventfd, UserAddr(8))), Errno::Efault);
  const uapi::VfioIoeventfd good{
      .argsz = 28, .flags = 4, .offset = w.region(0) + 0x40, .data = 5, .fd = e.fd, .reserved = 0};
  const auto with = [&](auto change) {
    uapi::VfioIoeventfd cmd = good;
    change(cmd);
    return error_of(w.call(fd, uapi::kVfioDeviceIoeventfd, cmd));
  };
  EXPECT_EQ(with([](auto& c) { c.argsz = 27; }), Errno::Einval);
  for (const u32 width : {0u, 3u, 5u, 16u, 0x104u}) {
    EXPECT_EQ(with([&](auto& c) { c.flags = width; }), Errno::Einval) << width;
  }
  EXPECT_EQ(with([](auto& c) { c.fd = -2; }), Errno::Einval);
  for (const u32 region : {1u, 4u, 6u, 7u, 8u}) {
    EXPECT_EQ(with([&](auto& c) { c.offset = VfioWorld::region(region); }), Errno::Einval) << region;
  }
  EXPECT_EQ(with([](auto& c) { c.offset = VfioWorld::region(0) + 0xfffe; }), Errno::Einval) << "across the end";
  EXPECT_EQ(with([](auto& c) { c.offset = VfioWorld::region(2) + 0x87c; }), Errno::Einval) << "vectors";
  EXPECT_EQ(with([](auto& c) { c.fd = -1; }), Errno::Enodev) << "there is none to take away";
  EXPECT_EQ(with([](auto& c) { c.fd = 99; }), Errno::Ebadf);
  EXPECT_EQ(with([&](auto& c) { c.fd = iommufd; }), Errno::Einval);
  EXPECT_EQ(with([](auto&) {}), kOk);
  EXPECT_EQ(with([](auto& c) { c.fd = 99; }), Errno::Eexist);
  EXPECT_EQ(with([](auto& c) { c.data = 6; }), kOk) << "another value is another one";
  EXPECT_EQ(with([](auto& c) { c.fd = -1; }), kOk);
  EXPECT_EQ(with([](auto& c) { c.fd = -1; }), Errno::Enodev);
}

TEST_F(DeviceTest, ADoorbellRings) {
  bind();
  const auto e = w.event();
  for (const u32 width : {1u, 2u, 4u, 8u}) {
    uapi::VfioIoeventfd cmd{.argsz = 28,
                            .flags = width,
                            .offset = w.region(0) + 0x40 + 8 * width,
                            .data = 0x1122334455667788,
                            .fd = e.fd,
                            .reserved = 0};
    ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceIoeventfd, cmd));
    e.host->rung = 3;
    w.hw_a.accesses.clear();
    w.vfio->service();
    EXPECT_EQ(w.hw_a.accesses,
              std::vector<std::string>{"w" + std::to_string(width) + " 0:" + std::to_string(0x40 + 8 * width)})
        << "once, however often it was signalled";
    w.vfio->service();
    EXPECT_EQ(w.hw_a.accesses.size(), 1u);
    cmd.fd = -1;
    ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceIoeventfd, cmd));
  }
  EXPECT_EQ(*w.read<u64>(fd, 0, 0x40 + 64), 0x1122334455667788u);
  // Nobody answers while memory decoding is off.
  uapi::VfioIoeventfd cmd{.argsz = 28, .flags = 4, .offset = w.region(0), .data = 1, .fd = e.fd, .reserved = 0};
  ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceIoeventfd, cmd));
  w.config_write<u16>(fd, 4, 0);
  w.hw_a.accesses.clear();
  e.host->rung = 1;
  w.vfio->service();
  EXPECT_TRUE(w.hw_a.accesses.empty());
  w.task.close(fd);
  EXPECT_EQ(e.host->ref_count(), 3u) << "given back";
  fd = w.open_device();
}

TEST_F(DeviceTest, SoManyDoorbells) {
  bind();
  const auto e = w.event();
  uapi::VfioIoeventfd cmd{.argsz = 28, .flags = 4, .offset = w.region(0), .data = 0, .fd = e.fd, .reserved = 0};
  for (cmd.data = 0; cmd.data < 1000; ++cmd.data) ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceIoeventfd, cmd));
  EXPECT_EQ(error_of(w.call(fd, uapi::kVfioDeviceIoeventfd, cmd)), Errno::Enospc);
}

// --- resets of a bus
// ----------------------------------------------------------------------------------------------------

class HotResetTest : public DeviceTest {
 protected:
  HotResetTest() { w.add_bus(); }
  struct Info {
    u32 argsz = sizeof(Info);
    u32 flags = 77;
    u32 count = 77;
    uapi::VfioDependentDevice devices[4];
  };
  Result<Info> info(s32 of, u32 argsz = sizeof(Info)) {
    Info cmd{};
    cmd.argsz = argsz;
    TRY(w.call(of, uapi::kVfioDeviceGetPciHotResetInfo, cmd));
    return cmd;
  }
  Errno reset(s32 of, const std::vector<s32>& groups, u32 flags = 0) {
    const UserAddr at = w.task.allocate(64);
    w.task.poke(at, uapi::VfioHotReset{12, flags, static_cast<u32>(groups.size())});
    for (usize i = 0; i < groups.size(); ++i) w.task.poke(at + 12 + i * 4, groups[i]);
    return error_of(w.ioctl(of, uapi::kVfioDevicePciHotReset, at));
  }
  s32 c = -1, d = -1;
};

TEST_F(HotResetTest, WhoIsReached) {
  const s32 other = w.open();
  c = w.open_device(2);
  d = w.open_device(3);
  const u32 c_id = *w.bind_device(c, iommufd);
  EXPECT_EQ(error_of(info(c, 11)), Errno::Einval);
  Info one{};
  one.argsz = 12 + 8;
  EXPECT_EQ(error_of(w.call(c, uapi::kVfioDeviceGetPciHotResetInfo, one)), Errno::Enospc);
  EXPECT_EQ(one.count, 2u) << "so that it can be asked again";
  Info both = *info(c);
  EXPECT_EQ(both.flags, 1u) << "ids of devices; not all of them the caller's";
  ASSERT_EQ(both.count, 2u);
  EXPECT_EQ(both.devices[0].id, c_id);
  EXPECT_EQ(both.devices[0].bus, 2u);
  EXPECT_EQ(both.devices[1].id, uapi::vfio_hot_reset::kNotOwned);
  EXPECT_EQ(both.devices[1].bus, 3u);
  const u32 d_elsewhere = *w.bind_device(d, other);
  EXPECT_EQ(d_elsewhere, 1u);
  EXPECT_EQ(info(c)->devices[1].id, uapi::vfio_hot_reset::kNotOwned) << "another context's";
  w.task.close(d);
  d = w.open_device(3);
  const u32 d_id = *w.bind_device(d, iommufd);
  both = *info(c);
  EXPECT_EQ(both.flags, 3u);
  EXPECT_EQ(both.devices[1].id, d_id);
  bind();
  EXPECT_EQ(error_of(info(fd)), Errno::Enodev) << "on a root bus";
}

TEST_F(HotResetTest, ByContext) {
  const s32 other = w.open();
  c = w.open_device(2);
  d = w.open_device(3);
  ASSERT_TRUE(w.bind_device(c, iommufd));
  EXPECT_EQ(reset(c, {}, 1), Errno::Einval) << "flags";
  EXPECT_EQ(reset(c, {3}), Errno::Einval) << "no groups, when it is a context's";
  EXPECT_EQ(reset(c, {}), Errno::Einval) << "the other one is nobody's";
  ASSERT_TRUE(w.bind_device(d, other));
  EXPECT_EQ(reset(c, {}), Errno::Einval) << "the other one is somebody else's";
  EXPECT_EQ(w.hw_bridge.resets, 0u);
  w.task.close(d);
  d = w.open_device(3);
  ASSERT_TRUE(w.bind_device(d, iommufd));
  w.config_write<u16>(d, 4, 6);
  const auto e = w.event();
  ASSERT_TRUE(w.set_irqs(d, kDataEventfd | kActionTrigger, kMsi, 0, 1, {e.fd}));
  EXPECT_EQ(reset(c, {}), kOk);
  EXPECT_EQ(w.hw_bridge.resets, 1u);
  EXPECT_EQ(w.hw_d.get<u16>(4) & 6, 2) << "decodes as before, does not master";
  w.send_msi(w.hw_d, 0);
  EXPECT_EQ(e.host->count, 1u) << "eventfds stay connected";
  bind();
  EXPECT_EQ(reset(fd, {}), Errno::Enodev);
}

TEST_F(HotResetTest, ByGroups) {
  const s32 group_c = w.open_group(IommufdWorld::a1), group_d = w.open_group(VfioWorld::a2);
  const s32 box = w.open_container();
  ASSERT_TRUE(w.set_container(group_c, box));
  c = *w.device_fd(group_c, "0000:02:00.0");
  const Info both = *info(c);
  EXPECT_EQ(both.flags, 0u);
  EXPECT_EQ(both.devices[0].id, w.group_id(IommufdWorld::a1));
  EXPECT_EQ(both.devices[1].id, w.group_id(VfioWorld::a2));
  EXPECT_EQ(reset(c, {}), Errno::Einval) << "a context's right";
  EXPECT_EQ(reset(c, {group_c, group_d, group_c}), Errno::Einval) << "more than there are";
  EXPECT_EQ(reset(c, {group_c, 99}), Errno::Ebadf);
  EXPECT_EQ(reset(c, {group_c, iommufd}), Errno::Einval) << "no group";
  EXPECT_EQ(reset(c, {group_c}), Errno::Einval) << "not all of them";
  EXPECT_EQ(w.hw_bridge.resets, 0u);
  EXPECT_EQ(reset(c, {group_c, group_d}), kOk);
  EXPECT_EQ(w.hw_bridge.resets, 1u);
}

TEST_F(HotResetTest, NotWithWhatIsNotForPrograms) {
  c = w.open_device(2);
  d = w.open_device(3);
  ASSERT_TRUE(w.bind_device(c, iommufd));
  ASSERT_TRUE(w.bind_device(d, iommufd));
  ASSERT_TRUE(w.vfio->add_other(*w.function_c));
  EXPECT_EQ(info(c)->flags, 1u);
  EXPECT_EQ(info(c)->devices[2].id, uapi::vfio_hot_reset::kNotOwned);
  EXPECT_EQ(reset(c, {}), Errno::Einval);
  EXPECT_EQ(w.hw_bridge.resets, 0u);
}

TEST_F(HotResetTest, NotWhileOneIsPreserved) {
  w.iommu.begin();
  c = w.open_device(2);
  d = w.open_device(3);
  const u32 dev = *w.bind_device(c, iommufd);
  ASSERT_TRUE(w.bind_device(d, iommufd));
  const u32 ioas = w.ioas(iommufd), hwpt = *w.hwpt(iommufd, dev, ioas);
  ASSERT_TRUE(w.attach(c, hwpt));
  ASSERT_TRUE(w.mark(iommufd, hwpt, kHwpt));
  ASSERT_TRUE(w.preserve(iommufd, kContext));
  ASSERT_TRUE(w.preserve_device(c, kDevice));
  EXPECT_EQ(reset(d, {}), Errno::Ebusy);
  EXPECT_EQ(w.hw_bridge.resets, 0u);
  w.unpreserve_device(c, kDevice);
  w.unpreserve(iommufd, kContext);
  EXPECT_EQ(reset(d, {}), kOk);
}

// --- tokens
// -----------------------------------------------------------------------------------------------------------

constexpr vfio::Uuid kSecret{{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};
constexpr vfio::Uuid kWrong{{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17}};

class TokenTest : public DeviceTest {
 protected:
  // vfio0 is a physical function, vfio1 its virtual one.
  TokenTest() {
    w.task.close(fd);
    w.hw_a.physical = true;
    w.hw_a.power_on();
    w.vfio->at(1)->physical = w.vfio->at(0);
    fd = w.open_device();
  }
  Errno bind_with(s32 of, const vfio::Uuid* token) {
    uapi::VfioBindIommufd cmd{};
    cmd.argsz = sizeof(cmd);
    cmd.iommufd = iommufd;
    if (token) {
      cmd.flags = 1;
      cmd.token_uuid_ptr = w.task.put(*token).value;
    }
    return error_of(w.call(of, uapi::kVfioDeviceBindIommufd, cmd));
  }
};

TEST_F(TokenTest, AVirtualFunctionNeedsThePhysicalOnesSecret) {
  const s32 vf = w.open_device(1);
  EXPECT_EQ(bind_with(vf, nullptr), Errno::Eacces);
  EXPECT_EQ(bind_with(vf, &kSecret), Errno::Eacces) << "nobody has set one";
  EXPECT_EQ(bind_with(fd, &kSecret), kOk) << "with no user it becomes the secret";
  EXPECT_EQ(bind_with(vf, nullptr), Errno::Eacces);
  EXPECT_EQ(bind_with(vf, &kWrong), Errno::Eacces);
  EXPECT_EQ(bind_with(vf, &kSecret), kOk);
  // Now that it is used, the physical function is for those who know it.
  w.task.close(fd);
  fd = w.open_device();
  EXPECT_EQ(bind_with(fd, nullptr), Errno::Eacces);
  EXPECT_EQ(bind_with(fd, &kWrong), Errno::Eacces);
  EXPECT_EQ(bind_with(fd, &kSecret), kOk);
  w.task.close(fd);
  w.task.close(vf);
  fd = w.open_device();
  EXPECT_EQ(bind_with(fd, nullptr), kOk);
}

TEST_F(TokenTest, SetByFeature) {
  EXPECT_EQ(bind_with(fd, nullptr), kOk);
  EXPECT_EQ(feature(feat::kProbe | feat::kSet | feat::kVfToken), kOk);
  EXPECT_EQ(feature(feat::kGet | feat::kVfToken), Errno::Einval);
  EXPECT_EQ(feature(feat::kSet | feat::kVfToken), Errno::Einval) << "none there";
  EXPECT_EQ(feature(feat::kSet | feat::kVfToken, kSecret), kOk);
  const s32 vf = w.open_device(1);
  EXPECT_EQ(bind_with(vf, &kWrong), Errno::Eacces);
  EXPECT_EQ(bind_with(vf, &kSecret), kOk);
  EXPECT_EQ(feature(feat::kSet | feat::kVfToken, kWrong), kOk) << "at any time";
}

TEST_F(TokenTest, ByNameOfTheGroupsDevice) {
  EXPECT_EQ(bind_with(fd, &kSecret), kOk);
  const s32 group = w.open_group(IommufdWorld::b0);
  ASSERT_TRUE(w.set_container(group, w.open_container()));
  EXPECT_EQ(error_of(w.device_fd(group, "0000:80:00.0")), Errno::Eacces);
  EXPECT_EQ(error_of(w.device_fd(group, "0000:80:00.0 vf_token=01020304-0506-0708-090a-0b0c0d0e0f11")), Errno::Eacces);
  EXPECT_TRUE(w.device_fd(group, "0000:80:00.0 vf_token=01020304-0506-0708-090A-0b0c0d0e0f10"));
  EXPECT_EQ(error_of(w.device_fd(group,
                                 "0000:80:00.0 vf_token=01020304-0506-0708-090a-0b0c0d0e0f10 "
                                 "vf_token=01020304-0506-0708-090a-0b0c0d0e0f10")),
            Errno::Einval)
      << "twice";
}

}  // namespace
}  // namespace perdure::testing
