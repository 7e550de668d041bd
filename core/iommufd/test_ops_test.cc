// IOMMU_TEST_CMD (uapi §6) and the kernel's own accesses to an IOAS (§2.12).
#include <gmock/gmock.h>

#include "core/iommufd/access_file.h"
#include "core/iommufd/testing/iommufd_world.h"
#include "core/uapi/vfio.h"

namespace perdure::testing {
namespace {

namespace ops = uapi::iommu_test;

constexpr u64 kMiB = u64{1} << 20;
constexpr u64 kVa = u64{1} << 20;
constexpr u32 kRo = uapi::iommu_map::kReadable | uapi::iommu_map::kFixedIova;

class TestOps : public ::testing::Test {
 protected:
  static constexpr SourceId a0 = IommufdWorld::a0;
  // Before anything is open.
  struct World : IommufdWorld {
    World() {
      restart_with([](iommufd::Iommufd::Config& built) { built.test_ops = true; });
    }
  };

  // The answer's arguments, or why not.
  template <class Args>
  Result<Args> op(u32 number, u32 id, const Args& args, s32 on = -1) {
    uapi::IommuTestCmd cmd{.size = sizeof(cmd), .op = number, .id = id};
    cmd.set(args);
    TRY(w.call(on < 0 ? fd : on, uapi::kIommuTestCmd, cmd));
    return cmd.get<Args>();
  }
  Errno reserve(u32 id, u64 start, u64 length) {
    return error_of(op(ops::kAddReserved, id, ops::AddReserved{start, length}));
  }
  Errno refs(u64 va, u64 length, u32 refs) {
    return error_of(op(ops::kMdCheckRefs, 0, ops::CheckRefs{.length = length, .uptr = va, .refs = refs}));
  }
  Result<s32> make(u32 id, u32 flags = ops::kCreateNeedsPin) {
    const auto made = TRY(op(ops::kCreateAccess, id, ops::CreateAccess{.out_access_fd = 0, .flags = flags}));
    return made.out_access_fd;
  }
  Result<u32> pin(s32 access, u64 iova, u64 length, u32 flags = 0, u64 va = 0) {
    const auto pinned = TRY(op(ops::kAccessPages, static_cast<u32>(access),
                               ops::AccessPages{.flags = flags, .iova = iova, .length = length, .uptr = va}));
    return pinned.out_access_pages_id;
  }
  Errno drop(s32 access, u32 number) {
    return error_of(op(ops::kDestroyAccessPages, static_cast<u32>(access), ops::DestroyAccessPages{number}));
  }
  Errno replace(s32 access, u32 id) {
    return error_of(op(ops::kAccessReplaceIoas, static_cast<u32>(access), ops::ReplaceIoas{id}));
  }
  Errno rw(s32 access, u64 iova, u64 length, UserAddr at, u32 flags = 0) {
    return error_of(op(ops::kAccessRw, static_cast<u32>(access),
                       ops::AccessRw{.iova = iova, .length = length, .uptr = at.value, .flags = flags}));
  }
  std::string text(UserAddr at, usize bytes) {
    std::string s(bytes, '\0');
    EXPECT_TRUE(w.task.copy_in(std::as_writable_bytes(std::span(s)), at));
    return s;
  }
  UserAddr put(std::string_view s) {
    const UserAddr at = w.task.allocate(s.size());
    EXPECT_TRUE(w.task.copy_out(at, std::as_bytes(std::span(s))));
    return at;
  }
  u64 pinned() { return w.task.own_process->pinned_pages(); }

