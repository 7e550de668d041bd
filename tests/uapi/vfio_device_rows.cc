// Interrupts, configuration space, reset and features of a bound device (uapi.md 3.5 – 3.8).
#include "tests/uapi/vfio.h"

namespace perdure::uapi_test::vfio {
namespace {

using namespace uapi;      // NOLINT(google-build-using-namespace): the structures of one API
using namespace vfio_irq;  // NOLINT(google-build-using-namespace)

// --- interrupts
// -------------------------------------------------------------------------------------------------------

UAPI_TEST("3.5 IRQ_INFO", ByIndex) {
  const Bound bound(t);
  check_argsz(t, bound.device, kVfioDeviceGetIrqInfo, VfioIrqInfo{.argsz = 16, .flags = 0, .index = kReq, .count = 0},
              16);
  CHECK_EQ(irq(t, bound.device, kIntx).flags, 7);
  CHECK_EQ(irq(t, bound.device, kMsi).flags & ~kInfoNoResize, 1);
  CHECK_EQ(irq(t, bound.device, kMsix).flags & ~kInfoNoResize, 1);
  CHECK_EQ(irq(t, bound.device, kReq).count, 1);
  CHECK_EQ(irq(t, bound.device, kReq).flags, 9);
  for (const u32 index : {5u, 100u, ~0u}) {
    VfioIrqInfo info{.argsz = 16, .flags = 0, .index = index, .count = 0};
    CHECK_ERRNO(t.ioctl(bound.device, kVfioDeviceGetIrqInfo, info), Errno::Einval);
  }
}

UAPI_TEST("3.5 IRQ_INFO", APinThatIsHiddenHasNoInterrupt) {
  const Bound bound(t);
  const u8 pin = config_read<u8>(t, bound.device, 0x3d);
  CHECK_EQ(irq(t, bound.device, kIntx).count, pin != 0 ? 1 : 0);
}

UAPI_TEST("3.5 SET_IRQS", ChecksInOrder) {
  const Bound bound(t);
  VfioIrqSet set{20, kDataNone | kActionTrigger, kReq, 0, 0};
  check_argsz(t, bound.device, kVfioDeviceSetIrqs, set, 20);
  const auto with = [&](u32 flags, u32 index, u32 start, u32 count) {
    set = {20, flags, index, start, count};
    return t.ioctl(bound.device, kVfioDeviceSetIrqs, set);
  };
  CHECK_ERRNO(with(kDataNone | kActionTrigger, 5, 0, 0), Errno::Einval);
  CHECK_ERRNO(with(kDataNone | kActionTrigger, kReq, 0, ~0u), Errno::Einval);
  CHECK_ERRNO(with(kDataNone | kActionTrigger, kReq, 1, ~0u - 1), Errno::Einval);
  CHECK_ERRNO(with(kDataNone | kActionTrigger | 0x40, kReq, 0, 0), Errno::Einval);
  CHECK_ERRNO(with(kDataNone | kActionTrigger, kReq, 1, 0), Errno::Einval);
  CHECK_ERRNO(with(kDataNone | kActionTrigger, kReq, 0, 2), Errno::Einval);
  CHECK_ERRNO(with(kActionTrigger, kReq, 0, 0), Errno::Einval);
  CHECK_ERRNO(with(kDataNone | kDataBool | kActionTrigger, kReq, 0, 0), Errno::Einval);
  CHECK_ERRNO(with(kDataBool | kActionTrigger, kReq, 0, 1), Errno::Einval);     // no data
  CHECK_ERRNO(with(kDataEventfd | kActionTrigger, kReq, 0, 1), Errno::Einval);  // likewise
  CHECK_ERRNO(with(kDataNone, kReq, 0, 0), Errno::Enotty);
  CHECK_ERRNO(with(kDataNone | kActionMask, kReq, 0, 0), Errno::Enotty);
  CHECK_ERRNO(with(kDataNone | kActionMask | kActionTrigger, kReq, 0, 0), Errno::Enotty);
}

UAPI_TEST("3.5 SET_IRQS", NothingToDisableWhereThereIsNothing) {
  const Bound bound(t);
  for (const u32 index : {kIntx, kMsi, kMsix}) {
    CHECK_ERRNO(set_irqs(t, bound.device, kDataNone | kActionTrigger, index, 0, 0), Errno::Einval);
  }
}

UAPI_TEST("3.5 SET_IRQS", DataThatCannotBeRead) {
  const Bound bound(t);
  const UserMemory memory;
  const auto* const at = memory.put_at_end(VfioIrqSet{24, kDataEventfd | kActionTrigger, kReq, 0, 1});
  CHECK_ERRNO(t.ioctl_at(bound.device, kVfioDeviceSetIrqs, at), Errno::Efault);
}

// Those that the device has.
std::vector<u32> message_indices(Case& t, const Fd& device) {
  std::vector<u32> there;
  for (const u32 index : {kMsi, kMsix}) {
    if (irq(t, device, index).count != 0) there.push_back(index);
  }
  if (there.empty()) Case::skip("no messages");
  return there;
}

UAPI_TEST("3.5 MSI", LoopbackSignalsOnce) {
  const Bound bound(t);
  for (const u32 index : message_indices(t, bound.device)) {
    const Fd event(t.sys, MUST(t.sys.eventfd()));
    MUST(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, index, 0, 1, {event.number()}));
    MUST(set_irqs(t, bound.device, kDataNone | kActionTrigger, index, 0, 1));
    CHECK_EQ(MUST(t.sys.eventfd_read(event.number())), 1);
    MUST(set_irqs<u8>(t, bound.device, kDataBool | kActionTrigger, index, 0, 1, {0}));
    CHECK_EQ(MUST(t.sys.eventfd_read(event.number())), 0);
    MUST(set_irqs<u8>(t, bound.device, kDataBool | kActionTrigger, index, 0, 1, {1}));
    CHECK_EQ(MUST(t.sys.eventfd_read(event.number())), 1);
    MUST(set_irqs(t, bound.device, kDataNone | kActionTrigger, index, 0, 0));
    CHECK_ERRNO(set_irqs(t, bound.device, kDataNone | kActionTrigger, index, 0, 1), Errno::Einval);
  }
}

UAPI_TEST("3.5 MSI", DescriptorsThatAreNone) {
  const Bound bound(t);
  const u32 index = message_indices(t, bound.device).back();
  CHECK_ERRNO(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, index, 0, 1, {9999}), Errno::Ebadf);
  CHECK_ERRNO(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, index, 0, 1, {bound.iommufd.number()}),
              Errno::Einval);
  // What a failing call had turned on is off again.
  CHECK_ERRNO(set_irqs(t, bound.device, kDataNone | kActionTrigger, index, 0, 0), Errno::Einval);
}

