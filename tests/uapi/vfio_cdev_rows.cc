// A device by its own node, from opening to the last close (uapi.md 3.3), and what it is made of (3.4).
#include <sys/mman.h>

#include "tests/uapi/vfio.h"

namespace perdure::uapi_test::vfio {
namespace {

using namespace uapi;  // NOLINT(google-build-using-namespace): the structures of one API

// --- before it is bound ---------------------------------------------------------------------------------------------

UAPI_TEST("3.3 open", AnyNumberOfTimes) {
  const Fd first = t.open(t.devices()[0]);
  const Fd second = t.open(t.devices()[0]);
  CHECK(first.number() != second.number());
}

UAPI_TEST("3.3 open", NothingButBindBeforeIt) {
  const Fd device = t.open(t.devices()[0]);
  u32 argument[16] = {64};
  for (u32 cmd = 0x3b64; cmd < 0x3b80; ++cmd) {
    if (cmd != kVfioDeviceBindIommufd) CHECK_ERRNO(t.ioctl(device, cmd, argument), Errno::Einval);
  }
  u32 word = 0;
  for (const u64 at : {u64{0}, u64{7} << 40, (u64{1} << 61) + (u64{7} << 40)}) {
    // Below the regions a program under interception reaches the host's file (docs/uapi.md).
    if (t.program && at < u64{1} << 61) continue;
    CHECK_ERRNO(t.sys.pread(device.number(), &word, 4, at), Errno::Einval);
    CHECK_ERRNO(t.sys.pwrite(device.number(), &word, 4, at), Errno::Einval);
  }
}

// Numbers of other types than VFIO's are the host's under interception, which says -ENOTTY (docs/uapi.md).
UAPI_TEST("3.3 open", ForeignNumbersBeforeIt) {
  if (t.program) Case::skip("a program cannot know who answers numbers of other types");
  const Fd device = t.open(t.devices()[0]);
  u32 argument[16] = {64};
  CHECK_ERRNO(t.ioctl(device, 0x1234, argument), Errno::Einval);
}

// --- BIND -----------------------------------------------------------------------------------------------------------

class BindArgument {
 public:
  BindArgument(Case& t, const Fd& device) : t_(t), device_(device) {}
  Result<u64> operator()(const VfioBindIommufd& call, u32 argsz = sizeof(VfioBindIommufd), u64 tail = 0) const {
    struct {
      VfioBindIommufd call;
      u64 tail;
    } longer{call, tail};
    longer.call.argsz = argsz;
    return t_.ioctl(device_, kVfioDeviceBindIommufd, longer);
  }