  World w;
  s32 fd = w.open();
  u32 ioas = w.ioas(fd);
};

// --- dispatch -----------------------------------------------------------------------------------------------------

TEST_F(TestOps, OnlyWhereTheKernelHasThem) {
  const UserAddr bad(8);
  EXPECT_EQ(error_of(w.file(fd).ioctl(w.task, 0x3ba1, bad)), Errno::Enotty) << "beyond the table";
  EXPECT_EQ(error_of(w.file(fd).ioctl(w.task, 0x3b9f, bad)), Errno::Efault) << "a gap: the size is read first";
  EXPECT_EQ(error_of(w.file(fd).ioctl(w.task, 0x3b9f, w.task.put(u32{72}))), Errno::Enotty);
  EXPECT_EQ(error_of(w.file(fd).ioctl(w.task, uapi::kIommuTestCmd, w.task.put(u32{67}))), Errno::Einval);
  EXPECT_EQ(error_of(op(0, 0, ops::MemoryLimit{12})), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(op(24, 0, ops::MemoryLimit{12})), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(op(ops::kSetTempMemoryLimit, 0, ops::MemoryLimit{11})), Errno::Einval);
  EXPECT_EQ(error_of(op(ops::kSetTempMemoryLimit, 0, ops::MemoryLimit{12})), Errno{});
  w.restart_with([](iommufd::Iommufd::Config& config) { config.test_ops = false; });
  fd = w.open();
  EXPECT_EQ(error_of(w.file(fd).ioctl(w.task, uapi::kIommuTestCmd, bad)), Errno::Enotty);
  EXPECT_EQ(error_of(w.file(fd).ioctl(w.task, 0x3b9f, bad)), Errno::Enotty);
}

TEST_F(TestOps, WithoutATestDeviceThereAreNoneAndNoneIsMade) {
  const ops::TestDevice none{.dev_id = 77};
  for (const u32 number : {ops::kMockDomain, ops::kMockDomainFlags, ops::kDirty, ops::kDevCheckCache}) {
    EXPECT_EQ(error_of(op(number, 77, none)), Errno::Enoent) << number;
  }
  for (const u32 number : {ops::kMockDomainReplace, ops::kPasidAttach, ops::kPasidReplace, ops::kPasidDetach,
                           ops::kPasidCheckHwpt, ops::kMdCheckIotlb, ops::kTriggerIopf, ops::kTriggerVevent}) {
    EXPECT_EQ(error_of(op(number, ioas, none)), Errno::Enoent) << number;
  }
  Ref<iommufd::Device> device = w.bind(fd, a0);
  const ops::TestDevice real{.dev_id = device->id()};
  EXPECT_EQ(error_of(op(ops::kMockDomain, ioas, none)), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(op(ops::kDevCheckCache, device->id(), none)), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(op(ops::kTriggerIopf, 0, real)), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(op(ops::kTriggerVevent, 0, real)), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(op(ops::kDmabufGet, 0, none)), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(op(ops::kDmabufRevoke, 0, none)), Errno::Eopnotsupp);
  w.file(fd).unbind(*device);
}

// --- addresses ----------------------------------------------------------------------------------------------------

TEST_F(TestOps, ReservedRangesStay) {
  EXPECT_EQ(reserve(99, 0, 0), Errno::Einval);
  EXPECT_EQ(reserve(99, ~u64{0}, 2), Errno::Eoverflow);
  EXPECT_EQ(reserve(99, 0, 1), Errno::Enoent);
  const auto m = w.memfd(kMiB);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0x4000));
  EXPECT_EQ(reserve(ioas, 0x4fff, 2), Errno::Eaddrinuse);
  EXPECT_EQ(reserve(ioas, 0x1000, 0x3000), Errno{});
  EXPECT_EQ(reserve(ioas, ~u64{0}, 1), Errno{}) << "the last byte there is";
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0x3000)), Errno::Einval);
  EXPECT_EQ(*w.map_file(fd, ioas, m.fd, 0, kPageSize, 0, IommufdWorld::kRw), 0x5000u);
  // What is left at the end is shorter than the alignment, which must not wrap around.
  const u32 other = w.ioas(fd);
  EXPECT_EQ(reserve(other, 6, 0xffff'ffff'ffff'8001), Errno{});
  EXPECT_EQ(error_of(w.map_file(fd, other, m.fd, 0, 5 * kPageSize, 0, IommufdWorld::kRw)), Errno::Enospc);
}

// The next kernel's IOAS would not have them (uapi §6, iommu-liveupdate §3.1).
TEST_F(TestOps, AnIoasWithReservedRangesIsNotPreserved) {
  Ref<iommufd::Device> device = w.bind(fd, a0);
  const u32 hwpt = *w.hwpt(fd, device->id(), ioas);
  ASSERT_TRUE(w.mark(fd, hwpt, 5));
  EXPECT_EQ(reserve(ioas, 0x1000, 0x1000), Errno{});
  EXPECT_EQ(error_of(w.preserve(fd, 7)), Errno::Eopnotsupp);
  EXPECT_THAT(w.machine().lines.back(), ::testing::HasSubstr("reserved"));
  w.file(fd).unbind(*device);
}

// --- pins ---------------------------------------------------------------------------------------------------------

TEST_F(TestOps, PinsOfAPageAreCountedThroughEveryContext) {
  const auto m = w.memfd(kMiB);
  w.task.map_shared(UserAddr(kVa), 4 * kPageSize, m.memory, 0);
  EXPECT_EQ(refs(kVa + 1, kPageSize, 0), Errno::Einval);
  EXPECT_EQ(refs(kVa, 0x800, 0), Errno::Einval);
  EXPECT_EQ(refs(~u64{0} - 0xfff, 2 * kPageSize, 0), Errno::Einval);
  EXPECT_EQ(refs(kVa, 5 * kPageSize, 0), Errno::Efault);
  EXPECT_EQ(refs(kVa, 4 * kPageSize, 0), Errno{});
  EXPECT_EQ(refs(kVa, kPageSize, 1), Errno::Eio);

  ASSERT_TRUE(w.map(fd, ioas, kVa, 2 * kPageSize, 0x10000));
  uapi::IommuIoasCopy copy{.size = sizeof(copy),
                           .flags = IommufdWorld::kRw | uapi::iommu_map::kFixedIova,
                           .dst_ioas_id = ioas,
                           .src_ioas_id = ioas,
                           .length = kPageSize,
                           .dst_iova = 0x20000,
                           .src_iova = 0x10000};
  ASSERT_TRUE(w.call(fd, uapi::kIommuIoasCopy, copy));
  EXPECT_EQ(refs(kVa, 4 * kPageSize, 0), Errno{}) << "nothing is pinned without a domain";
  Ref<iommufd::Device> device = w.bind(fd, a0);
  const u32 hwpt = *w.hwpt(fd, device->id(), ioas);
  EXPECT_EQ(refs(kVa, 2 * kPageSize, 1), Errno{}) << "a copy shares its pages";
  EXPECT_EQ(refs(kVa, 3 * kPageSize, 1), Errno::Eio);
  EXPECT_EQ(refs(kVa + 2 * kPageSize, 2 * kPageSize, 0), Errno{});

  // The same page by another way, in another context.
  const s32 other = w.open();
  const u32 there = w.ioas(other);
  ASSERT_TRUE(w.map_file(other, there, m.fd, kPageSize, kPageSize, 0));
  const s32 access =
      (*op(ops::kCreateAccess, there, ops::CreateAccess{.flags = ops::kCreateNeedsPin}, other)).out_access_fd;
  ASSERT_TRUE(pin(access, 0, kPageSize));
  EXPECT_EQ(refs(kVa, kPageSize, 1), Errno{});
  EXPECT_EQ(refs(kVa + kPageSize, kPageSize, 2), Errno{});
  w.task.close(access);
  EXPECT_EQ(refs(kVa, 2 * kPageSize, 1), Errno{});
  ASSERT_TRUE(w.destroy(fd, hwpt));
  EXPECT_EQ(refs(kVa, 4 * kPageSize, 0), Errno{});
  w.file(fd).unbind(*device);
}

TEST_F(TestOps, WhatHardwareReachesIsComparedWithTheProgramsMemory) {
  const auto m = w.memfd(kMiB), n = w.memfd(kMiB);
  w.task.map_shared(UserAddr(kVa), 4 * kPageSize, m.memory, 0);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  const u32 hwpt = *w.hwpt(fd, device->id(), ioas);
  ASSERT_TRUE(w.map(fd, ioas, kVa, 2 * kPageSize, 0x10000));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 2 * kPageSize, kPageSize, 0x12000));
  const auto check = [&](u32 id, u64 iova, u64 length, u64 va) {
    return error_of(op(ops::kMdCheckMap, id, ops::CheckMap{iova, length, va}));
  };
  EXPECT_EQ(check(ioas, 0x10000, kPageSize, kVa), Errno::Enoent);
  EXPECT_EQ(check(hwpt, 0x10800, kPageSize, kVa), Errno::Einval);
  EXPECT_EQ(check(hwpt, 0x10000, 3 * kPageSize, kVa), Errno{}) << "two areas";
  EXPECT_EQ(check(hwpt, 0x10000, 4 * kPageSize, kVa), Errno::Einval) << "not mapped";
  EXPECT_EQ(check(hwpt, 0x11000, kPageSize, kVa), Errno::Einval);
  EXPECT_EQ(check(hwpt, 0x11000, kPageSize, kVa + kPageSize), Errno{});
  EXPECT_EQ(check(hwpt, 0x10000, kPageSize, kVa + kMiB), Errno::Efault);
  w.task.map_shared(UserAddr(kVa), 4 * kPageSize, n.memory, 0);
  EXPECT_EQ(check(hwpt, 0x10000, kPageSize, kVa), Errno::Einval) << "devices still reach the former memory";
  w.file(fd).unbind(*device);
}

