// IOMMU_TEST_CMD (uapi.md 6), and through it the kernel's own accesses to an address space (2.12). A Linux has it that
// was built with CONFIG_IOMMUFD_TEST.
#include <array>
#include <thread>

#include "core/uapi/iommufd_test.h"
#include "tests/uapi/iommufd.h"

namespace perdure::uapi_test::iommufd {
namespace {

using namespace uapi;  // NOLINT(google-build-using-namespace): the structures of one API
namespace ops = uapi::iommu_test;

// Of a kernel that has it.
struct Tests : Space {
  explicit Tests(Case& c) : Space(c), window(MUST(memory.map(0, kWindow))) {
    const Result<ops::MemoryLimit> there = op(ops::kSetTempMemoryLimit, 0, ops::MemoryLimit{65536});
    if (!there && there.error() == Errno::Enotty) Case::skip("the kernel has no IOMMU_TEST_CMD");
  }
  template <class Args>
  Result<Args> op(u32 number, u32 object, const Args& args) {
    IommuTestCmd call{.size = sizeof call, .op = number, .id = object};
    call.set(args);
    TRY(t.ioctl(fd, kIommuTestCmd, call));
    return call.get<Args>();
  }
  Result<ops::AddReserved> reserve(u32 ioas, u64 start, u64 length) {
    return op(ops::kAddReserved, ioas, ops::AddReserved{start, length});
  }
  Result<ops::CheckRefs> refs(const void* at, u64 length, u32 refs) {
    return op(ops::kMdCheckRefs, 0, ops::CheckRefs{.length = length, .uptr = reinterpret_cast<u64>(at), .refs = refs});
  }
  Result<s32> create(u32 flags, u32 ioas) {
    return TRY(op(ops::kCreateAccess, ioas, ops::CreateAccess{.flags = flags}))
    .out_access_fd;
  }
  Fd access(u32 flags = ops::kCreateNeedsPin) { return Fd(t.sys, MUST(create(flags, id))); }
  Result<u32> pin(const Fd& access, u64 iova, u64 length, u32 flags = 0, const void* at = nullptr) {
    const ops::AccessPages args{.flags = flags, .iova = iova, .length = length, .uptr = reinterpret_cast<u64>(at)};
    return TRY(op(ops::kAccessPages, static_cast<u32>(access.number()), args))
    .out_access_pages_id;
  }
  Result<ops::DestroyAccessPages> unpin(const Fd& access, u32 item) {
    return op(ops::kDestroyAccessPages, static_cast<u32>(access.number()), ops::DestroyAccessPages{item});
  }
  Result<ops::AccessRw> rw(const Fd& access, u64 iova, const void* at, u64 length, u32 flags = 0) {
    const ops::AccessRw args{.iova = iova, .length = length, .uptr = reinterpret_cast<u64>(at), .flags = flags};
    return op(ops::kAccessRw, static_cast<u32>(access.number()), args);
  }
  Result<ops::ReplaceIoas> replace(const Fd& access, u32 ioas) {
    return op(ops::kAccessReplaceIoas, static_cast<u32>(access.number()), ops::ReplaceIoas{ioas});
  }
  Result<u64> map_user(const void* at, u64 length, u64 iova, u32 flags = kFixed | kBoth) {
    IommuIoasMap call{.size = sizeof call,
                      .flags = flags,
                      .ioas_id = id,
                      .reserved = 0,
                      .user_va = reinterpret_cast<u64>(at),
                      .length = length,
                      .iova = iova};
    return t.ioctl(fd, kIommuIoasMap, call);
  }
  std::byte* at(u64 offset = 0) const { return window.at(offset); }