UAPI_TEST("3.5 MSI", OneKindAtATime) {
  const Bound bound(t);
  const auto there = message_indices(t, bound.device);
  if (there.size() < 2) Case::skip("one kind only");
  const Fd event(t.sys, MUST(t.sys.eventfd()));
  MUST(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, kMsi, 0, 1, {event.number()}));
  CHECK_ERRNO(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, kMsix, 0, 1, {event.number()}), Errno::Einval);
  CHECK_ERRNO(set_irqs(t, bound.device, kDataNone | kActionTrigger, kMsix, 0, 0), Errno::Einval);
  MUST(set_irqs(t, bound.device, kDataNone | kActionTrigger, kMsi, 0, 0));
  CHECK_OK(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, kMsix, 0, 1, {event.number()}));
}

UAPI_TEST("3.5 MSI", VectorsComeAndGo) {
  const Bound bound(t);
  const u32 count = irq(t, bound.device, kMsix).count;
  if (count < 4) Case::skip("fewer than four vectors of MSI-X");
  const Fd a(t.sys, MUST(t.sys.eventfd())), b(t.sys, MUST(t.sys.eventfd()));
  MUST(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, kMsix, 1, 2, {a.number(), b.number()}));
  MUST(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, kMsix, 2, 1, {-1}));
  MUST(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, kMsix, 3, 1, {a.number()}));
  MUST(set_irqs(t, bound.device, kDataNone | kActionTrigger, kMsix, 0, 4));  // those without an eventfd are skipped
  CHECK_EQ(MUST(t.sys.eventfd_read(a.number())), 2);
  CHECK_EQ(MUST(t.sys.eventfd_read(b.number())), 0);
  CHECK_ERRNO(set_irqs(t, bound.device, kDataNone | kActionTrigger, kMsix, count, 1), Errno::Einval);
}