// --- accesses -----------------------------------------------------------------------------------------------------

TEST_F(TestOps, CreatingAnAccess) {
  EXPECT_EQ(error_of(make(99, 2)), Errno::Eopnotsupp);
  w.task.fd_limit = w.task.files.size();
  EXPECT_EQ(error_of(make(99)), Errno::Emfile);
  w.task.fd_limit = 64;
  EXPECT_EQ(error_of(make(99)), Errno::Enoent);
  const auto m = w.memfd(kMiB);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0x800, kPageSize, 0x10000));
  EXPECT_EQ(error_of(make(ioas)), Errno::Eaddrinuse) << "an area that is not of whole pages";
  const s32 reads = *make(ioas, 0);
  EXPECT_EQ(error_of(w.destroy(fd, ioas + 1)), Errno::Ebusy) << "an access is its file's";
  EXPECT_EQ(w.ioas(fd), ioas + 2);
  EXPECT_EQ(error_of(w.destroy(fd, ioas)), Errno::Ebusy);
  w.task.close(reads);
  EXPECT_EQ(error_of(w.destroy(fd, ioas + 1)), Errno::Enoent);
  ASSERT_TRUE(w.unmap(fd, ioas, 0, ~u64{0}));
  const s32 pins = *make(ioas);
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0x800, kPageSize, 0x10000)), Errno::Einval);
  w.task.close(pins);
  EXPECT_TRUE(w.map_file(fd, ioas, m.fd, 0x800, kPageSize, 0x10000)) << "as before";
  EXPECT_TRUE(w.destroy(fd, ioas));
}

