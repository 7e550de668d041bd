// Address spaces: every check of their calls, in order (uapi.md 2.1, 2.3 – 2.5).
#include "tests/uapi/iommufd.h"

namespace perdure::uapi_test::iommufd {
namespace {

using namespace uapi;  // NOLINT(google-build-using-namespace): the structures of one API

// --- dispatch --------------------------------------------------------------------------------------------------------

UAPI_TEST("2.1 dispatch", NumbersOutsideTheTableAreEnottyUnread) {
  const Fd fd = t.open(kNode);
  const UserMemory memory;
  for (const u32 cmd : {0x3b00U, 0x3b63U, 0x3b7fU, 0x3bfeU})
    CHECK_ERRNO(t.ioctl_at(fd, cmd, memory.beyond()), Errno::Enotty);
}

UAPI_TEST("2.1 dispatch", GapsReadTheSizeFirst) {
  const Fd fd = t.open(kNode);
  const UserMemory memory;
  const u32 foreign = kIommuIoasAlloc | (u32{12} << 16);  // with size bits
  CHECK_ERRNO(t.ioctl_at(fd, foreign, memory.beyond()), Errno::Efault);
  CHECK_ERRNO(t.ioctl_at(fd, foreign, memory.put(u32{12})), Errno::Enotty);
}

UAPI_TEST("2.1 dispatch", EachOpenIsAContextOfItsOwn) {
  Space one(t), two(t);
  CHECK_EQ(one.id, two.id);
  CHECK_OK(one.destroy(one.id));
  CHECK_OK(two.destroy(two.id));
}

UAPI_TEST("2.1 size", OfEveryCall) {
  Space s(t);
  check_size_rule(t, s.fd, kIommuDestroy, IommuDestroy{.size = 8, .id = s.id});
  check_size_rule(t, s.fd, kIommuIoasAlloc, IommuIoasAlloc{.size = 12, .flags = 0, .out_ioas_id = 0});
  check_size_rule(t, s.fd, kIommuIoasMapFile, s.file(0, kPage));
  check_size_rule(t, s.fd, kIommuIoasCopy, s.copying(0, kPage, kPage));
  IommuIoasAllowIovas allow{};
  check_size_rule(t, s.fd, kIommuIoasAllowIovas, allow);
  check_size_rule(t, s.fd, kIommuOption, IommuOption{});
  check_size_rule(t, s.fd, kIommuIoasUnmap, IommuIoasUnmap{});
  check_size_rule(t, s.fd, kIommuHwptAlloc, IommuHwptAlloc{}, kIommuHwptAllocMin);
  check_size_rule(t, s.fd, kIommuGetHwInfo, IommuHwInfo{}, kIommuHwInfoMin);
  check_size_rule(t, s.fd, kIommuHwptGetDirtyBitmap, IommuHwptGetDirtyBitmap{});
  CHECK_OK(s.destroy(s.id));  // none of them was carried out
}

// --- objects ---------------------------------------------------------------------------------------------------------

UAPI_TEST("2.3 objects", TheLowestFreeIdIsGivenOut) {
  Space s(t);
  CHECK_EQ(s.id, 1U);
  CHECK_EQ(s.ioas(), 2U);
  CHECK_EQ(s.ioas(), 3U);
  CHECK_OK(s.destroy(2));
  CHECK_EQ(s.ioas(), 2U);
}

UAPI_TEST("2.3 objects", DestroyOfNothingIsEnoent) {
  Space s(t);
  CHECK_ERRNO(s.destroy(0), Errno::Enoent);
  CHECK_ERRNO(s.destroy(77), Errno::Enoent);
  CHECK_OK(s.destroy(s.id));
  CHECK_ERRNO(s.destroy(s.id), Errno::Enoent);
}

UAPI_TEST("2.3 objects", WhatIsInUseIsEbusy) {
  Space s(t);
  Device device(s);
  IommuHwptAlloc hwpt = device.hwpt(s.id);
  MUST(t.ioctl(s.fd, kIommuHwptAlloc, hwpt));
  CHECK_ERRNO(s.destroy(s.id), Errno::Ebusy);
  CHECK_ERRNO(s.destroy(device.id), Errno::Ebusy);
  MUST(device.attach(t, hwpt.out_hwpt_id));
  CHECK_ERRNO(s.destroy(hwpt.out_hwpt_id), Errno::Ebusy);
  device.vfio.reset();
  CHECK_OK(s.destroy(hwpt.out_hwpt_id));
  CHECK_OK(s.destroy(s.id));
}

UAPI_TEST("2.5 IOAS_ALLOC", FlagsAreEopnotsupp) {
  const Fd fd = t.open(kNode);
  IommuIoasAlloc call{.size = sizeof call, .flags = 1, .out_ioas_id = 0};
  CHECK_ERRNO(t.ioctl(fd, kIommuIoasAlloc, call), Errno::Eopnotsupp);
}

UAPI_TEST("2.5 IOAS_ALLOC", AnAnswerThatCannotBeWrittenLeavesNothing) {
  Space s(t);
  const UserMemory memory;
  auto* const call = memory.put(IommuIoasAlloc{.size = sizeof(IommuIoasAlloc), .flags = 0, .out_ioas_id = 0});
  memory.read_only();
  CHECK_ERRNO(t.ioctl_at(s.fd, kIommuIoasAlloc, call), Errno::Efault);
  CHECK_EQ(s.ioas(), s.id + 1);
}

// --- ranges ----------------------------------------------------------------------------------------------------------

UAPI_TEST("2.5 IOVA_RANGES", Checks) {
  Space s(t);
  IommuIoasIovaRanges call{};
  call.size = sizeof call;
  call.ioas_id = s.id;
  call.reserved = 1;
  CHECK_ERRNO(t.ioctl(s.fd, kIommuIoasIovaRanges, call), Errno::Eopnotsupp);
  call.reserved = 0;
  call.ioas_id = 99;
  CHECK_ERRNO(t.ioctl(s.fd, kIommuIoasIovaRanges, call), Errno::Enoent);
}

UAPI_TEST("2.5 IOVA_RANGES", TooFewIsEmsgsizeWithTheNumber) {
  Space s(t);
  Device device(s);
  MUST(device.attach(t, s.id));
  IommuIoasIovaRanges call{};
  call.size = sizeof call;
  call.ioas_id = s.id;
  CHECK_ERRNO(t.ioctl(s.fd, kIommuIoasIovaRanges, call), Errno::Emsgsize);
  CHECK(call.num_iovas >= 2);  // below and above the window of messages
  CHECK_EQ(call.out_iova_alignment, kPage);
  std::vector<IommuIovaRange> ranges(call.num_iovas);
  call.allowed_iovas = reinterpret_cast<u64>(ranges.data());
  MUST(t.ioctl(s.fd, kIommuIoasIovaRanges, call));
  CHECK_EQ(ranges[0].start, 0U);
  CHECK_EQ(ranges[0].last, 0xfedfffffU);
  CHECK_EQ(ranges[1].start, 0xfef00000U);
}

UAPI_TEST("2.5 ALLOW_IOVAS", Checks) {
  Space s(t);
  CHECK_ERRNO(s.allow({}, 1), Errno::Eopnotsupp);
  IommuIoasAllowIovas call{.size = sizeof call, .ioas_id = 99, .num_iovas = 0, .reserved = 0, .allowed_iovas = 0};
  CHECK_ERRNO(t.ioctl(s.fd, kIommuIoasAllowIovas, call), Errno::Enoent);
  const UserMemory memory;
  call.ioas_id = s.id;
  call.num_iovas = 1;
  call.allowed_iovas = reinterpret_cast<u64>(memory.beyond());
  CHECK_ERRNO(t.ioctl(s.fd, kIommuIoasAllowIovas, call), Errno::Efault);
  CHECK_ERRNO(s.allow({{2 * kPage, kPage}}), Errno::Einval);
  CHECK_ERRNO(s.allow({{kPage, kPage}}), Errno::Einval);
  CHECK_ERRNO(s.allow({{kPage, 3 * kPage}, {2 * kPage, 4 * kPage}}), Errno::Einval);
  CHECK_ERRNO(s.allow({{4 * kPage, 6 * kPage}, {kPage, 4 * kPage}}), Errno::Einval);
  CHECK_OK(s.allow({{4 * kPage, 6 * kPage}, {kPage, 4 * kPage - 1}}));
}

UAPI_TEST("2.5 ALLOW_IOVAS", AddressesAreChosenFromThem) {
  Space s(t);
  CHECK_OK(s.allow({{0x900000, 0x900000 + 2 * kPage - 1}, {0x500000, 0x500000 + kPage - 1}}));
  CHECK_EQ(MUST(s.map_anywhere(kPage)), 0x500000U);
  CHECK_EQ(MUST(s.map_anywhere(kPage)), 0x900000U);
  CHECK_EQ(MUST(s.map_anywhere(kPage)), 0x901000U);
  CHECK_ERRNO(s.map_anywhere(kPage), Errno::Enospc);
  s.must_map(0x100000, kPage);  // fixed addresses go by nothing of it
  CHECK_OK(s.allow({}));
  CHECK_EQ(MUST(s.map_anywhere(kPage)), kPage);
}

UAPI_TEST("2.5 ALLOW_IOVAS", WhatIsReservedIsEaddrinuseAndTheOtherWayRound) {
  Space s(t);
  Device device(s);
  MUST(device.attach(t, s.id));
  CHECK_ERRNO(s.allow({{0xfee00000, 0xfee00fff}}), Errno::Eaddrinuse);
  Space other(t);
  MUST(other.allow({{0xfee00000, 0xfee00fff}}));
  device.vfio.reset();
  Device again(other);
  CHECK_ERRNO(again.attach(t, other.id), Errno::Eaddrinuse);
  MUST(other.allow({}));
  CHECK_OK(again.attach(t, other.id));
}

// --- mapping ---------------------------------------------------------------------------------------------------------

UAPI_TEST("2.5 MAP", ChecksInOrder) {
  Space s(t);
  const UserMemory memory(2);
  IommuIoasMap call{};
  call.size = sizeof call;
  call.flags = 8;
  call.ioas_id = 99;
  call.reserved = 1;
  call.length = kAll;
  const auto error = [&] { return t.ioctl(s.fd, kIommuIoasMap, call); };
  CHECK_ERRNO(error(), Errno::Eopnotsupp);
  call.flags = kFixed;
  CHECK_ERRNO(error(), Errno::Eopnotsupp);
  call.reserved = 0;
  CHECK_ERRNO(error(), Errno::Eoverflow);
  call.length = 0;
  call.iova = kAll;
  CHECK_ERRNO(error(), Errno::Eoverflow);
  call.iova = 0;
  CHECK_ERRNO(error(), Errno::Einval);  // neither to read nor to write
  call.flags |= kBoth;
  CHECK_ERRNO(error(), Errno::Enoent);
  call.ioas_id = s.id;
  call.user_va = kAll - kPage;
  call.length = 2 * kPage;
  CHECK_ERRNO(error(), Errno::Eoverflow);
  call.user_va = reinterpret_cast<u64>(memory.at());
  call.length = 0;
  CHECK_ERRNO(error(), Errno::Einval);
  call.length = kPage;
  call.iova = kAll - 1;
  CHECK_ERRNO(error(), Errno::Eoverflow);
  call.iova = kPage;
  CHECK_OK(error());
  CHECK_ERRNO(error(), Errno::Eexist);
}

UAPI_TEST("2.5 MAP", WithoutADomainNothingIsPinnedOrAligned) {
  Space s(t);
  IommuIoasMap call{};
  call.size = sizeof call;
  call.flags = kFixed | kBoth;
  call.ioas_id = s.id;
  call.user_va = 0x1001;  // nothing is there
  call.length = 5;
  call.iova = 0x123;
  CHECK_OK(t.ioctl(s.fd, kIommuIoasMap, call));
  Device device(s);
  CHECK_ERRNO(device.attach(t, s.id), Errno::Eaddrinuse);  // not aligned to its pages
  CHECK_EQ(MUST(s.unmap(0x123, 5)), 5U);
  call.user_va = kPage;
  call.length = kPage;
  call.iova = kPage;
  MUST(t.ioctl(s.fd, kIommuIoasMap, call));
  CHECK_ERRNO(device.attach(t, s.id), Errno::Efault);
  CHECK_OK(s.unmap(0, kAll));
  CHECK_OK(device.attach(t, s.id));
  CHECK_ERRNO(t.ioctl(s.fd, kIommuIoasMap, call), Errno::Efault);
}

UAPI_TEST("2.5 MAP_FILE", ChecksInOrder) {
  Space s(t);
  IommuIoasMapFile call = s.file(0, kAll, 8);
  const auto error = [&] { return s.map(call); };
  CHECK_ERRNO(error(), Errno::Eopnotsupp);
  call.flags = kFixed;
  CHECK_ERRNO(error(), Errno::Eoverflow);
  call.length = 0;
  CHECK_ERRNO(error(), Errno::Einval);
  call.flags |= kRead;
  call.ioas_id = 99;
  CHECK_ERRNO(error(), Errno::Enoent);
  call.ioas_id = s.id;
  CHECK_ERRNO(error(), Errno::Einval);
  call.start = kAll - 1;
  call.length = kPage;
  call.fd = -1;
  CHECK_ERRNO(error(), Errno::Eoverflow);
  call.start = 0;
  CHECK_ERRNO(error(), Errno::Ebadf);
  call.fd = s.memory.number();
  CHECK_OK(error());
  CHECK_ERRNO(error(), Errno::Eexist);
}

UAPI_TEST("2.5 MAP_FILE", WhatIsNoMemoryOrBeyondItsEndIsEinvalWhenPinned) {
  Space s(t);
  IommuIoasMapFile call = s.file(kPage, kPage);
  call.start = Space::kBytes;
  CHECK_OK(s.map(call));  // nobody looks yet
  Device device(s);
  CHECK_ERRNO(device.attach(t, s.id), Errno::Einval);
  MUST(s.unmap(0, kAll));
  MUST(device.attach(t, s.id));
  CHECK_ERRNO(s.map(call), Errno::Einval);
  call.start = 0;
  call.fd = s.fd.number();
  CHECK_ERRNO(s.map(call), Errno::Einval);
}

UAPI_TEST("2.5 MAP_FILE", FixedIntoReservedIsEinval) {
  Space s(t);
  Device device(s);
  MUST(device.attach(t, s.id));
  CHECK_ERRNO(s.map(s.file(0xfee00000, kPage)), Errno::Einval);
  CHECK_ERRNO(s.map(s.file(kPage + 1, kPage)), Errno::Einval);
  CHECK_ERRNO(s.map(s.file(kPage, kPage + 1)), Errno::Einval);
}

UAPI_TEST("2.4 automatic IOVA", LowestFitAtTheAlignmentOfTheSource) {
  Space s(t);
  CHECK_EQ(MUST(s.map_anywhere(kPage)), kPage);
  CHECK_EQ(MUST(s.map_anywhere(kPage)), 2 * kPage);
  CHECK_EQ(MUST(s.map_anywhere(2 * kPage)), 4 * kPage);         // round_up_pow2(length)
  CHECK_EQ(MUST(s.map_anywhere(4 * kPage, kPage)), 6 * kPage);  // the source is only page aligned
  CHECK_EQ(MUST(s.map_anywhere(u64{4} << 20)), u64{2} << 20);   // at most a large page
  CHECK_EQ(MUST(s.map_anywhere(16, 16)), 3 * kPage + 16);       // bytes within the page as in the source
}

UAPI_TEST("2.4 automatic IOVA", HalfOfAllThereIsCannotFit) {
  Space s(t);
  CHECK_ERRNO(s.map_anywhere(u64{1} << 63), Errno::Eoverflow);
}

// --- unmapping -------------------------------------------------------------------------------------------------------

UAPI_TEST("2.5 UNMAP", Checks) {
  Space s(t);
  IommuIoasUnmap call{.size = sizeof call, .ioas_id = 99, .iova = kAll, .length = 0};
  CHECK_ERRNO(t.ioctl(s.fd, kIommuIoasUnmap, call), Errno::Enoent);
  CHECK_EQ(MUST(s.unmap(0, kAll)), 0U);
  CHECK_ERRNO(s.unmap(kAll, 1), Errno::Eoverflow);
  CHECK_ERRNO(s.unmap(1, kAll), Errno::Eoverflow);
  CHECK_ERRNO(s.unmap(kPage, 0), Errno::Einval);
  CHECK_ERRNO(s.unmap(kAll - 1, 3), Errno::Eoverflow);
  CHECK_ERRNO(s.unmap(kPage, kPage), Errno::Enoent);
}

UAPI_TEST("2.5 UNMAP", PartOfAnAreaIsEnoentAndThoseBeforeItAreGone) {
  Space s(t);
  s.must_map(kPage, kPage);
  s.must_map(2 * kPage, 2 * kPage);
  CHECK_ERRNO(s.unmap(kPage, 2 * kPage), Errno::Enoent);
  CHECK_ERRNO(s.unmap(kPage, kPage), Errno::Enoent);
  CHECK_EQ(MUST(s.unmap(kPage, 4 * kPage)), 2 * kPage);
}

// --- copying ---------------------------------------------------------------------------------------------------------

UAPI_TEST("2.5 COPY", ChecksInOrder) {
  Space s(t);
  s.must_map(0x10000, 2 * kPage);
  s.must_map(0x12000, kPage);
  s.must_map(0x20000, kPage, kFixed | kRead);
  IommuIoasCopy call = s.copying(kAll, 0, 0x40000, 8);
  call.src_ioas_id = 98;
  call.dst_ioas_id = 99;
  CHECK_ERRNO(s.copy(call), Errno::Eopnotsupp);
  call.flags = kFixed;
  CHECK_ERRNO(s.copy(call), Errno::Eoverflow);
  call.src_iova = 0x10000;
  CHECK_ERRNO(s.copy(call), Errno::Einval);  // neither to read nor to write
  call.flags |= kBoth;
  call.src_ioas_id = 98;
  CHECK(!s.copy(call));
  call.src_ioas_id = s.id;
  call.dst_ioas_id = s.id;
  CHECK_ERRNO(s.copy(call), Errno::Einval);  // length 0
  call.src_iova = kAll - 1;
  call.length = 3;
  CHECK_ERRNO(s.copy(call), Errno::Eoverflow);
  call.src_iova = 0x10000;
  call.length = 4 * kPage;
  CHECK_ERRNO(s.copy(call), Errno::Enoent);  // a hole at the end
  call.src_iova = 0x18000;
  call.length = kPage;
  CHECK_ERRNO(s.copy(call), Errno::Enoent);
  call.src_iova = 0x10000;
  call.dst_iova = 0x11000;
  CHECK_ERRNO(s.copy(call), Errno::Eexist);
  call.src_iova = 0x20000;
  call.dst_iova = 0x40000;
  CHECK_ERRNO(s.copy(call), Errno::Eperm);  // was mapped to be read
  call.flags = kFixed | kRead;
  CHECK_OK(s.copy(call));
}

UAPI_TEST("2.5 COPY", PiecesOfAreasOneForEach) {
  Space s(t);
  s.must_map(0x10000, 2 * kPage);
  s.must_map(0x12000, 2 * kPage);
  CHECK_EQ(MUST(s.copy(s.copying(0x11000, 2 * kPage, 0x40000))), 0x40000U);
  CHECK_ERRNO(s.unmap(0x40000, kPage / 2), Errno::Enoent);
  CHECK_EQ(MUST(s.unmap(0x40000, kPage)), kPage);
  CHECK_EQ(MUST(s.unmap(0x41000, kPage)), kPage);
  // What the source loses the copy keeps.
  MUST(s.copy(s.copying(0x10000, 4 * kPage, 0x50000)));
  MUST(s.unmap(0x10000, 4 * kPage));
  CHECK_EQ(MUST(s.unmap(0x50000, 4 * kPage)), 4 * kPage);
}

UAPI_TEST("2.5 COPY", IntoAnotherSpaceAndWhereItFits) {
  Space s(t);
  const u32 other = s.ioas();
  s.must_map(0x10000, 2 * kPage);
  IommuIoasCopy call = s.copying(0x10000, 2 * kPage, 0, kBoth);
  call.dst_ioas_id = other;
  const u64 at = MUST(s.copy(call));
  CHECK_EQ(at, 2 * kPage);
  call.dst_ioas_id = 99;
  CHECK_ERRNO(s.copy(call), Errno::Enoent);
}

UAPI_TEST("2.5 COPY", ADeviceReachesTheSameMemory) {
  Space s(t);
  Device device(s);
  MUST(device.attach(t, s.id));
  s.must_map(0x200000, u64{2} << 20);
  CHECK_OK(s.copy(s.copying(0x200000, u64{2} << 20, 0x800000)));
  CHECK_ERRNO(s.copy(s.copying(0x200000, kPage, 0xfee00000)), Errno::Einval);
  CHECK_OK(s.unmap(0x200000, u64{2} << 20));
  CHECK_OK(s.unmap(0x800000, u64{2} << 20));
}

// --- options ---------------------------------------------------------------------------------------------------------

UAPI_TEST("2.5 OPTION", Checks) {
  Space s(t);
  IommuOption call{.size = sizeof call, .option_id = 0, .op = 1, .reserved = 1, .object_id = 0, .val64 = 0};
  CHECK_ERRNO(t.ioctl(s.fd, kIommuOption, call), Errno::Eopnotsupp);
  CHECK_ERRNO(s.option(2, iommu_option::kGet, 0), Errno::Eopnotsupp);
  CHECK_ERRNO(s.option(iommu_option::kRlimitMode, iommu_option::kGet, s.id), Errno::Eopnotsupp);
  CHECK_ERRNO(s.option(iommu_option::kRlimitMode, 2, 0), Errno::Eopnotsupp);
  CHECK_ERRNO(s.option(iommu_option::kHugePages, iommu_option::kGet, 0), Errno::Enoent);
  CHECK_ERRNO(s.option(iommu_option::kHugePages, 2, s.id), Errno::Eopnotsupp);
  CHECK_ERRNO(s.option(iommu_option::kHugePages, iommu_option::kSet, s.id, 2), Errno::Einval);
}

UAPI_TEST("2.5 OPTION RLIMIT_MODE", OnlyWithoutObjects) {
  Space s(t);
  CHECK_EQ(MUST(s.option(iommu_option::kRlimitMode, iommu_option::kGet, 0)), 0U);
  CHECK_ERRNO(s.option(iommu_option::kRlimitMode, iommu_option::kSet, 0, 1), Errno::Ebusy);
  MUST(s.destroy(s.id));
  CHECK_ERRNO(s.option(iommu_option::kRlimitMode, iommu_option::kSet, 0, 2), Errno::Einval);
  CHECK_OK(s.option(iommu_option::kRlimitMode, iommu_option::kSet, 0, 1));
  CHECK_EQ(MUST(s.option(iommu_option::kRlimitMode, iommu_option::kGet, 0)), 1U);
}

UAPI_TEST("2.5 OPTION HUGE_PAGES", OffMeansAligned) {
  Space s(t);
  CHECK_EQ(MUST(s.option(iommu_option::kHugePages, iommu_option::kGet, s.id)), 1U);
  s.must_map(0x10001, 3);
  CHECK_ERRNO(s.option(iommu_option::kHugePages, iommu_option::kSet, s.id, 0), Errno::Eaddrinuse);
  MUST(s.unmap(0, kAll));
  CHECK_OK(s.option(iommu_option::kHugePages, iommu_option::kSet, s.id, 0));
  CHECK_OK(s.option(iommu_option::kHugePages, iommu_option::kSet, s.id, 0));
  CHECK_EQ(MUST(s.option(iommu_option::kHugePages, iommu_option::kGet, s.id)), 0U);
  CHECK_ERRNO(s.map(s.file(0x10001, 3)), Errno::Einval);
  CHECK_OK(s.option(iommu_option::kHugePages, iommu_option::kSet, s.id, 1));
  CHECK_OK(s.map(s.file(0x10001, 3)));
}

UAPI_TEST("2.5 OPTION HUGE_PAGES", NotUnderWhatADomainMaps) {
  Space s(t);
  Device device(s);
  MUST(device.attach(t, s.id));
  CHECK_OK(s.option(iommu_option::kHugePages, iommu_option::kSet, s.id, 0));
  s.must_map(u64{2} << 20, u64{2} << 20);
  CHECK_OK(s.option(iommu_option::kHugePages, iommu_option::kSet, s.id, 1));
  CHECK_ERRNO(s.option(iommu_option::kHugePages, iommu_option::kSet, s.id, 0), Errno::Einval);
  MUST(s.unmap(0, kAll));
  CHECK_OK(s.option(iommu_option::kHugePages, iommu_option::kSet, s.id, 0));
}

UAPI_TEST("2.5 CHANGE_PROCESS", OnlyFilesCanBeHandedOver) {
  Space s(t);
  IommuIoasChangeProcess call{.size = sizeof call, .reserved = 1};
  CHECK_ERRNO(t.ioctl(s.fd, kIommuIoasChangeProcess, call), Errno::Eopnotsupp);
  call.reserved = 0;
  CHECK_OK(t.ioctl(s.fd, kIommuIoasChangeProcess, call));
  s.must_map(0x10000, kPage);
  CHECK_OK(t.ioctl(s.fd, kIommuIoasChangeProcess, call));
  const UserMemory memory;
  IommuIoasMap map{};
  map.size = sizeof map;
  map.flags = kFixed | kBoth;
  map.ioas_id = s.id;
  map.user_va = reinterpret_cast<u64>(memory.at());
  map.length = kPage;
  map.iova = 0x20000;
  MUST(t.ioctl(s.fd, kIommuIoasMap, map));
  CHECK_ERRNO(t.ioctl(s.fd, kIommuIoasChangeProcess, call), Errno::Einval);
}

// --- page tables -----------------------------------------------------------------------------------------------------

UAPI_TEST("2.7 HWPT_ALLOC", ChecksInOrder) {
  Space s(t);
  Device device(s);
  IommuHwptAlloc call = device.hwpt(99);
  call.reserved = 1;
  call.data_len = 4;
  call.dev_id = 98;
  const auto error = [&] { return t.ioctl(s.fd, kIommuHwptAlloc, call); };
  CHECK_ERRNO(error(), Errno::Eopnotsupp);
  call.reserved = 0;
  CHECK_ERRNO(error(), Errno::Einval);
  call.data_len = 0;
  CHECK_ERRNO(error(), Errno::Enoent);
  call.dev_id = device.id;
  CHECK_ERRNO(error(), Errno::Einval);
  call.pt_id = device.id;
  CHECK_ERRNO(error(), Errno::Einval);
  call.pt_id = s.id;
  call.flags = 0x10;
  CHECK_ERRNO(error(), Errno::Eopnotsupp);
  call.flags = 0;
  CHECK_OK(error());
}

UAPI_TEST("2.7 GET_DIRTY_BITMAP", ChecksInOrder) {
  Space s(t);
  Device device(s);
  IommuHwptAlloc hwpt = device.hwpt(s.id);
  MUST(t.ioctl(s.fd, kIommuHwptAlloc, hwpt));
  IommuHwptGetDirtyBitmap call{};
  call.size = sizeof call;
  call.flags = 2;
  call.hwpt_id = 99;
  const auto error = [&] { return t.ioctl(s.fd, kIommuHwptGetDirtyBitmap, call); };
  CHECK_ERRNO(error(), Errno::Eopnotsupp);
  call.flags = 0;
  CHECK_ERRNO(error(), Errno::Enoent);
  call.hwpt_id = hwpt.out_hwpt_id;
  CHECK_ERRNO(error(), Errno::Einval);
  call.length = kPage;
  call.iova = kAll - 1;
  CHECK_ERRNO(error(), Errno::Eoverflow);
  call.iova = 1;
  CHECK_ERRNO(error(), Errno::Einval);
  call.iova = kPage;
  CHECK_ERRNO(error(), Errno::Einval);  // no page size
  call.page_size = 2 * kPage;
  CHECK_ERRNO(error(), Errno::Einval);
}

UAPI_TEST("2.7 GET_HW_INFO", ChecksAndZeroFill) {
  Space s(t);
  Device device(s);
  const UserMemory memory;
  std::memset(memory.at(), 0xff, 256);
  IommuHwInfo call{};
  call.size = sizeof call;
  call.flags = 2;
  call.dev_id = 99;
  call.data_len = 256;
  call.data_uptr = reinterpret_cast<u64>(memory.at());
  const auto error = [&] { return t.ioctl(s.fd, kIommuGetHwInfo, call); };
  CHECK_ERRNO(error(), Errno::Eopnotsupp);
  call.flags = 0;
  call.reserved[0] = 1;
  CHECK_ERRNO(error(), Errno::Eopnotsupp);
  call.reserved[0] = 0;
  CHECK_ERRNO(error(), Errno::Enoent);
  call.dev_id = device.id;
  call.flags = iommu_hw_info::kFlagInputType;
  call.data_type = 77;
  CHECK_ERRNO(error(), Errno::Eopnotsupp);
  call.flags = 0;
  CHECK_OK(error());  // the type is not looked at
  CHECK_EQ(call.data_type, iommu_hw_info::kTypeIntelVtd);
  CHECK_EQ(call.data_len, sizeof(IommuHwInfoVtd));
  for (usize i = sizeof(IommuHwInfoVtd); i < 256; ++i) CHECK_EQ(std::to_integer<unsigned>(*memory.at(i)), 0U);
  call.data_len = 4;
  call.data_uptr = reinterpret_cast<u64>(memory.beyond());
  CHECK_ERRNO(error(), Errno::Efault);
}

// --- attaching -------------------------------------------------------------------------------------------------------

UAPI_TEST("2.8 attach", AnAutomaticTableGoesWithItsLastDevice) {
  Space s(t);
  Device device(s);
  const u32 hwpt = MUST(device.attach(t, s.id));
  CHECK_ERRNO(s.destroy(hwpt), Errno::Ebusy);
  CHECK_EQ(MUST(device.attach(t, s.id)), hwpt);  // the same: nothing happens
  const u32 other = s.ioas();
  const u32 second = MUST(device.attach(t, other));
  CHECK(second != hwpt);
  CHECK_ERRNO(s.destroy(hwpt), Errno::Enoent);
  CHECK_OK(s.destroy(s.id));
  CHECK_ERRNO(device.attach(t, 99), Errno::Enoent);
  CHECK_ERRNO(device.attach(t, device.id), Errno::Einval);
}

UAPI_TEST("2.8 attach", AFailedReplaceLeavesTheFormerTable) {
  Space s(t);
  Device device(s);
  const u32 hwpt = MUST(device.attach(t, s.id));
  Space bad(t);
  const u32 other = s.ioas();
  IommuIoasMapFile call = s.file(0xfee00000, kPage);
  call.ioas_id = other;
  MUST(s.map(call));
  CHECK_ERRNO(device.attach(t, other), Errno::Eaddrinuse);
  CHECK_EQ(MUST(device.attach(t, s.id)), hwpt);
}

}  // namespace
}  // namespace perdure::uapi_test::iommufd