  static constexpr u64 kWindow = 16 * kPage;
  client::Mapping window;  // of the memory's first pages
};

// --- the call --------------------------------------------------------------------------------------------------------

UAPI_TEST("6 dispatch", SizeAndOperations) {
  Tests s(t);
  check_size_rule(t, s.fd, kIommuTestCmd, IommuTestCmd{.op = ops::kAddReserved}, kIommuTestCmdMin);
  for (const u32 number : {0U, 24U, ~0U}) CHECK_ERRNO(s.op(number, 0, ops::MemoryLimit{}), Errno::Eopnotsupp);
}

// With it the table of calls is longer, and has a gap.
UAPI_TEST("6 dispatch", TheGapReadsTheSizeFirst) {
  Tests s(t);
  const UserMemory memory;
  for (const u32 cmd : {0x3b98U, 0x3b9fU, kIommuTestCmd | (u32{72} << 16)}) {
    CHECK_ERRNO(t.ioctl_at(s.fd, cmd, memory.beyond()), Errno::Efault);
    CHECK_ERRNO(t.ioctl_at(s.fd, cmd, memory.put(u32{72})), Errno::Enotty);
  }
  CHECK_ERRNO(t.ioctl_at(s.fd, 0x3ba1, memory.beyond()), Errno::Enotty);
}

UAPI_TEST("6 dispatch", DevicesOfTestsThatAreNotThere) {
  Tests s(t);
  for (const u32 number :
       {ops::kMockDomain, ops::kMockDomainFlags, ops::kMockDomainReplace, ops::kPasidAttach, ops::kPasidReplace,
        ops::kPasidDetach, ops::kPasidCheckHwpt, ops::kMdCheckIotlb, ops::kDevCheckCache, ops::kTriggerVevent})
    CHECK_ERRNO(s.op(number, 99, ops::TestDevice{.dev_id = 98}), Errno::Enoent);
}

UAPI_TEST("6 SET_TEMP_MEMORY_LIMIT", NotTooSmall) {
  Tests s(t);
  CHECK_ERRNO(s.op(ops::kSetTempMemoryLimit, 0, ops::MemoryLimit{11}), Errno::Einval);
  CHECK_OK(s.op(ops::kSetTempMemoryLimit, 0, ops::MemoryLimit{12}));
  CHECK_OK(s.op(ops::kSetTempMemoryLimit, 0, ops::MemoryLimit{65536}));
}

// --- reserved addresses ----------------------------------------------------------------------------------------------

UAPI_TEST("6 ADD_RESERVED", Checks) {
  Tests s(t);
  CHECK_ERRNO(s.reserve(99, 0, 0), Errno::Einval);
  CHECK_ERRNO(s.reserve(99, kAll, 2), Errno::Eoverflow);
  CHECK_ERRNO(s.reserve(99, kPage, kPage), Errno::Enoent);
  s.must_map(4 * kPage, kPage);
  CHECK_ERRNO(s.reserve(s.id, 5 * kPage - 1, 1), Errno::Eaddrinuse);
  MUST(s.allow({{8 * kPage, 9 * kPage}}));
  CHECK_ERRNO(s.reserve(s.id, 9 * kPage, 1), Errno::Eaddrinuse);
  CHECK_OK(s.reserve(s.id, 5 * kPage, kPage));
}

UAPI_TEST("6 ADD_RESERVED", NothingIsMappedThere) {
  Tests s(t);
  MUST(s.reserve(s.id, kPage, 3 * kPage));
  CHECK_ERRNO(s.map(s.file(3 * kPage, kPage)), Errno::Einval);
  CHECK_EQ(MUST(s.map_anywhere(kPage)), 4 * kPage);
  CHECK_ERRNO(s.allow({{3 * kPage, 5 * kPage}}), Errno::Eaddrinuse);
  std::array<IommuIovaRange, 2> ranges{};
  IommuIoasIovaRanges call{};
  call.size = sizeof call;
  call.ioas_id = s.id;
  call.num_iovas = ranges.size();
  call.allowed_iovas = reinterpret_cast<u64>(ranges.data());
  MUST(t.ioctl(s.fd, kIommuIoasIovaRanges, call));
  CHECK_EQ(call.num_iovas, 2U);
  CHECK_EQ(ranges[0].last, kPage - 1);
  CHECK_EQ(ranges[1].start, 4 * kPage);
  CHECK_EQ(ranges[1].last, kAll);
}

// --- what is pinned --------------------------------------------------------------------------------------------------

UAPI_TEST("6 MD_CHECK_REFS", Checks) {
  Tests s(t);
  CHECK_ERRNO(s.refs(s.at(1), kPage, 0), Errno::Einval);
  CHECK_ERRNO(s.refs(s.at(), kPage - 1, 0), Errno::Einval);
  CHECK_ERRNO(s.refs(reinterpret_cast<void*>(~u64{0} - (kPage - 1)), 2 * kPage, 0), Errno::Einval);
  const UserMemory memory;
  CHECK_ERRNO(s.refs(memory.beyond(), kPage, 0), Errno::Efault);
  CHECK_ERRNO(s.refs(s.at(), kPage, 1), Errno::Eio);
  CHECK_OK(s.refs(s.at(), Tests::kWindow, 0));
}

UAPI_TEST("6 MD_CHECK_REFS", OncePerMappingOfAPageWhoeverMadeIt) {
  Tests s(t);
  s.must_map(0, 4 * kPage);
  MUST(s.copy(s.copying(0, 4 * kPage, 64 * kPage)));
  CHECK_OK(s.refs(s.at(), 4 * kPage, 0));
  const Fd access = s.access();
  const u32 item = MUST(s.pin(access, kPage, 2 * kPage));
  CHECK_OK(s.refs(s.at(kPage), 2 * kPage, 1));
  CHECK_OK(s.refs(s.at(), kPage, 0));
  CHECK_OK(s.refs(s.at(3 * kPage), kPage, 0));
  MUST(s.pin(access, 65 * kPage, kPage));
  CHECK_OK(s.refs(s.at(kPage), 2 * kPage, 1));  // a copy shares its pages
  MUST(s.map_user(s.at(2 * kPage), kPage, 128 * kPage));
  MUST(s.pin(access, 128 * kPage, kPage));
  CHECK_OK(s.refs(s.at(2 * kPage), kPage, 2));  // the same page by its address
  CHECK_OK(s.unpin(access, item));
  CHECK_OK(s.refs(s.at(kPage), 2 * kPage, 1));
  s.fd.reset();
  s.fd = t.open(kNode);
  CHECK_OK(s.refs(s.at(kPage), 2 * kPage, 1));  // the access keeps its context
}

// Linux looks only at the page tables of its tests' devices (EINVAL).
UAPI_TEST("6 MD_CHECK_MAP", WhereADevicesAddressesLead) {
  Tests s(t);
  Device device(s);
  IommuHwptAlloc hwpt = device.hwpt(s.id);
  MUST(t.ioctl(s.fd, kIommuHwptAlloc, hwpt));
  const UserMemory own(3);
  s.must_map(16 * kPage, 4 * kPage);
  MUST(s.map_user(own.at(), own.size(), 20 * kPage));
  const auto check = [&](u32 object, u64 iova, u64 length, const void* at) {
    return s.op(ops::kMdCheckMap, object, ops::CheckMap{iova, length, reinterpret_cast<u64>(at)});
  };
  CHECK_ERRNO(check(s.id, 16 * kPage, kPage, s.at()), Errno::Enoent);
  CHECK_ERRNO(check(hwpt.out_hwpt_id, 16 * kPage + 1, kPage, s.at()), Errno::Einval);
  CHECK_ERRNO(check(hwpt.out_hwpt_id, 16 * kPage, kPage, s.at(kPage)), Errno::Einval);
  CHECK_ERRNO(check(hwpt.out_hwpt_id, 15 * kPage, kPage, s.at()), Errno::Einval);
  CHECK_OK(check(hwpt.out_hwpt_id, 16 * kPage, 4 * kPage, s.at()));
  CHECK_OK(check(hwpt.out_hwpt_id, 20 * kPage, 3 * kPage, own.at()));
  CHECK_ERRNO(check(hwpt.out_hwpt_id, 20 * kPage, kPage, own.at(kPage)), Errno::Einval);
}

// --- accesses --------------------------------------------------------------------------------------------------------

UAPI_TEST("6 CREATE_ACCESS", Checks) {
  Tests s(t);
  CHECK_ERRNO(s.create(2, 99), Errno::Eopnotsupp);
  CHECK_ERRNO(s.create(0, 99), Errno::Enoent);
  s.must_map(kPage + 1, kPage);
  CHECK_ERRNO(s.create(ops::kCreateNeedsPin, s.id), Errno::Eaddrinuse);
  const Fd reads(t.sys, MUST(s.create(0, s.id)));
  CHECK_EQ(s.ioas(), s.id + 2);  // the access is an object, too
  CHECK_ERRNO(s.destroy(s.id + 1), Errno::Ebusy);
  CHECK_ERRNO(s.destroy(s.id), Errno::Ebusy);
}

UAPI_TEST("6 CREATE_ACCESS", ItsDescriptorIsItsLife) {
  Tests s(t);
  Fd access = s.access();
  CHECK_ERRNO(s.map(s.file(kPage + 1, kPage)), Errno::Einval);
  access.reset();
  CHECK_OK(s.map(s.file(kPage + 1, kPage)));
  CHECK_ERRNO(s.destroy(s.id + 1), Errno::Enoent);
  CHECK_OK(s.destroy(s.id));
}

UAPI_TEST("6 CREATE_ACCESS", AnAnswerThatCannotBeWrittenLeavesNothing) {
  Tests s(t);
  const UserMemory memory;
  IommuTestCmd call{.size = sizeof call, .op = ops::kCreateAccess, .id = s.id};
  auto* const at = memory.put(call);
  memory.read_only();
  CHECK_ERRNO(t.ioctl_at(s.fd, kIommuTestCmd, at), Errno::Efault);
  CHECK_ERRNO(s.destroy(s.id + 1), Errno::Enoent);
  CHECK_OK(s.destroy(s.id));
}

UAPI_TEST("6 ACCESS_REPLACE_IOAS", ChecksAndPins) {
  Tests s(t);
  const Fd access = s.access();
  const u32 other = s.ioas();
  s.must_map(0, kPage);
  const u32 item = MUST(s.pin(access, 0, kPage));
  CHECK_ERRNO(s.replace(s.fd, other), Errno::Ebadfd);
  CHECK_ERRNO(s.replace(Fd(), other), Errno::Ebadfd);
  CHECK_ERRNO(s.replace(access, 99), Errno::Enoent);
  CHECK_OK(s.replace(access, s.id));
  CHECK_OK(s.refs(s.at(), kPage, 1));
  CHECK_OK(s.replace(access, other));
  CHECK_OK(s.refs(s.at(), kPage, 0));
  CHECK_ERRNO(s.unpin(access, item), Errno::Enoent);
  CHECK_ERRNO(s.pin(access, 0, kPage), Errno::Enoent);
  CHECK_OK(s.destroy(s.id));
  CHECK_ERRNO(s.destroy(other), Errno::Ebusy);
}

UAPI_TEST("6 ACCESS_PAGES", Checks) {
  Tests s(t);
  CHECK_ERRNO(s.pin(Fd(), 0, (u64{16} << 20) + 1, 2), Errno::Enomem);
  CHECK_ERRNO(s.pin(Fd(), 0, 0, 2), Errno::Eopnotsupp);
  CHECK_ERRNO(s.pin(Fd(), 0, 0), Errno::Ebadfd);
  CHECK_ERRNO(s.pin(s.fd, 0, 0), Errno::Ebadfd);
  CHECK_ERRNO(s.pin(s.access(0), 0, 0), Errno::Eopnotsupp);
  s.must_map(0, 4 * kPage);
  const Fd access = s.access();
  CHECK_ERRNO(s.pin(access, 0, 2 * kPage, 0, s.at(kPage)), Errno::Ebade);
  const UserMemory memory;
  CHECK_ERRNO(s.pin(access, 0, kPage, 0, memory.beyond()), Errno::Efault);
  CHECK_OK(s.refs(s.at(), 4 * kPage, 0));
  CHECK_OK(s.pin(access, kPage, 2 * kPage, 0, s.at(kPage)));
}

UAPI_TEST("6 ACCESS_PAGES", ItemsAreNumberedAndLastUntilTheirEnd) {
  Tests s(t);
  s.must_map(0, 4 * kPage);
  const Fd access = s.access();
  CHECK_EQ(MUST(s.pin(access, 0, 4 * kPage, ops::kAccessWrite, s.at())), 0U);
  CHECK_EQ(MUST(s.pin(access, kPage, kPage)), 1U);
  CHECK_OK(s.unpin(access, 0));
  CHECK_ERRNO(s.unpin(access, 0), Errno::Enoent);
  CHECK_ERRNO(s.unpin(s.fd, 1), Errno::Ebadfd);
  CHECK_OK(s.refs(s.at(), kPage, 0));
  CHECK_OK(s.refs(s.at(kPage), kPage, 1));
  CHECK_EQ(MUST(s.pin(access, 0, kPage)), 2U);
}

// --- 2.12: pin -------------------------------------------------------------------------------------------------------

UAPI_TEST("2.12 pin", Checks) {
  Tests s(t);
  s.must_map(16 * kPage, 2 * kPage);
  s.must_map(18 * kPage, kPage, kFixed | kRead);
  const Fd access = s.access();
  CHECK_ERRNO(s.pin(access, 16 * kPage, 0), Errno::Einval);
  CHECK_ERRNO(s.pin(access, kAll, 2), Errno::Eoverflow);
  CHECK_ERRNO(s.pin(access, 0, kPage), Errno::Enoent);
  CHECK_ERRNO(s.pin(access, 18 * kPage, 2 * kPage), Errno::Enoent);
  CHECK_ERRNO(s.pin(access, 16 * kPage + 1, kPage), Errno::Einval);
  CHECK_ERRNO(s.pin(access, 17 * kPage, 2 * kPage, ops::kAccessWrite), Errno::Eperm);
  CHECK_OK(s.refs(s.at(), 2 * kPage, 0));
  CHECK_OK(s.pin(access, 17 * kPage, 2 * kPage));
}

UAPI_TEST("2.12 pin", MemoryIsLookedUpWhenItIsPinned) {
  Tests s(t);
  const UserMemory memory(2);
  MUST(s.map_user(memory.at(), 3 * kPage, 0));  // the last page is not there
  const Fd access = s.access();
  CHECK_ERRNO(s.pin(access, 0, 3 * kPage), Errno::Efault);
  CHECK_OK(s.refs(memory.at(), memory.size(), 0));
  CHECK_OK(s.pin(access, 0, 2 * kPage, 0, memory.at()));
  CHECK_OK(s.refs(memory.at(), memory.size(), 1));
  memory.read_only();
  MUST(s.map_user(memory.at(), 2 * kPage, 64 * kPage));
  CHECK_ERRNO(s.pin(access, 64 * kPage, kPage), Errno::Efault);
  MUST(s.map_user(memory.at(), 2 * kPage, 128 * kPage, kFixed | kRead));
  CHECK_OK(s.pin(access, 128 * kPage, kPage));
}

UAPI_TEST("2.12 unmap", LetsGoOfWhatIsPinned) {
  Tests s(t);
  s.must_map(0, 2 * kPage);
  MUST(s.map(s.file(2 * kPage, 2 * kPage)));
  const Fd access = s.access();
  const u32 item = MUST(s.pin(access, kPage, 2 * kPage));
  CHECK_ERRNO(s.unmap(0, kPage), Errno::Enoent);
  CHECK_OK(s.refs(s.at(kPage), kPage, 1));
  CHECK_EQ(MUST(s.unmap(0, 2 * kPage)), 2 * kPage);
  CHECK_ERRNO(s.unpin(access, item), Errno::Enoent);
  CHECK_OK(s.refs(s.at(), 2 * kPage, 0));
}

// --- 2.12: read and write --------------------------------------------------------------------------------------------

UAPI_TEST("2.12 read and write", Checks) {
  Tests s(t);
  std::array<char, 16> bytes{};
  const UserMemory memory;
  CHECK_ERRNO(s.rw(Fd(), 0, bytes.data(), (u64{16} << 20) + 1, 2), Errno::Enomem);
  CHECK_ERRNO(s.rw(Fd(), 0, bytes.data(), 0, 2), Errno::Eopnotsupp);
  CHECK_ERRNO(s.rw(Fd(), 0, bytes.data(), 0), Errno::Ebadfd);
  const Fd access = s.access(0);
  CHECK_ERRNO(s.rw(access, kAll, memory.beyond(), 2, ops::kAccessWrite), Errno::Efault);
  CHECK_ERRNO(s.rw(access, kAll, bytes.data(), 0), Errno::Einval);
  CHECK_ERRNO(s.rw(access, kAll, bytes.data(), 2), Errno::Eoverflow);
  CHECK_ERRNO(s.rw(access, 0, bytes.data(), 1), Errno::Enoent);
  s.must_map(0, kPage, kFixed | kRead);
  s.must_map(kPage, kPage, kFixed | kWrite);
  CHECK_ERRNO(s.rw(access, 0, bytes.data(), 1, ops::kAccessWrite), Errno::Eperm);
  CHECK_ERRNO(s.rw(access, kPage, bytes.data(), 1), Errno::Eperm);
  CHECK_ERRNO(s.rw(access, 2 * kPage - 1, bytes.data(), 2, ops::kAccessWrite), Errno::Enoent);
  CHECK_ERRNO(s.rw(access, 0, memory.beyond(), 1), Errno::Efault);
}

UAPI_TEST("2.12 read and write", BytesAnywhereOfAFileOrOfAProgram) {
  Tests s(t);
  const UserMemory own(2);
  // Neither areas nor bytes are aligned to anything.
  MUST(s.map_user(s.at(3), kPage, 3));
  MUST(s.map_user(own.at(5), kPage, kPage + 3));
  auto file = s.file(2 * kPage + 3, kPage);
  file.start = 4 * kPage + 1;
  MUST(s.map(file));
  for (usize i = 0; i < 16 * kPage; ++i) *s.at(i) = static_cast<std::byte>(i * 7 + i / kPage);
  for (usize i = 0; i < own.size(); ++i) *own.at(i) = static_cast<std::byte>(i * 11);
  std::vector<std::byte> wanted(s.at(3), s.at(3) + kPage);
  wanted.insert(wanted.end(), own.at(5), own.at(5) + kPage);
  wanted.insert(wanted.end(), s.at(4 * kPage + 1), s.at(5 * kPage + 1));
  const Fd access = s.access(0);
  for (const u32 slow : {0U, ops::kAccessRwSlow}) {
    std::vector<std::byte> got(3 * kPage);
    MUST(s.rw(access, 3, got.data(), got.size(), slow));
    CHECK(got == wanted);
    for (const u64 at : {kPage - 9, kPage + 2, 2 * kPage - 1, 2 * kPage + 3}) {
      const std::string text = "of " + std::to_string(at + slow);
      MUST(s.rw(access, at, text.data(), text.size(), slow | ops::kAccessWrite));
      std::memcpy(wanted.data() + at - 3, text.data(), text.size());
    }
    MUST(s.rw(access, 3, got.data(), got.size(), slow));
    CHECK(got == wanted);
    CHECK(std::memcmp(own.at(5), wanted.data() + kPage, kPage) == 0);
    CHECK(std::memcmp(s.at(4 * kPage + 1), wanted.data() + 2 * kPage, kPage) == 0);
  }
  CHECK_OK(s.refs(s.at(), 16 * kPage, 0));
}

UAPI_TEST("2.12 read and write", MuchAtOnce) {
  Tests s(t);
  constexpr u64 kBytes = u64{16} << 20;
  const client::Mapping all = MUST(s.memory.map(0, kBytes));
  for (u64 i = 0; i < kBytes / 8; ++i) *all.at<u64>(8 * i) = i * 0x9e3779b97f4a7c15;
  s.must_map(0, kBytes);
  const Fd access = s.access(0);
  std::vector<std::byte> got(kBytes);
  MUST(s.rw(access, 0, got.data(), kBytes));
  CHECK(std::memcmp(got.data(), all.at(), kBytes) == 0);
  std::fill(got.begin(), got.end(), std::byte{0x5a});
  MUST(s.rw(access, 0, got.data(), kBytes, ops::kAccessWrite));
  CHECK(std::memcmp(got.data(), all.at(), kBytes) == 0);
}

// Mapping, pinning and unmapping of the same addresses by several threads: what remains is what nobody took away.
UAPI_PROGRAM_TEST("2.12 unmap", ManyThreads) {
  Tests s(t);
  const Fd access = s.access();
  constexpr unsigned kThreads = 4, kRounds = 50;
  std::array<std::thread, kThreads> threads;
  std::array<unsigned, kThreads> strange{};
  for (unsigned i = 0; i < kThreads; ++i) {
    threads[i] = std::thread([&, i] {
      for (unsigned round = 0; round < kRounds; ++round) {
        const Result<u64> mapped = s.map(s.file(0, 4 * kPage));
        if (!mapped && mapped.error() != Errno::Eexist) ++strange[i];
        const Result<u32> item = s.pin(access, kPage, kPage);
        // EINVAL: on its way out.
        if (!item && item.error() != Errno::Enoent && item.error() != Errno::Einval) ++strange[i];
        if (item && (round + i) % 2 == 0) {
          const auto gone = s.unpin(access, *item);
          if (!gone && gone.error() != Errno::Enoent) ++strange[i];
        }
        const Result<u64> unmapped = s.unmap(0, 4 * kPage);
        if (!unmapped && unmapped.error() != Errno::Enoent) ++strange[i];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const unsigned count : strange) CHECK_EQ(count, 0U);
  CHECK_OK(s.refs(s.at(), 4 * kPage, 0));
}

}  // namespace
}  // namespace perdure::uapi_test::iommufd