UAPI_TEST("3.5 MSI", TheDeviceHasItsOwnReference) {
  const Bound bound(t);
  const u32 index = message_indices(t, bound.device).front();
  Fd event(t.sys, MUST(t.sys.eventfd()));
  MUST(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, index, 0, 1, {event.number()}));
  event.reset();
  CHECK_OK(set_irqs(t, bound.device, kDataNone | kActionTrigger, index, 0, 1));
  CHECK_OK(set_irqs(t, bound.device, kDataNone | kActionTrigger, index, 0, 0));
}

UAPI_TEST("3.5 MSI", ResetKeepsThem) {
  const Bound bound(t);
  const u32 index = message_indices(t, bound.device).back();
  const Fd event(t.sys, MUST(t.sys.eventfd()));
  MUST(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, index, 0, 1, {event.number()}));
  MUST(t.ioctl_at(bound.device, kVfioDeviceReset, nullptr));
  MUST(set_irqs(t, bound.device, kDataNone | kActionTrigger, index, 0, 1));
  CHECK_EQ(MUST(t.sys.eventfd_read(event.number())), 1);
}

UAPI_TEST("3.5 ERR and REQ", OneEventEach) {
  const Bound bound(t);
  const Fd event(t.sys, MUST(t.sys.eventfd()));
  CHECK_ERRNO(set_irqs(t, bound.device, kDataNone | kActionTrigger, kReq, 0, 0), Errno::Einval);  // none is set
  CHECK_ERRNO(set_irqs(t, bound.device, kDataNone | kActionTrigger, kReq, 0, 1), Errno::Einval);
  CHECK_ERRNO(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, kReq, 0, 1, {9999}), Errno::Ebadf);
  MUST(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, kReq, 0, 1, {event.number()}));
  MUST(set_irqs(t, bound.device, kDataNone | kActionTrigger, kReq, 0, 1));
  CHECK_EQ(MUST(t.sys.eventfd_read(event.number())), 1);
  MUST(set_irqs(t, bound.device, kDataNone | kActionTrigger, kReq, 0, 0));
  CHECK_ERRNO(set_irqs(t, bound.device, kDataNone | kActionTrigger, kReq, 0, 0), Errno::Einval);
  MUST(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, kReq, 0, 1, {event.number()}));
  MUST(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, kReq, 0, 1, {-1}));
  CHECK_ERRNO(set_irqs(t, bound.device, kDataNone | kActionTrigger, kReq, 0, 1), Errno::Einval);
}

// --- doorbells
// --------------------------------------------------------------------------------------------------------

UAPI_TEST("3.2 IOEVENTFD", ChecksInOrder) {
  const Bound bound(t);
  const auto info = bar(t, bound.device);
  const Fd event(t.sys, MUST(t.sys.eventfd()));
  const VfioIoeventfd good{
      .argsz = 28, .flags = 4, .offset = info.offset, .data = 0, .fd = event.number(), .reserved = 0};
  check_argsz(t, bound.device, kVfioDeviceIoeventfd, good, 28);
  const auto with = [&](u32 flags, u64 offset, s32 fd, u64 data = 0) {
    VfioIoeventfd call{.argsz = 28, .flags = flags, .offset = offset, .data = data, .fd = fd, .reserved = 0};
    return t.ioctl(bound.device, kVfioDeviceIoeventfd, call);
  };
  for (const u32 width : {0u, 3u, 5u, 16u}) CHECK_ERRNO(with(width, info.offset, event.number()), Errno::Einval);
  CHECK_ERRNO(with(4, info.offset, -2), Errno::Einval);
  CHECK_ERRNO(with(4, region(t, bound.device, 7).offset, event.number()), Errno::Einval);
  CHECK_ERRNO(with(4, info.offset + info.size - 2, event.number()), Errno::Einval);
  CHECK_ERRNO(with(4, info.offset, -1), Errno::Enodev);
  CHECK_ERRNO(with(4, info.offset, 9999), Errno::Ebadf);
  CHECK_ERRNO(with(4, info.offset, bound.iommufd.number()), Errno::Einval);
  CHECK_OK(with(4, info.offset, event.number()));
  CHECK_ERRNO(with(4, info.offset, event.number()), Errno::Eexist);
  CHECK_OK(with(4, info.offset, event.number(), 1));
  CHECK_OK(with(4, info.offset, -1));
  CHECK_ERRNO(with(4, info.offset, -1), Errno::Enodev);
}