TEST_F(TestOps, AnAnswerThatCannotBeWrittenLeavesNothing) {
  uapi::IommuTestCmd cmd{.size = sizeof(cmd), .op = ops::kCreateAccess, .id = ioas};
  cmd.set(ops::CreateAccess{.flags = ops::kCreateNeedsPin});
  const UserAddr arg = w.task.put(cmd);
  w.task.set_writable(arg, false);
  EXPECT_EQ(error_of(w.file(fd).ioctl(w.task, uapi::kIommuTestCmd, arg)), Errno::Efault);
  EXPECT_TRUE(w.task.reserved.empty());
  EXPECT_EQ(error_of(w.destroy(fd, ioas + 1)), Errno::Enoent);
  const auto m = w.memfd(kMiB);
  const s32 access = *make(ioas);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0));
  cmd.op = ops::kAccessPages;
  cmd.id = static_cast<u32>(access);
  cmd.set(ops::AccessPages{.length = kPageSize});
  const UserAddr pages = w.task.put(cmd);
  w.task.set_writable(pages, false);
  EXPECT_EQ(error_of(w.file(fd).ioctl(w.task, uapi::kIommuTestCmd, pages)), Errno::Efault);
  EXPECT_EQ(pinned(), 0u);
  w.task.close(access);
  EXPECT_TRUE(w.destroy(fd, ioas));
}

TEST_F(TestOps, AnAccessKeepsItsContext) {
  const auto m = w.memfd(kMiB);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0));
  m.host->fill(0, "still there");
  const s32 access = *make(ioas);
  w.task.close(fd);
  fd = w.open();  // its accesses are named by descriptor, through whichever context
  const UserAddr at = w.task.allocate(11);
  EXPECT_EQ(rw(access, 0, 11, at), Errno{});
  EXPECT_EQ(text(at, 11), "still there");
  ASSERT_TRUE(pin(access, 0, kPageSize));
  EXPECT_EQ(pinned(), 1u);
  w.task.close(access);
  EXPECT_EQ(pinned(), 0u);
}