 private:
  Case& t_;
  const Fd& device_;
};

UAPI_TEST("3.3 BIND", ArgumentsAreJudgedFirst) {
  const Fd device = t.open(t.devices()[0]);
  const BindArgument bind_with(t, device);
  const UserMemory memory;
  CHECK_ERRNO(t.ioctl_at(device, kVfioDeviceBindIommufd, memory.beyond()), Errno::Efault);
  CHECK_ERRNO(bind_with({.iommufd = -1}, 15), Errno::Einval);
  CHECK_ERRNO(bind_with({.iommufd = -1}, 32, 1), Errno::E2big);
  CHECK_ERRNO(bind_with({.iommufd = -1}, 32, 0), Errno::Einval);
  CHECK_ERRNO(bind_with({.flags = 2, .iommufd = 9999}), Errno::Einval);
  CHECK_ERRNO(bind_with({.iommufd = 9999}), Errno::Ebadf);
  CHECK_ERRNO(bind_with({.iommufd = device.number()}), Errno::Ebadfd);
}

UAPI_TEST("3.3 BIND", ATokenIsForVirtualFunctions) {
  const Fd iommufd = t.open("/dev/iommu");
  const Fd device = t.open(t.devices()[0]);
  const UserMemory memory;
  VfioBindIommufd call{
      .argsz = sizeof call, .flags = 1, .iommufd = iommufd.number(), .out_devid = 0, .token_uuid_ptr = 0};
  call.token_uuid_ptr = reinterpret_cast<u64>(memory.beyond());  // NOLINT(performance-no-int-to-ptr)
  CHECK_ERRNO(t.ioctl(device, kVfioDeviceBindIommufd, call), Errno::Efault);
  call.token_uuid_ptr = reinterpret_cast<u64>(memory.at());  // NOLINT(performance-no-int-to-ptr)
  CHECK_ERRNO(t.ioctl(device, kVfioDeviceBindIommufd, call), Errno::Einval);
  call.iommufd = 9999;
  CHECK_ERRNO(t.ioctl(device, kVfioDeviceBindIommufd, call), Errno::Einval);  // the token before the descriptor
}

UAPI_TEST("3.3 BIND", AsLongAsTheMandatoryPart) {
  const Fd iommufd = t.open("/dev/iommu");
  const Fd device = t.open(t.devices()[0]);
  const UserMemory memory;
  VfioBindIommufd call{.argsz = 16, .flags = 0, .iommufd = iommufd.number(), .out_devid = 0, .token_uuid_ptr = 0};
  auto* const at = memory.at(memory.size() - 16);
  std::memcpy(at, &call, 16);
  CHECK_OK(t.ioctl_at(device, kVfioDeviceBindIommufd, at));
  std::memcpy(static_cast<void*>(&call), at, 16);
  CHECK(call.out_devid != 0);
}

UAPI_TEST("3.3 BIND", OnlyOneFileAndOnlyOnce) {
  const Bound bound(t);
  CHECK_ERRNO(bind(t, bound.device, bound.iommufd.number()), Errno::Einval);
  CHECK_ERRNO(bind(t, bound.device, 9999), Errno::Einval);  // before the descriptor is looked at
  const Fd second = t.open(t.devices()[0]);
  CHECK_ERRNO(bind(t, second, 9999), Errno::Ebadf);
  CHECK_ERRNO(bind(t, second, bound.iommufd.number()), Errno::Einval);
}

UAPI_TEST("3.3 BIND", TheAnswerThatCannotBeWrittenUndoesIt) {
  const Fd iommufd = t.open("/dev/iommu");
  const Fd device = t.open(t.devices()[0]);
  const UserMemory memory;
  const auto* const at = memory.put(
      VfioBindIommufd{.argsz = 24, .flags = 0, .iommufd = iommufd.number(), .out_devid = 0, .token_uuid_ptr = 0});
  memory.read_only();
  CHECK_ERRNO(t.ioctl_at(device, kVfioDeviceBindIommufd, at), Errno::Efault);
  CHECK_OK(bind(t, device, iommufd.number()));
}

UAPI_TEST("3.3 BIND", TheDeviceKeepsItsContext) {
  Bound bound(t);
  const u32 space = ioas(t, bound.iommufd);
  bound.iommufd.reset();
  CHECK_OK(attach(t, bound.device, space));
}

UAPI_TEST("3.3 BIND", TheDeviceIsQuiet) {
  const Bound bound(t);
  CHECK_EQ(config_read<u16>(t, bound.device, 4) & 6, 2);  // decodes, does not master the bus
}

// --- ATTACH, DETACH -------------------------------------------------------------------------------------------------

UAPI_TEST("3.3 ATTACH", ChecksInOrder) {
  const Bound bound(t);
  const u32 space = ioas(t, bound.iommufd);
  const VfioAttachIommufdPt good{.argsz = 12, .flags = 0, .pt_id = space, .pasid = 0};
  check_argsz(t, bound.device, kVfioDeviceAttachIommufdPt, good, 12);
  VfioAttachIommufdPt call = good;
  call.flags = 2;
  CHECK_ERRNO(t.ioctl(bound.device, kVfioDeviceAttachIommufdPt, call), Errno::Einval);
  call.flags = 1;
  CHECK_ERRNO(t.ioctl(bound.device, kVfioDeviceAttachIommufdPt, call), Errno::Einval);  // no room for a PASID
  CHECK_ERRNO(attach(t, bound.device, 9999), Errno::Enoent);
  CHECK_ERRNO(attach(t, bound.device, bound.id), Errno::Einval);  // a device
}

UAPI_TEST("3.3 ATTACH", AnswersThePageTable) {
  const Bound bound(t);
  const u32 space = ioas(t, bound.iommufd);
  u32 hwpt = 0;
  MUST(attach(t, bound.device, space, &hwpt));
  CHECK(hwpt != 0);
  CHECK(hwpt != space);
  u32 again = 0;
  MUST(attach(t, bound.device, hwpt, &again));
  CHECK_EQ(again, hwpt);
}

UAPI_TEST("3.3 ATTACH", ReplacesInPlace) {
  const Bound bound(t);
  const u32 first = ioas(t, bound.iommufd), second = ioas(t, bound.iommufd);
  u32 a = 0, b = 0;
  MUST(attach(t, bound.device, first, &a));
  MUST(attach(t, bound.device, second, &b));
  CHECK(a != b);
  IommuDestroy gone{.size = sizeof gone, .id = first};
  CHECK_OK(t.ioctl(bound.iommufd, kIommuDestroy, gone));  // nobody uses it any more
  gone.id = second;
  CHECK_ERRNO(t.ioctl(bound.iommufd, kIommuDestroy, gone), Errno::Ebusy);
}

UAPI_TEST("3.3 DETACH", ChecksInOrder) {
  const Bound bound(t);
  check_argsz(t, bound.device, kVfioDeviceDetachIommufdPt, VfioDetachIommufdPt{.argsz = 8, .flags = 0, .pasid = 0}, 8);
  VfioDetachIommufdPt call{.argsz = 12, .flags = 2, .pasid = 0};
  CHECK_ERRNO(t.ioctl(bound.device, kVfioDeviceDetachIommufdPt, call), Errno::Einval);
  CHECK_OK(detach(t, bound.device));  // not attached
  const u32 space = ioas(t, bound.iommufd);
  MUST(attach(t, bound.device, space));
  CHECK_OK(detach(t, bound.device));
  IommuDestroy gone{.size = sizeof gone, .id = space};
  CHECK_OK(t.ioctl(bound.iommufd, kIommuDestroy, gone));
}

UAPI_TEST("3.3 unknown", IsEnottyOnceBound) {
  const Bound bound(t);
  u32 argument[16] = {64};
  for (const u32 cmd : {0x3b64u, 0x3b67u, 0x3b6au, 0x3b72u, 0x3b73u, 0x3b79u, 0x3b7fu, 0x1234u}) {
    CHECK_ERRNO(t.ioctl(bound.device, cmd, argument), Errno::Enotty);
  }
}

UAPI_TEST("3.3 close", TheLastOneFreesTheDevice) {
  Bound bound(t);
  const Fd second = t.open(t.devices()[0]);
  const Fd context = t.open("/dev/iommu");
  CHECK_ERRNO(bind(t, second, context.number()), Errno::Einval);
  config_write<u16>(t, bound.device, 4, 6);
  bound.device.reset();
  MUST(bind(t, second, context.number()));
  CHECK_EQ(config_read<u16>(t, second, 4) & 4, 0);
}

// --- what it is made of
// -----------------------------------------------------------------------------------------------

UAPI_TEST("3.3 GET_INFO", ByArgsz) {
  const Bound bound(t);
  VfioDeviceInfo info{};
  info.argsz = 16;
  check_argsz(t, bound.device, kVfioDeviceGetInfo, info, 16);
  info.cap_offset = 77;
  MUST(t.ioctl(bound.device, kVfioDeviceGetInfo, info));
  CHECK(info.flags & vfio_device::kFlagPci);
  CHECK(info.num_regions >= 9);
  CHECK_EQ(info.num_irqs, 5);
  CHECK_EQ(info.cap_offset, 77);  // beyond what the caller has
  info.argsz = 1000;
  CHECK_OK(t.ioctl(bound.device, kVfioDeviceGetInfo, info));
}

UAPI_TEST("3.4 REGION_INFO", ChecksInOrder) {
  const Bound bound(t);
  VfioRegionInfo info{.argsz = 32, .flags = 0, .index = 7, .cap_offset = 0, .size = 0, .offset = 0};
  check_argsz(t, bound.device, kVfioDeviceGetRegionInfo, info, 32);
  for (const u32 index : {8u, 9u, 1000u, ~0u}) {  // VGA, and what there is not
    info.index = index;
    CHECK_ERRNO(t.ioctl(bound.device, kVfioDeviceGetRegionInfo, info), Errno::Einval);
  }
}

UAPI_TEST("3.4 REGION_INFO", ConfigurationSpace) {
  const Bound bound(t);
  const auto config = region(t, bound.device, 7);
  CHECK(config.size == 256 || config.size == 4096);
  CHECK_EQ(config.flags, 3);
}

UAPI_TEST("3.4 REGION_INFO", WhatIsNotThereIsEmpty) {
  const Bound bound(t);
  bool upper_half = false;
  for (u32 i = 0; i < 6; ++i) {
    const auto info = region(t, bound.device, i);
    const u32 low = config_read<u32>(t, bound.device, 0x10 + 4 * i);
    if (upper_half || low == 0) CHECK_EQ(info.size, 0);
    if (info.size == 0) CHECK_EQ(info.flags, 0);
    if (info.flags & vfio_region::kMmap) CHECK_EQ(info.size & (info.size - 1), 0);
    upper_half = !upper_half && (low & 7) == 4;
  }
}

UAPI_TEST("3.4 REGION_INFO", TheVectorTablesRegionSaysSo) {
  const Bound bound(t);
  const u16 msix = capability(t, bound.device, 0x11);
  if (msix == 0) Case::skip("no MSI-X");
  const u32 index = config_read<u32>(t, bound.device, msix + 4u) & 7;
  const auto plain = region(t, bound.device, index);
  if ((plain.flags & vfio_region::kMmap) == 0) Case::skip("its BAR cannot be mapped");
  CHECK(plain.flags & vfio_region::kCaps);
  CHECK_EQ(plain.cap_offset, 0);
  REQUIRE(plain.argsz >= 40);
  const UserMemory memory;
  VfioRegionInfo ask = plain;
  auto* const at = memory.put(ask);
  at->index = index;
  MUST(t.ioctl_at(bound.device, kVfioDeviceGetRegionInfo, at));
  CHECK_EQ(at->cap_offset, 32);
  VfioCapHeader cap;
  std::memcpy(&cap, memory.at(at->cap_offset), sizeof cap);
  CHECK_EQ(cap.id, vfio_region::kCapMsixMappable);
}

// --- pread and pwrite
// -------------------------------------------------------------------------------------------------

UAPI_TEST("3.4 pread", BeyondTheEnd) {
  const Bound bound(t);
  const auto info = bar(t, bound.device);
  const s32 fd = bound.device.number();
  std::byte bytes[16] = {};
  CHECK_EQ(MUST(t.sys.pread(fd, bytes, 16, info.offset + info.size - 8)), 8);  // short
  CHECK_ERRNO(t.sys.pread(fd, bytes, 1, info.offset + info.size), Errno::Einval);
  CHECK_ERRNO(t.sys.pwrite(fd, bytes, 1, info.offset + info.size), Errno::Einval);
  CHECK_EQ(MUST(t.sys.pread(fd, bytes, 0, info.offset + info.size)), 0);
  CHECK_EQ(MUST(t.sys.pwrite(fd, bytes, 0, info.offset + info.size)), 0);
  const auto config = region(t, bound.device, 7);
  CHECK_ERRNO(t.sys.pread(fd, bytes, 1, config.offset + config.size), Errno::Efault);
  CHECK_ERRNO(t.sys.pread(fd, bytes, 2, config.offset + config.size - 1), Errno::Efault);
  CHECK_ERRNO(t.sys.pwrite(fd, bytes, 2, config.offset + config.size - 1), Errno::Efault);
  CHECK_EQ(MUST(t.sys.pread(fd, bytes, 0, config.offset + config.size)), 0);
}

UAPI_TEST("3.4 pread", RegionsThatAreNotThere) {
  const Bound bound(t);
  u32 word = 0;
  for (u32 i = 0; i < 7; ++i) {
    const auto info = region(t, bound.device, i);
    if (info.size != 0) continue;
    CHECK_ERRNO(t.sys.pread(bound.device.number(), &word, 4, info.offset), Errno::Einval);
    CHECK_ERRNO(t.sys.pwrite(bound.device.number(), &word, 4, info.offset), Errno::Einval);
  }
}

UAPI_TEST("3.4 pread", NobodyAnswersWithoutDecoding) {
  const Bound bound(t);
  const auto info = bar(t, bound.device);
  u32 word = 0;
  const s32 fd = bound.device.number();
  CHECK_OK(t.sys.pread(fd, &word, 4, info.offset));
  config_write<u16>(t, bound.device, 4, 0);
  CHECK_ERRNO(t.sys.pread(fd, &word, 4, info.offset), Errno::Eio);
  CHECK_ERRNO(t.sys.pwrite(fd, &word, 4, info.offset), Errno::Eio);
  CHECK_OK(t.sys.pread(fd, &word, 4, region(t, bound.device, 7).offset));
  config_write<u16>(t, bound.device, 4, 2);
  CHECK_OK(t.sys.pread(fd, &word, 4, info.offset));
}

UAPI_TEST("3.4 pread", BadMemoryOfTheProgram) {
  const Bound bound(t);
  const auto info = bar(t, bound.device);
  const UserMemory memory;
  for (const u64 at : {info.offset, region(t, bound.device, 7).offset}) {
    CHECK_ERRNO(t.sys.pread(bound.device.number(), memory.beyond(), 4, at), Errno::Efault);
    CHECK_ERRNO(t.sys.pwrite(bound.device.number(), memory.beyond(), 4, at), Errno::Efault);
  }
}

UAPI_TEST("3.4 pread", TheVectorTableIsTheKernels) {
  const Bound bound(t);
  const u16 msix = capability(t, bound.device, 0x11);
  if (msix == 0) Case::skip("no MSI-X");
  const u32 where = config_read<u32>(t, bound.device, msix + 4u);
  const auto info = region(t, bound.device, where & 7);
  u64 word = 0;
  const s32 fd = bound.device.number();
  MUST(t.sys.pwrite(fd, &word, 8, info.offset + (where & ~7u)));
  CHECK_EQ(MUST(t.sys.pread(fd, &word, 8, info.offset + (where & ~7u))), 8);
  CHECK_EQ(word, ~u64{0});
}

UAPI_PROGRAM_TEST("3.4 mmap", WhatCannotBeMapped) {
  const Bound bound(t);
  const auto map = [&](u64 at, u64 bytes) {
    void* const mapped = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, bound.device.number(), static_cast<off_t>(at));
    if (mapped == MAP_FAILED) return errno;
    munmap(mapped, bytes);
    return 0;
  };
  for (u32 i = 0; i < 8; ++i) {
    const auto info = region(t, bound.device, i);
    if ((info.flags & vfio_region::kMmap) == 0) {
      CHECK_EQ(map(info.offset, kPage), EINVAL);
      continue;
    }
    CHECK_EQ(map(info.offset, info.size), 0);
    CHECK_EQ(map(info.offset + info.size - kPage, kPage), 0);
    CHECK_EQ(map(info.offset, info.size + kPage), EINVAL);
    CHECK_EQ(map(info.offset + info.size, kPage), EINVAL);
  }
}

}  // namespace
}  // namespace perdure::uapi_test::vfio