// --- configuration space
// ----------------------------------------------------------------------------------------------

UAPI_TEST("3.6 header", WhatCannotBeWritten) {
  const Bound bound(t);
  for (const u64 at : {u64{0x00}, u64{0x02}, u64{0x06}, u64{0x08}, u64{0x0a}, u64{0x2c}, u64{0x2e}, u64{0x34}}) {
    const u16 before = config_read<u16>(t, bound.device, at);
    config_write<u16>(t, bound.device, at, static_cast<u16>(~before));
    CHECK_EQ(config_read<u16>(t, bound.device, at) & ~0xf900, before & ~0xf900);  // status bits of errors may clear
  }
  const u8 type = config_read<u8>(t, bound.device, 0x0e);
  config_write<u8>(t, bound.device, 0x0e, static_cast<u8>(~type));
  CHECK_EQ(config_read<u8>(t, bound.device, 0x0e), type);
}

UAPI_TEST("3.6 COMMAND", BusMasteringStartsOffAndCanBeSwitched) {
  const Bound bound(t);
  CHECK_EQ(config_read<u16>(t, bound.device, 4) & 4, 0);
  config_write<u16>(t, bound.device, 4, static_cast<u16>(config_read<u16>(t, bound.device, 4) | 4));
  CHECK_EQ(config_read<u16>(t, bound.device, 4) & 4, 4);
  config_write<u16>(t, bound.device, 4, static_cast<u16>(config_read<u16>(t, bound.device, 4) & ~4));
  CHECK_EQ(config_read<u16>(t, bound.device, 4) & 4, 0);
}

UAPI_TEST("3.6 COMMAND", TheInterruptDisableBitIsKept) {
  const Bound bound(t);
  const u16 before = config_read<u16>(t, bound.device, 4);
  config_write<u16>(t, bound.device, 4, static_cast<u16>(before | 0x400));
  CHECK_EQ(config_read<u16>(t, bound.device, 4) & 0x400, 0x400);
  config_write<u16>(t, bound.device, 4, static_cast<u16>(before & ~0x400));
  CHECK_EQ(config_read<u16>(t, bound.device, 4) & 0x400, 0);
}

UAPI_TEST("3.6 BARs", CanBeSizedAndStayWhereTheyAre) {
  const Bound bound(t);
  for (u32 i = 0; i < 6; ++i) {
    const auto info = region(t, bound.device, i);
    const u64 at = 0x10 + 4 * i;
    const u32 before = config_read<u32>(t, bound.device, at);
    config_write<u32>(t, bound.device, at, ~u32{0});
    const u32 mask = config_read<u32>(t, bound.device, at);
    config_write<u32>(t, bound.device, at, before);
    CHECK_EQ(config_read<u32>(t, bound.device, at), before);
    if (info.size == 0 || info.size >> 32 != 0) continue;
    CHECK_EQ(~(mask & ~15u) + 1, info.size);
    CHECK_EQ(mask & 15, before & 15);
  }
  u32 word = 0;
  CHECK_OK(t.sys.pread(bound.device.number(), &word, 4, bar(t, bound.device).offset));
}