TEST_F(TestOps, PinningChecksInOrder) {
  const auto m = w.memfd(kMiB);
  EXPECT_EQ(error_of(pin(99, 0, 17 * kMiB, 2)), Errno::Enomem);
  EXPECT_EQ(error_of(pin(99, 0, 0, 2)), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(pin(99, 0, 0)), Errno::Ebadfd);
  EXPECT_EQ(error_of(pin(fd, 0, 0)), Errno::Ebadfd) << "another kind of file";
  EXPECT_EQ(error_of(pin(*make(ioas, 0), 0, 0)), Errno::Eopnotsupp) << "it does not pin";
  const s32 access = *make(ioas);
  EXPECT_EQ(error_of(pin(access, 0, 0)), Errno::Einval);
  EXPECT_EQ(error_of(pin(access, ~u64{0}, 2)), Errno::Eoverflow);
  EXPECT_EQ(error_of(pin(access, 0x10000, kPageSize)), Errno::Enoent);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 2 * kPageSize, 0x10000));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 8 * kPageSize, kPageSize, 0x12000, kRo));
  EXPECT_EQ(error_of(pin(access, 0x11000, 3 * kPageSize)), Errno::Enoent) << "a hole at the end";
  EXPECT_EQ(error_of(pin(access, 0x10800, 0x800)), Errno::Einval) << "begins inside of a page";
  EXPECT_EQ(error_of(pin(access, 0x11000, 2 * kPageSize, ops::kAccessWrite)), Errno::Eperm);
  EXPECT_EQ(pinned(), 0u) << "all or nothing";
  EXPECT_EQ(*pin(access, 0x11000, kPageSize + 1), 0u) << "ends inside of one";
  EXPECT_EQ(pinned(), 2u);
  EXPECT_EQ(*pin(access, 0x11000, kPageSize, ops::kAccessWrite), 1u);
  EXPECT_EQ(pinned(), 2u) << "pinned, and paid for, once";
  EXPECT_EQ(drop(access, 2), Errno::Enoent);
  EXPECT_EQ(drop(fd, 0), Errno::Ebadfd);
  EXPECT_EQ(drop(access, 0), Errno{});
  EXPECT_EQ(drop(access, 0), Errno::Enoent);
  EXPECT_EQ(pinned(), 1u);
  EXPECT_EQ(*pin(access, 0x10000, kPageSize), 2u) << "numbers are not used again";
  w.task.credentials.cap_ipc_lock = false;
  w.task.own_process->limit = 2 * kPageSize;
  const s32 limited = w.open();
  const u32 there = w.ioas(limited);
  ASSERT_TRUE(w.map_file(limited, there, m.fd, 0, 3 * kPageSize, 0));
  const s32 poor =
      (*op(ops::kCreateAccess, there, ops::CreateAccess{.flags = ops::kCreateNeedsPin}, limited)).out_access_fd;
  EXPECT_EQ(error_of(pin(poor, 0, 3 * kPageSize)), Errno::Enomem);
  EXPECT_TRUE(pin(poor, 0, 2 * kPageSize));
}

TEST_F(TestOps, PinnedPagesAreComparedWithTheProgramsMemory) {
  const auto m = w.memfd(kMiB);
  w.task.map_shared(UserAddr(kVa), 4 * kPageSize, m.memory, 0);
  ASSERT_TRUE(w.map(fd, ioas, kVa, 2 * kPageSize, 0x10000));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 2 * kPageSize, kPageSize, 0x12000));
  const s32 access = *make(ioas);
  EXPECT_EQ(error_of(pin(access, 0x10000, 3 * kPageSize, 0, kVa + kPageSize)), Errno::Ebade);
  EXPECT_EQ(error_of(pin(access, 0x10000, 3 * kPageSize, 0, kVa + 2 * kPageSize)), Errno::Ebade);
  EXPECT_EQ(error_of(pin(access, 0x10000, 2 * kPageSize, 0, kVa + 3 * kPageSize)), Errno::Ebade) << "the first differs";
  EXPECT_EQ(error_of(pin(access, 0x10000, kPageSize, 0, 8 * kMiB)), Errno::Efault);
  EXPECT_EQ(pinned(), 0u);
  EXPECT_EQ(*pin(access, 0x10000, 3 * kPageSize, 0, kVa), 4u) << "numbers of those that failed are gone";
  EXPECT_TRUE(pin(access, u64{0x1000} << 32 | 0, kPageSize, ops::kAccessByArea, kVa + kPageSize))
      << "an area by its number, and an offset";
  EXPECT_TRUE(pin(access, 1, kPageSize, ops::kAccessByArea, kVa + 2 * kPageSize));
  EXPECT_EQ(error_of(pin(access, 2, kPageSize, ops::kAccessByArea)), Errno::Enoent);
}

