// Dirty tracking of page tables (uapi.md 2.7): every check in order, and what the bitmap says, with DMA and without.
#include <set>

#include "tests/uapi/dma_device.h"
#include "tests/uapi/iommufd.h"

namespace perdure::uapi_test::iommufd {
namespace {

using namespace uapi;  // NOLINT(google-build-using-namespace): the structures of one API

constexpr u64 kAt = u64{1} << 32;

// A space with a device, and a page table that can be tracked, where the device's unit can do that.
struct Tracked : Space {
  explicit Tracked(Case& c) : Space(c), device(*this) {
    IommuHwInfo info{};
    info.size = sizeof info;
    info.dev_id = device.id;
    MUST(t.ioctl(fd, kIommuGetHwInfo, info));
    can = (info.out_capabilities & iommu_hw_info::kCapDirtyTracking) != 0;
    IommuHwptAlloc call = device.hwpt(id);
    call.flags = iommu_hwpt::kDirtyTracking;
    const Result<u64> made = t.ioctl(fd, kIommuHwptAlloc, call);
    if (can) {
      CHECK_OK(made);
      hwpt = call.out_hwpt_id;
    } else {
      CHECK_ERRNO(made, Errno::Eopnotsupp);
    }
  }
  Result<u64> track(u32 of, u32 flags) {
    IommuHwptSetDirtyTracking call{.size = sizeof call, .flags = flags, .hwpt_id = of, .reserved = 0};
    return t.ioctl(fd, kIommuHwptSetDirtyTracking, call);
  }
  Result<u64> get(u64 iova, u64 length, u64 page, const void* bits, u32 flags = 0) {
    IommuHwptGetDirtyBitmap call{.size = sizeof call,
                                 .hwpt_id = hwpt,
                                 .flags = flags,
                                 .reserved = 0,
                                 .iova = iova,
                                 .length = length,
                                 .page_size = page,
                                 .data = reinterpret_cast<u64>(bits)};
    return t.ioctl(fd, kIommuHwptGetDirtyBitmap, call);
  }
  Device device;
  bool can = false;
  u32 hwpt = 0;
};

UAPI_TEST("2.7 SET_DIRTY_TRACKING", ChecksInOrder) {
  Tracked s(t);
  CHECK_ERRNO(s.track(99, 2), Errno::Eopnotsupp);
  CHECK_ERRNO(s.track(99, 1), Errno::Enoent);
  CHECK_ERRNO(s.track(s.id, 1), Errno::Enoent);
  CHECK_ERRNO(s.track(s.device.id, 0), Errno::Enoent);
  // One that was not allocated for it, be the unit able or not.
  IommuHwptAlloc plain = s.device.hwpt(s.id);
  MUST(t.ioctl(s.fd, kIommuHwptAlloc, plain));
  CHECK_ERRNO(s.track(plain.out_hwpt_id, 1), Errno::Eopnotsupp);
  CHECK_ERRNO(s.track(plain.out_hwpt_id, 0), Errno::Eopnotsupp);
}

UAPI_TEST("2.7 SET_DIRTY_TRACKING", OnAndOffAnyNumberOfTimesAttachedOrNot) {
  Tracked s(t);
  if (!s.can) return;
  for (const u32 flags : {0U, 1U, 1U, 0U, 0U, 1U}) CHECK_OK(s.track(s.hwpt, flags));
  CHECK_OK(s.device.attach(t, s.hwpt));
  for (const u32 flags : {1U, 0U, 1U}) CHECK_OK(s.track(s.hwpt, flags));
  // One that cannot be tracked may follow, and the other way round.
  CHECK_OK(s.device.attach(t, s.id));
  CHECK_OK(s.device.attach(t, s.hwpt));
}

UAPI_TEST("2.7 GET_DIRTY_BITMAP", WithTracking) {
  Tracked s(t);
  if (!s.can) return;
  s.must_map(kAt, 4 * kPage);
  s.must_map(kAt + 5 * kPage, kPage);
  MUST(s.device.attach(t, s.hwpt));
  u64 bits = 0;
  CHECK_OK(s.get(kAt, 4 * kPage, kPage, &bits));  // off
  CHECK_OK(s.track(s.hwpt, 1));
  CHECK_ERRNO(s.get(kAt, 0, kPage, &bits), Errno::Einval);
  CHECK_ERRNO(s.get(kAll - kPage + 1, 2 * kPage, kPage, &bits), Errno::Eoverflow);
  CHECK_ERRNO(s.get(kAt + 1, kPage, kPage, &bits), Errno::Einval);
  CHECK_ERRNO(s.get(kAt, kPage + 1, kPage, &bits), Errno::Einval);
  CHECK_ERRNO(s.get(kAt, kPage, 0, &bits), Errno::Einval);
  CHECK_ERRNO(s.get(kAt + kPage, 2 * kPage, 2 * kPage, &bits), Errno::Einval);
  CHECK_ERRNO(s.get(kAt, 3 * kPage, 2 * kPage, &bits), Errno::Einval);
  CHECK_ERRNO(s.get(kAt, kPage, kPage, &bits, 2), Errno::Eopnotsupp);
  // Nothing was written: no bit is, and no bitmap is needed.
  bits = 0x5a;
  CHECK_OK(s.get(kAt, 4 * kPage, kPage, &bits));
  CHECK_OK(s.get(kAt, 6 * kPage, kPage, &bits));
  CHECK_OK(s.get(0, kPage, kPage, &bits));
  CHECK_OK(s.get(kAt, 4 * kPage, 2 * kPage, &bits, iommu_dirty::kNoClear));
  CHECK_EQ(bits, 0x5aU);
  CHECK_OK(s.get(kAt, 4 * kPage, kPage, nullptr));
  CHECK_OK(s.track(s.hwpt, 0));
  CHECK_OK(s.get(kAt, 4 * kPage, kPage, &bits));
}

UAPI_TEST("2.7 GET_DIRTY_BITMAP", WhatADeviceWrote) {
  bool can = false;
  {
    Tracked s(t);
    can = s.can;
  }
  if (!can) return;
  DmaDevice dma(t);
  constexpr u64 kBytes = u64{1} << 20;  // pages of their own
  const client::Memfd memory = MUST(client::Memfd::create(t.sys, "written", kBytes));
  MUST(dma.context.map_file(dma.ioas, memory.number(), 0, kBytes, kAt));
  const u32 hwpt = MUST(dma.context.hwpt_alloc_tracking(dma.id, dma.ioas));
  MUST(dma.device.attach(hwpt));
  const UserMemory bitmap;
  u64* const bits = reinterpret_cast<u64*>(bitmap.at());
  const auto told = [&](bool clear) {
    std::memset(bits, 0, kBytes / kPage / 8);
    CHECK_OK(dma.context.dirty_bitmap(hwpt, kAt, kBytes, kPage, bits, clear));
    std::set<u64> pages;
    for (u64 page = 0; page < kBytes / kPage; ++page) {
      if ((bits[page / 64] >> (page % 64) & 1) != 0) pages.insert(page);
    }
    return pages;
  };
  const auto write = [&](u64 page) {
    dma.start(kAt + page * kPage, kPage);
    dma.expect_running();
    dma.stop();
  };
  write(3);
  CHECK(told(false).empty());
  CHECK_OK(dma.context.track_dirty(hwpt, true));
  write(3);
  write(200);
  const std::set<u64> both{3, 200};
  CHECK(told(false) == both);
  // A page that bits cannot be written to costs nothing.
  bitmap.read_only();
  CHECK_ERRNO(dma.context.dirty_bitmap(hwpt, kAt, kBytes, kPage, bits), Errno::Efault);
  bitmap.read_write();
  CHECK(told(true) == both);
  CHECK(told(true).empty());
  write(3);
  CHECK(told(false) == std::set<u64>{3});
  // Off, it is still to be read; on again, it is forgotten.
  CHECK_OK(dma.context.track_dirty(hwpt, false));
  write(5);
  CHECK(told(false) == std::set<u64>{3});
  CHECK_OK(dma.context.track_dirty(hwpt, true));
  CHECK(told(true).empty());
  write(5);
  CHECK(told(true) == std::set<u64>{5});
}

}  // namespace
}  // namespace perdure::uapi_test::iommufd