UAPI_TEST("3.6 BARs", ByBytes) {
  const Bound bound(t);
  const auto info = bar(t, bound.device);
  const u64 at = 0x10 + 4 * info.index;
  const u32 before = config_read<u32>(t, bound.device, at);
  config_write<u8>(t, bound.device, at + 3, 0x77);
  CHECK_EQ(config_read<u32>(t, bound.device, at) >> 24, 0x77);
  config_write<u32>(t, bound.device, at, before);
}

UAPI_TEST("3.6 interrupt line", IsTheProgramsOwn) {
  const Bound bound(t);
  config_write<u8>(t, bound.device, 0x3c, 0x55);
  CHECK_EQ(config_read<u8>(t, bound.device, 0x3c), 0x55);
  const u8 pin = config_read<u8>(t, bound.device, 0x3d);
  config_write<u8>(t, bound.device, 0x3d, static_cast<u8>(~pin));
  CHECK_EQ(config_read<u8>(t, bound.device, 0x3d), pin);
}

UAPI_TEST("3.6 any width", IsTheSameBytes) {
  const Bound bound(t);
  const auto config = region(t, bound.device, 7);
  std::vector<u8> whole(config.size);
  CHECK_EQ(MUST(t.sys.pread(bound.device.number(), whole.data(), whole.size(), config.offset)), whole.size());
  for (const u64 start : {u64{0}, u64{1}, u64{3}, u64{0x0e}, u64{0x3d}, u64{0x41}}) {
    for (const usize bytes : {usize{1}, usize{2}, usize{3}, usize{5}, usize{17}}) {
      std::vector<u8> part(bytes);
      CHECK_EQ(MUST(t.sys.pread(bound.device.number(), part.data(), bytes, config.offset + start)), bytes);
      CHECK(std::memcmp(part.data(), whole.data() + start, bytes) == 0);
    }
  }
}

UAPI_TEST("3.6 MSI", TheProgramHasItsOwnView) {
  const Bound bound(t);
  const u16 msi = capability(t, bound.device, 5);
  if (msi == 0) Case::skip("no MSI");
  config_write<u32>(t, bound.device, msi + 4u, 0xdeadbee0);
  CHECK_EQ(config_read<u32>(t, bound.device, msi + 4u), 0xdeadbee0);
  config_write<u16>(t, bound.device, msi + 2u, static_cast<u16>(config_read<u16>(t, bound.device, msi + 2u) | 1));
  CHECK_EQ(config_read<u16>(t, bound.device, msi + 2u) & 1, 0);  // sticks only once SET_IRQS turned it on
  const Fd event(t.sys, MUST(t.sys.eventfd()));
  MUST(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, kMsi, 0, 1, {event.number()}));
  CHECK_EQ(config_read<u16>(t, bound.device, msi + 2u) & 1, 1);
}

UAPI_TEST("3.6 MSI-X", IsTheHosts) {
  const Bound bound(t);
  const u16 msix = capability(t, bound.device, 0x11);
  if (msix == 0) Case::skip("no MSI-X");
  const u16 before = config_read<u16>(t, bound.device, msix + 2u);
  config_write<u16>(t, bound.device, msix + 2u, static_cast<u16>(before | 0x8000));
  CHECK_EQ(config_read<u16>(t, bound.device, msix + 2u), before);
  const Fd event(t.sys, MUST(t.sys.eventfd()));
  MUST(set_irqs(t, bound.device, kDataEventfd | kActionTrigger, kMsix, 0, 1, {event.number()}));
  CHECK_EQ(config_read<u16>(t, bound.device, msix + 2u) & 0x8000, 0x8000);
}

UAPI_TEST("3.6 FLR", ByDeviceControl) {
  const Bound bound(t);
  const u16 express = capability(t, bound.device, 0x10);
  if (express == 0 || (config_read<u32>(t, bound.device, express + 4u) & 1u << 28) == 0) Case::skip("no FLR");
  config_write<u16>(t, bound.device, 4, 6);
  const u16 control = config_read<u16>(t, bound.device, express + 8u);
  config_write<u16>(t, bound.device, express + 8u, static_cast<u16>(control | 0x8000));
  CHECK_EQ(config_read<u16>(t, bound.device, express + 8u) & 0x8000, 0);
  CHECK_EQ(config_read<u16>(t, bound.device, 4) & 4, 0);
}