TEST_F(TestOps, UnmappingLetsGoOfWhatIsPinned) {
  const auto m = w.memfd(kMiB);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 2 * kPageSize, 0x10000));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 2 * kPageSize, 2 * kPageSize, 0x12000));
  const s32 access = *make(ioas);
  const u32 both = *pin(access, 0x11000, 2 * kPageSize), second = *pin(access, 0x13000, kPageSize);
  EXPECT_EQ(error_of(w.unmap(fd, ioas, 0x10000, kPageSize)), Errno::Enoent) << "part of an area";
  EXPECT_EQ(pinned(), 3u) << "so nobody has to let go";
  ASSERT_EQ(*w.unmap(fd, ioas, 0x10000, 2 * kPageSize), 2 * kPageSize);
  EXPECT_EQ(drop(access, both), Errno::Enoent) << "all of it, though part of it is still mapped";
  EXPECT_EQ(pinned(), 1u);
  EXPECT_EQ(drop(access, second), Errno{});
}

// Whoever lets go first: the other's pins stay, in the same memory.
TEST_F(TestOps, ADomainAndAnAccessPinTheSamePages) {
  const auto m = w.memfd(kMiB), n = w.memfd(kMiB);
  w.task.map_shared(UserAddr(kVa), 8 * kPageSize, m.memory, 0);
  ASSERT_TRUE(w.map(fd, ioas, kVa, 8 * kPageSize, 0x10000));
  const s32 access = *make(ioas);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  const u32 item = *pin(access, 0x12000, 3 * kPageSize);
  const u32 hwpt = *w.hwpt(fd, device->id(), ioas);
  EXPECT_EQ(pinned(), 8u);
  EXPECT_EQ(refs(kVa, 8 * kPageSize, 1), Errno{});
  ASSERT_TRUE(w.destroy(fd, hwpt));
  EXPECT_EQ(pinned(), 3u);
  EXPECT_EQ(refs(kVa + 2 * kPageSize, 3 * kPageSize, 1), Errno{});
  EXPECT_EQ(refs(kVa, 2 * kPageSize, 0), Errno{});
  // What the program has there by now is pinned for the domain where the access does not hold the former pages.
  w.task.map_shared(UserAddr(kVa), 8 * kPageSize, n.memory, 0);
  const u32 again = *w.hwpt(fd, device->id(), ioas);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, again));
  EXPECT_EQ(w.reached(a0, 0x11000), w.place(n, kPageSize));
  EXPECT_EQ(w.reached(a0, 0x12000), w.place(m, 2 * kPageSize));
  EXPECT_EQ(w.reached(a0, 0x15000), w.place(n, 5 * kPageSize));
  EXPECT_EQ(drop(access, item), Errno{});
  EXPECT_EQ(pinned(), 8u);
  EXPECT_EQ(w.reached(a0, 0x12000), w.place(m, 2 * kPageSize));
  w.file(fd).unbind(*device);
}

TEST_F(TestOps, WhatIsPinnedCannotBeCut) {
  const auto m = w.memfd(kMiB);
  w.task.map_shared(UserAddr(kVa), 4 * kPageSize, m.memory, 0);
  uapi::IommuVfioIoas set{.size = sizeof(set), .ioas_id = ioas, .op = uapi::iommu_vfio_ioas::kSet, .reserved = 0};
  ASSERT_TRUE(w.call(fd, uapi::kIommuVfioIoas, set));
  ASSERT_TRUE(w.file(fd).ioctl(w.task, uapi::kVfioSetIommu, UserAddr(uapi::vfio_extension::kType1)));
  ASSERT_TRUE(w.map(fd, ioas, kVa, 4 * kPageSize, 0x10000));
  const s32 access = *make(ioas);
  const u32 item = *pin(access, 0x13000, kPageSize);
  const auto unmap = [&](u64 iova, u64 bytes) {
    uapi::VfioDmaUnmap cmd{.argsz = sizeof(cmd), .flags = 0, .iova = iova, .size = bytes};
    return error_of(w.call(fd, uapi::kVfioIommuUnmapDma, cmd));
  };
  EXPECT_EQ(unmap(0x10000, kPageSize), Errno::Einval);
  EXPECT_EQ(drop(access, item), Errno{});
  EXPECT_EQ(unmap(0x10000, kPageSize), Errno{});
  EXPECT_TRUE(pin(access, 0x13000, kPageSize));
}