// --- reset
// ------------------------------------------------------------------------------------------------------------

UAPI_TEST("3.7 RESET", TheDeviceStopsAndDecodes) {
  const Bound bound(t);
  VfioDeviceInfo info{};
  info.argsz = sizeof info;
  MUST(t.ioctl(bound.device, kVfioDeviceGetInfo, info));
  if ((info.flags & vfio_device::kFlagReset) == 0) {
    CHECK_ERRNO(t.ioctl_at(bound.device, kVfioDeviceReset, nullptr), Errno::Einval);
    return;
  }
  config_write<u16>(t, bound.device, 4, 6);
  MUST(t.ioctl_at(bound.device, kVfioDeviceReset, nullptr));
  CHECK_EQ(config_read<u16>(t, bound.device, 4) & 6, 2);
  u32 word = 0;
  CHECK_OK(t.sys.pread(bound.device.number(), &word, 4, bar(t, bound.device).offset));
}

UAPI_TEST("3.7 HOT_RESET", ArgumentsAreJudgedFirst) {
  const Bound bound(t);
  check_argsz(t, bound.device, kVfioDeviceGetPciHotResetInfo, VfioHotResetInfo{.argsz = 12, .flags = 0, .count = 0},
              12);
  check_argsz(t, bound.device, kVfioDevicePciHotReset, VfioHotReset{.argsz = 12, .flags = 0, .count = 0}, 12);
  VfioHotReset call{.argsz = 12, .flags = 1, .count = 0};
  CHECK_ERRNO(t.ioctl(bound.device, kVfioDevicePciHotReset, call), Errno::Einval);
  call = {.argsz = 12, .flags = 0, .count = 1};
  CHECK_ERRNO(t.ioctl(bound.device, kVfioDevicePciHotReset, call), Errno::Einval);  // groups are for groups' devices
}

UAPI_TEST("3.7 HOT_RESET", WhoIsReached) {
  const Bound bound(t);
  struct {
    VfioHotResetInfo head{.argsz = 12, .flags = 0, .count = 0};
    VfioDependentDevice devices[64];
  } info;
  const auto sized = t.ioctl(bound.device, kVfioDeviceGetPciHotResetInfo, info);
  if (!sized && sized.error() == Errno::Enodev) {
    // A root bus: it cannot be done either.
    VfioHotReset call{.argsz = 12, .flags = 0, .count = 0};
    CHECK_ERRNO(t.ioctl(bound.device, kVfioDevicePciHotReset, call), Errno::Enodev);
    return;
  }
  CHECK_ERRNO(sized, Errno::Enospc);
  REQUIRE(info.head.count > 0 && info.head.count <= 64);
  info.head.argsz = sizeof info;
  MUST(t.ioctl(bound.device, kVfioDeviceGetPciHotResetInfo, info));
  CHECK(info.head.flags & vfio_hot_reset::kDeviceId);
  bool mine = false;
  for (u32 i = 0; i < info.head.count; ++i) mine = mine || info.devices[i].id == bound.id;
  CHECK(mine);
  VfioHotReset call{.argsz = 12, .flags = 0, .count = 0};
  const auto reset = t.ioctl(bound.device, kVfioDevicePciHotReset, call);
  if (info.head.flags & vfio_hot_reset::kDeviceIdOwned) {
    CHECK_OK(reset);
  } else {
    CHECK_ERRNO(reset, Errno::Einval);
  }
}

// --- features
// ---------------------------------------------------------------------------------------------------------

namespace feat = vfio_feature;

Result<u64> feature(Case& t, const Fd& device, u32 flags) {
  VfioFeature call{.argsz = 8, .flags = flags};
  return t.ioctl(device, kVfioDeviceFeature, call);
}

UAPI_TEST("3.8 FEATURE", FlagsAreJudgedFirst) {
  const Bound bound(t);
  check_argsz(t, bound.device, kVfioDeviceFeature, VfioFeature{.argsz = 8, .flags = feat::kProbe | 14}, 8);
  CHECK_ERRNO(feature(t, bound.device, 1u << 19 | feat::kProbe | 14), Errno::Einval);
  CHECK_ERRNO(feature(t, bound.device, feat::kGet | feat::kSet | 14), Errno::Einval);
  CHECK_ERRNO(feature(t, bound.device, feat::kGet | feat::kSet | feat::kProbe | 0xffff), Errno::Enotty);
}

UAPI_TEST("3.8 FEATURE", WhatIsNotThere) {
  const Bound bound(t);
  // Migration, dirty page logging, bus mastering by request, s390.
  for (const u32 index : {1u, 2u, 6u, 7u, 8u, 9u, 10u, 12u, 13u, 14u, 0xffffu}) {
    for (const u32 how : {feat::kProbe, feat::kGet, feat::kSet}) {
      CHECK_ERRNO(feature(t, bound.device, how | index), Errno::Enotty);
    }
  }
}

UAPI_TEST("3.8 LOW_POWER", Probed) {
  const Bound bound(t);
  for (const u32 index : {feat::kLowPowerEntry, feat::kLowPowerEntryWakeup, feat::kLowPowerExit}) {
    CHECK_OK(feature(t, bound.device, feat::kProbe | index));
    CHECK_OK(feature(t, bound.device, feat::kProbe | feat::kSet | index));
    CHECK_ERRNO(feature(t, bound.device, feat::kProbe | feat::kGet | index), Errno::Einval);
    CHECK_ERRNO(feature(t, bound.device, feat::kGet | index), Errno::Einval);
    CHECK_ERRNO(feature(t, bound.device, index), Errno::Einval);
  }
}

UAPI_TEST("3.8 LOW_POWER", OnceUntilItsEnd) {
  const Bound bound(t);
  CHECK_OK(feature(t, bound.device, feat::kSet | feat::kLowPowerExit));
  MUST(feature(t, bound.device, feat::kSet | feat::kLowPowerEntry));
  CHECK_ERRNO(feature(t, bound.device, feat::kSet | feat::kLowPowerEntry), Errno::Einval);
  CHECK_EQ(config_read<u16>(t, bound.device, 0) == 0xffff, false);  // it wakes up for that
  MUST(feature(t, bound.device, feat::kSet | feat::kLowPowerExit));
  CHECK_OK(feature(t, bound.device, feat::kSet | feat::kLowPowerEntry));
}

UAPI_TEST("3.8 LOW_POWER", UntilItIsWoken) {
  const Bound bound(t);
  const Fd event(t.sys, MUST(t.sys.eventfd()));
  const auto sleep = [&](s32 fd) {
    struct {
      VfioFeature head{.argsz = 16, .flags = feat::kSet | feat::kLowPowerEntryWakeup};
      VfioLowPowerWakeup entry;
    } call;
    call.entry = {.eventfd = fd, .reserved = 0};
    return t.ioctl(bound.device, kVfioDeviceFeature, call);
  };
  CHECK_ERRNO(feature(t, bound.device, feat::kSet | feat::kLowPowerEntryWakeup), Errno::Einval);  // no event
  CHECK_ERRNO(sleep(-1), Errno::Einval);
  CHECK_ERRNO(sleep(9999), Errno::Ebadf);
  CHECK_ERRNO(sleep(bound.iommufd.number()), Errno::Einval);
  MUST(sleep(event.number()));
  CHECK_OK(feature(t, bound.device, feat::kSet | feat::kLowPowerExit));
}

UAPI_TEST("3.8 VF_TOKEN", OnlyOfAPhysicalFunction) {
  const Bound bound(t);
  const auto probed = feature(t, bound.device, feat::kProbe | feat::kVfToken);
  if (probed) {
    CHECK_ERRNO(feature(t, bound.device, feat::kGet | feat::kVfToken), Errno::Einval);
    CHECK_ERRNO(feature(t, bound.device, feat::kSet | feat::kVfToken), Errno::Einval);  // none there
  } else {
    CHECK_ERRNO(probed, Errno::Enotty);
  }
}

}  // namespace
}  // namespace perdure::uapi_test::vfio