TEST_F(TestOps, AnAccessMovesToAnotherIoas) {
  const auto m = w.memfd(kMiB);
  const u32 other = w.ioas(fd);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 2 * kPageSize, 0x10000));
  ASSERT_TRUE(w.map_file(fd, other, m.fd, 0x4800, kPageSize, 0x10000));
  const s32 access = *make(ioas);
  const u32 item = *pin(access, 0x10000, kPageSize);
  EXPECT_EQ(replace(99, other), Errno::Ebadfd);
  EXPECT_EQ(replace(access, 99), Errno::Enoent);
  EXPECT_EQ(replace(access, other), Errno::Eaddrinuse);
  EXPECT_EQ(replace(access, ioas), Errno{}) << "where it is";
  EXPECT_EQ(pinned(), 1u) << "nothing changed";
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0x800, 0x800, 0x40000)), Errno::Einval);
  ASSERT_TRUE(w.unmap(fd, other, 0, ~u64{0}));
  EXPECT_EQ(replace(access, other), Errno{});
  EXPECT_EQ(pinned(), 0u);
  EXPECT_EQ(drop(access, item), Errno::Enoent);
  EXPECT_EQ(error_of(pin(access, 0x10000, kPageSize)), Errno::Enoent);
  EXPECT_TRUE(w.map_file(fd, ioas, m.fd, 0x800, 0x800, 0x40000)) << "no pages there any more";
  EXPECT_TRUE(w.destroy(fd, ioas));
  EXPECT_EQ(error_of(w.destroy(fd, other)), Errno::Ebusy);
  w.task.close(access);
  EXPECT_TRUE(w.destroy(fd, other));
}

// --- reading and writing ------------------------------------------------------------------------------------------

TEST_F(TestOps, BytesOfAFileThroughSeveralAreas) {
  const auto m = w.memfd(kMiB);
  m.host->fill(kPageSize - 6, "abcdefghijklmnop");
  m.host->fill(0x8000, "second");
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0x7ff, kPageSize - 0x7ff + 10, 0x107ff)) << "an odd place, an odd length";
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0x8000, 6, 0x1100a));
  const s32 access = *make(ioas, 0);
  const UserAddr at = w.task.allocate(32);
  EXPECT_EQ(rw(access, 0x10ffa, 22, at), Errno{});
  EXPECT_EQ(text(at, 22), "abcdefghijklmnopsecond");
  EXPECT_EQ(rw(access, 0x11007, 6, put("SECOND"), ops::kAccessWrite | ops::kAccessRwSlow), Errno{});
  EXPECT_EQ(m.host->contents(kPageSize + 7, 3), "SEC");
  EXPECT_EQ(m.host->contents(0x8000, 6), "ONDond");
  EXPECT_EQ(pinned(), 0u);
}

TEST_F(TestOps, ReadingAndWritingChecksInOrder) {
  const auto m = w.memfd(kMiB);
  const UserAddr at = w.task.allocate(64);
  EXPECT_EQ(rw(99, 0, 17 * kMiB, at, 2), Errno::Enomem);
  EXPECT_EQ(rw(99, 0, 0, at, 2), Errno::Eopnotsupp);
  EXPECT_EQ(rw(99, 0, 0, at), Errno::Ebadfd);
  const s32 access = *make(ioas, 0);
  EXPECT_EQ(rw(access, ~u64{0}, 2, UserAddr(8), ops::kAccessWrite), Errno::Efault) << "the program's bytes come first";
  EXPECT_EQ(rw(access, 0, 0, at), Errno::Einval);
  EXPECT_EQ(rw(access, ~u64{0}, 2, at), Errno::Eoverflow);
  EXPECT_EQ(rw(access, 0, 1, at), Errno::Enoent);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 16, 0x100));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 16, 16, 0x110, kRo));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 32, 16, 0x200, uapi::iommu_map::kWriteable | uapi::iommu_map::kFixedIova));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, kMiB, kPageSize, 0x1000)) << "beyond the file";
  EXPECT_EQ(rw(access, 0x110, 1, at, ops::kAccessWrite), Errno::Eperm);
  EXPECT_EQ(rw(access, 0x200, 1, at), Errno::Eperm);
  EXPECT_EQ(rw(access, 0x200, 1, at, ops::kAccessWrite), Errno{});
  EXPECT_EQ(rw(access, 0x1000, 1, at), Errno::Einval);
  m.host->fill(0, std::string(48, '.'));
  EXPECT_EQ(rw(access, 0x108, 12, put(std::string(12, '!')), ops::kAccessWrite), Errno::Eperm);
  EXPECT_EQ(m.host->contents(0, 48), "........!!!!!!!!" + std::string(32, '.'))
      << "up to the area that does not allow it";
  EXPECT_EQ(rw(access, 0x118, 16, at), Errno::Enoent);
  EXPECT_EQ(text(at, 8), std::string(8, '\0')) << "the program gets all or nothing";
  EXPECT_EQ(rw(access, 0x100, 8, UserAddr(8)), Errno::Efault);
}

TEST_F(TestOps, MoreThanAPieceOfTheHeap) {
  const auto m = w.memfd(16 * kMiB);
  std::string pattern;
  for (usize i = 0; pattern.size() < kMiB; ++i) pattern += std::to_string(i * 7919) + ',';
  for (u64 at = 0; at + pattern.size() <= 16 * kMiB; at += pattern.size()) m.host->fill(at, pattern);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 16 * kMiB, 0));
  const s32 access = *make(ioas, 0);
  const UserAddr at = w.task.allocate(3 * kMiB);
  EXPECT_EQ(rw(access, 12345, 3 * kMiB - 1, at), Errno{});
  EXPECT_EQ(text(at, 3 * kMiB - 1), m.host->contents(12345, 3 * kMiB - 1));
}

TEST_F(TestOps, MemoryOfAProcessIsWhatItHasThereUnlessItIsPinned) {
  const UserAddr own = w.task.allocate(kPageSize);
  w.task.poke(own, std::array{'p', 'r', 'o', 'c'});
  ASSERT_TRUE(w.map(fd, ioas, own.value, 8, 0x100));
  const s32 access = *make(ioas, 0);
  const UserAddr at = w.task.allocate(8);
  EXPECT_EQ(rw(access, 0x100, 4, at), Errno{});
  EXPECT_EQ(text(at, 4), "proc");
  EXPECT_EQ(rw(access, 0x102, 2, put("xy"), ops::kAccessWrite), Errno{});
  EXPECT_EQ(text(own, 4), "prxy");

  const auto m = w.memfd(kMiB), n = w.memfd(kMiB);
  m.host->fill(kPageSize, "pinned");
  const u32 other = w.ioas(fd);
  w.task.map_shared(UserAddr(kVa), 4 * kPageSize, m.memory, 0);
  ASSERT_TRUE(w.map(fd, other, kVa, 4 * kPageSize, 0x10000));
  const s32 pins = *make(other);
  ASSERT_TRUE(pin(pins, 0x11000, kPageSize));
  w.task.map_shared(UserAddr(kVa), 4 * kPageSize, n.memory, 0);
  EXPECT_EQ(rw(pins, 0x11000, 6, at), Errno{});
  EXPECT_EQ(text(at, 6), "pinned");
  EXPECT_EQ(rw(pins, 0x11001, 4, put("UNSE"), ops::kAccessWrite), Errno{});
  EXPECT_EQ(m.host->contents(kPageSize, 6), "pUNSEd");
  w.task.end_process();
  EXPECT_EQ(rw(pins, 0x11000, 6, at), Errno{}) << "what is pinned outlives whoever mapped it";
  EXPECT_EQ(rw(access, 0x100, 4, at), Errno::Efault);
  EXPECT_EQ(rw(pins, 0x10fff, 2, at), Errno::Efault) << "half of it is not pinned";
}

// Every step has its inverse.
TEST_F(TestOps, WhateverAllocationFails) {
  const auto m = w.memfd(kMiB);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 2 * kPageSize, 0x10000));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 4 * kPageSize, 2 * kPageSize, 0x12000));
  const UserAddr at = w.task.allocate(4 * kPageSize);
  const auto all = [&]() -> Result<void> {
    const s32 access = TRY(make(ioas));
    const Result<u32> pins = pin(access, 0x11000, 2 * kPageSize);
    const Errno read = pins ? rw(access, 0x10000, 4 * kPageSize, at) : Errno{};
    w.task.close(access);
    if (!pins) return fail(pins.error());
    if (read != Errno{}) return fail(read);
    return {};
  };
  ASSERT_TRUE(all());
  const u64 before = w.heap().bytes_in_use();
  u64 failures = 0;
  for (u64 nth = 1;; ++nth) {
    const Result<void> done = w.machine().counting.failing(nth, all);
    EXPECT_EQ(pinned(), 0u) << "allocation " << nth;
    EXPECT_EQ(w.heap().bytes_in_use(), before) << "allocation " << nth;
    EXPECT_TRUE(w.task.reserved.empty()) << "allocation " << nth;
    if (done) break;
    EXPECT_EQ(done.error(), Errno::Enomem) << "allocation " << nth;
    ++failures;
  }
  EXPECT_GE(failures, 5u);
  EXPECT_TRUE(w.destroy(fd, ioas));
}

}  // namespace
}  // namespace perdure::testing
