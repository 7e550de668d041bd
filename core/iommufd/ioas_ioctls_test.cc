// IOAS_COPY, ALLOW_IOVAS, OPTION and IOAS_CHANGE_PROCESS: errors and their order (uapi §2.5), who pays for what is
// pinned (§2.4), and what pages of a process lead to.
#include "core/iommufd/testing/iommufd_world.h"
#include "core/uapi/vfio.h"

namespace perdure::testing {
namespace {

constexpr u64 kMiB = u64{1} << 20;
constexpr u32 kFixed = uapi::iommu_map::kFixedIova;
constexpr u32 kRo = uapi::iommu_map::kReadable;

class IoasIoctlTest : public ::testing::Test {
 protected:
  static constexpr SourceId a0 = IommufdWorld::a0;
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
  Result<u64> copy(u32 from, u64 src, u64 length, u32 to, u64 dst, u32 flags = IommufdWorld::kRw | kFixed) {
    uapi::IommuIoasCopy cmd{.size = sizeof(cmd),
                            .flags = flags,
                            .dst_ioas_id = to,
                            .src_ioas_id = from,
                            .length = length,
                            .dst_iova = dst,
                            .src_iova = src};
    TRY(w.call(fd, uapi::kIommuIoasCopy, cmd));
    return cmd.dst_iova;
  }
  Errno allow(u32 ioas, std::vector<uapi::IommuIovaRange> ranges) {
    const UserAddr at = w.task.allocate(ranges.size() * sizeof(ranges[0]) + 1);
    for (usize i = 0; i < ranges.size(); ++i) w.task.poke(at + i * sizeof(ranges[0]), ranges[i]);
    return error(uapi::kIommuIoasAllowIovas, uapi::IommuIoasAllowIovas{.size = 24,
                                                                       .ioas_id = ioas,
                                                                       .num_iovas = static_cast<u32>(ranges.size()),
                                                                       .reserved = 0,
                                                                       .allowed_iovas = at.value});
  }
  Result<u64> option(u32 id, u16 op, u32 object, u64 value = 0, u16 reserved = 0) {
    uapi::IommuOption cmd{
        .size = sizeof(cmd), .option_id = id, .op = op, .reserved = reserved, .object_id = object, .val64 = value};
    TRY(w.call(fd, uapi::kIommuOption, cmd));
    return cmd.val64;
  }
  Result<u64> automatic(u32 ioas, s32 memfd, u64 length) {
    return w.map_file(fd, ioas, memfd, 0, length, 0, IommufdWorld::kRw);
  }
  Errno change_process(test::FakeTask& task, u32 reserved = 0) {
    const uapi::IommuIoasChangeProcess cmd{.size = sizeof(cmd), .reserved = reserved};
    return error_of(w.task.files.at(fd)->ioctl(task, uapi::kIommuIoasChangeProcess, task.put(cmd)));
  }
};

// --- IOAS_COPY ----------------------------------------------------------------------------------------------------

TEST_F(IoasIoctlTest, CopyChecksInOrder) {
  const u32 from = w.ioas(fd), to = w.ioas(fd);
  const auto m = w.memfd(kMiB);
  uapi::IommuIoasCopy cmd{.size = sizeof(cmd),
                          .flags = 8,
                          .dst_ioas_id = 99,
                          .src_ioas_id = 98,
                          .length = ~u64{0},
                          .dst_iova = ~u64{0},
                          .src_iova = ~u64{0}};
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Eopnotsupp);
  cmd.flags = kFixed;
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Eoverflow);
  cmd.length = 0;
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Eoverflow);
  cmd.src_iova = 0x10000;
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Eoverflow);
  cmd.dst_iova = 0x800;
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Einval) << "neither read nor write";
  cmd.flags |= IommufdWorld::kRw;
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Enoent) << "source";
  cmd.src_ioas_id = from;
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Einval) << "length 0";
  cmd.length = ~u64{0} - 0x100;
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Eoverflow);
  cmd.length = 0x2000;
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Enoent) << "nothing is there";
  ASSERT_TRUE(w.map_file(fd, from, m.fd, 0, 0x1000, 0x10000));
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Enoent) << "a hole at the end";
  ASSERT_TRUE(w.map_file(fd, from, m.fd, 0x1000, 0x1000, 0x11000, kRo | kFixed));
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Enoent) << "destination";
  cmd.dst_ioas_id = to;
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Eperm) << "half of it is read-only";
  EXPECT_TRUE(w.unmap(fd, to, 0, ~u64{0}));
  cmd.flags = kRo | kFixed;
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno{});
  EXPECT_EQ(error(uapi::kIommuIoasCopy, cmd), Errno::Eexist);
  EXPECT_EQ(error_of(w.unmap(fd, to, 0x800, 0x1000)), Errno{}) << "one area for each of the source's";
  EXPECT_EQ(error_of(w.unmap(fd, to, 0x1800, 0x1000)), Errno{});
}

TEST_F(IoasIoctlTest, CopiesReachTheSamePagesWhateverTheProcessHasThereNow) {
  const u32 from = w.ioas(fd), to = w.ioas(fd);
  const auto m = w.memfd(kMiB), n = w.memfd(kMiB);
  w.task.map_shared(UserAddr(0x100000), 0x4000, m.memory, 0);
  ASSERT_TRUE(w.map(fd, from, 0x100000, 0x4000, 0x40000));
  Ref<iommufd::Device> device = w.bind(fd, a0);
  const u32 holder = *w.hwpt(fd, device->id(), from);  // pins
  w.task.map_shared(UserAddr(0x100000), 0x4000, n.memory, 0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, to));
  ASSERT_EQ(*copy(from, 0x41000, 0x2000, to, 0x90000), 0x90000u);
  EXPECT_EQ(w.reached(a0, 0x90000), w.place(m, 0x1000)) << "pinned before the program mapped something else";
  EXPECT_EQ(w.reached(a0, 0x92000), "");
  // The source goes, its copy stays; what nobody pins any more is looked up anew.
  ASSERT_TRUE(w.unmap(fd, from, 0, ~u64{0}));
  EXPECT_EQ(w.reached(a0, 0x91000), w.place(m, 0x2000));
  ASSERT_TRUE(w.file(fd).detach(*device));
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, to));
  EXPECT_EQ(w.reached(a0, 0x91000), w.place(n, 0x2000));
  EXPECT_EQ(*copy(to, 0x90000, 0x1000, to, 0, IommufdWorld::kRw), 0x1000u)
      << "into the same one, at an address that fits";
  EXPECT_EQ(w.reached(a0, 0x1000), w.place(n, 0x1000));
  ASSERT_TRUE(w.destroy(fd, holder));
  unbind(device);
}

TEST_F(IoasIoctlTest, AFailedCopyTakesBackTheAreasBefore) {
  const u32 from = w.ioas(fd), to = w.ioas(fd);
  const auto m = w.memfd(kMiB);
  ASSERT_TRUE(w.map_file(fd, from, m.fd, 0, 0x1000, 0x10000));
  ASSERT_TRUE(w.map_file(fd, from, m.fd, 0x1000, 0x1000, 0x11000));
  ASSERT_TRUE(w.map_file(fd, from, m.fd, kMiB, 0x1000, 0x12000)) << "beyond the file: shows when it is pinned";
  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, to));
  EXPECT_EQ(error_of(copy(from, 0x10000, 0x3000, to, 0x50000)), Errno::Einval);
  for (const u64 at : {0x50000, 0x51000, 0x52000}) EXPECT_EQ(w.reached(a0, at), "");
  EXPECT_EQ(w.task.own_process->pinned_pages(), 0u);
  EXPECT_EQ(*copy(from, 0x10000, 0x2000, to, 0x50000), 0x50000u);
  EXPECT_EQ(w.reached(a0, 0x51000), w.place(m, 0x1000));
  unbind(device);
}

// --- when memory of a process is looked up ------------------------------------------------------------------------

TEST_F(IoasIoctlTest, WithoutADomainAMappingIsOnlyNoted) {
  const u32 ioas = w.ioas(fd);
  const auto m = w.memfd(kMiB);
  ASSERT_TRUE(w.map(fd, ioas, 0x100000, 0x2000, 0x40000)) << "nothing is there";
  Ref<iommufd::Device> device = w.bind(fd, a0);
  EXPECT_EQ(error_of(w.hwpt(fd, device->id(), ioas)), Errno::Efault);
  w.task.map_shared(UserAddr(0x100000), 0x2000, m.memory, 0);
  const u32 hwpt = *w.hwpt(fd, device->id(), ioas);
  EXPECT_EQ(w.task.own_process->pinned_pages(), 2u);
  ASSERT_TRUE(w.destroy(fd, hwpt));
  EXPECT_EQ(w.task.own_process->pinned_pages(), 0u) << "the last domain is gone";
  w.task.end_process();
  EXPECT_EQ(error_of(w.hwpt(fd, device->id(), ioas)), Errno::Efault) << "and so is the mapper";
  unbind(device);
}

// --- ALLOW_IOVAS --------------------------------------------------------------------------------------------------

TEST_F(IoasIoctlTest, AllowIovasChecksInOrder) {
  const u32 ioas = w.ioas(fd);
  uapi::IommuIoasAllowIovas cmd{.size = 24, .ioas_id = 99, .num_iovas = 1, .reserved = 1, .allowed_iovas = 8};
  EXPECT_EQ(error(uapi::kIommuIoasAllowIovas, cmd), Errno::Eopnotsupp);
  cmd.reserved = 0;
  EXPECT_EQ(error(uapi::kIommuIoasAllowIovas, cmd), Errno::Enoent);
  cmd.ioas_id = ioas;
  EXPECT_EQ(error(uapi::kIommuIoasAllowIovas, cmd), Errno::Efault);
  EXPECT_EQ(allow(ioas, {{5, 5}}), Errno::Einval) << "one byte is none";
  EXPECT_EQ(allow(ioas, {{5, 4}}), Errno::Einval);
  EXPECT_EQ(allow(ioas, {{0x1000, 0x1fff}, {0x3000, 0x3fff}, {0x1fff, 0x2fff}}), Errno::Einval);
  EXPECT_EQ(allow(ioas, {{0x3000, 0x3fff}, {0x1000, 0x3000}}), Errno::Einval);
  EXPECT_EQ(allow(ioas, {{0x3000, 0x3fff}, {0x1000, 0x1fff}}), Errno{});
  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
  EXPECT_EQ(allow(ioas, {{0x10000, 0x1ffff}, {0xfee01000, 0xfee01fff}}), Errno::Eaddrinuse);
  EXPECT_EQ(*automatic(ioas, w.memfd(kMiB).fd, kPageSize), 0x1000u) << "what failed changed nothing";
  unbind(device);
}

TEST_F(IoasIoctlTest, AutomaticAddressesComeFromAllowedRanges) {
  const u32 ioas = w.ioas(fd);
  const auto m = w.memfd(64 * kMiB);
  ASSERT_EQ(allow(ioas, {{0x8000, 0x8fff}, {0x9000, 0xafff}, {4 * kMiB, 8 * kMiB - 1}}), Errno{});
  EXPECT_EQ(*automatic(ioas, m.fd, 0x3000), 0x8000u) << "ranges that meet are one";
  EXPECT_EQ(*automatic(ioas, m.fd, 0x1000), 4 * kMiB);
  EXPECT_EQ(*automatic(ioas, m.fd, 0x2000), 4 * kMiB + 0x2000) << "aligned as its length";
  EXPECT_EQ(*automatic(ioas, m.fd, 2 * kMiB), 6 * kMiB);
  EXPECT_EQ(error_of(automatic(ioas, m.fd, 2 * kMiB)), Errno::Enospc);
  EXPECT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x1000, 64 * kMiB)) << "a fixed address may be anywhere";
  ASSERT_EQ(allow(ioas, {}), Errno{});
  EXPECT_EQ(*automatic(ioas, m.fd, 0x1000), 0x1000u);
}

TEST_F(IoasIoctlTest, AllowedRangesStandInTheWayOfReservedOnes) {
  const u32 ioas = w.ioas(fd);
  ASSERT_EQ(allow(ioas, {{0xfee00000, 0xfee00fff}}), Errno{});
  Ref<iommufd::Device> device = w.bind(fd, a0);
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *device, ioas)), Errno::Eaddrinuse);
  ASSERT_EQ(allow(ioas, {{u64{1} << 48, u64{1} << 49}}), Errno{});
  EXPECT_EQ(error_of(w.hwpt(fd, device->id(), ioas)), Errno::Eaddrinuse) << "no domain translates there";
  ASSERT_EQ(allow(ioas, {}), Errno{});
  EXPECT_TRUE(w.file(fd).attach(w.task, *device, ioas));
  unbind(device);
}

// --- OPTION -------------------------------------------------------------------------------------------------------

TEST_F(IoasIoctlTest, OptionChecksInOrder) {
  using namespace uapi::iommu_option;
  w.task.credentials.cap_sys_resource = false;
  EXPECT_EQ(error_of(option(9, 9, 99, 9, 1)), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(option(2, kGet, 0)), Errno::Eopnotsupp) << "no such option";
  EXPECT_EQ(error_of(option(kRlimitMode, kGet, 1)), Errno::Eopnotsupp) << "not of an object";
  EXPECT_EQ(error_of(option(kRlimitMode, 2, 0)), Errno::Eopnotsupp) << "no such operation";
  EXPECT_EQ(*option(kRlimitMode, kGet, 0, 77), 0u);
  EXPECT_EQ(error_of(option(kRlimitMode, kSet, 0, 2)), Errno::Eperm);
  w.task.credentials.cap_sys_resource = true;
  EXPECT_EQ(error_of(option(kRlimitMode, kSet, 0, 2)), Errno::Einval);
  EXPECT_EQ(*option(kRlimitMode, kSet, 0, 1), 1u);
  EXPECT_EQ(*option(kRlimitMode, kGet, 0), 1u);
  const u32 ioas = w.ioas(fd);
  EXPECT_EQ(error_of(option(kRlimitMode, kSet, 0, 2)), Errno::Ebusy) << "before the value is looked at";
  EXPECT_EQ(error_of(option(kHugePages, kGet, 99)), Errno::Enoent);
  EXPECT_EQ(error_of(option(kHugePages, 2, ioas)), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(option(kHugePages, kSet, ioas, 2)), Errno::Einval);
  EXPECT_EQ(*option(kHugePages, kGet, ioas), 1u);
  EXPECT_TRUE(option(kHugePages, kSet, ioas, 0));
  EXPECT_TRUE(option(kHugePages, kSet, ioas, 0)) << "again";
  EXPECT_EQ(*option(kHugePages, kGet, ioas, 5), 0u);
}

TEST_F(IoasIoctlTest, OptionWritesTheValueAlone) {
  uapi::IommuOption cmd{.size = sizeof(cmd),
                        .option_id = uapi::iommu_option::kRlimitMode,
                        .op = 1,
                        .reserved = 0,
                        .object_id = 0,
                        .val64 = 9};
  const UserAddr at = w.task.put(cmd);
  w.task.set_writable(at, false);
  EXPECT_EQ(error_of(w.task.files.at(fd)->ioctl(w.task, uapi::kIommuOption, at)), Errno::Efault);
}

TEST_F(IoasIoctlTest, WithoutLargePagesEveryPageIsALeaf) {
  using namespace uapi::iommu_option;
  const u32 ioas = w.ioas(fd);
  const auto m = w.memfd(8 * kMiB);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 100, 0x10001));
  EXPECT_EQ(error_of(option(kHugePages, kSet, ioas, 0)), Errno::Eaddrinuse) << "an area is not made of pages";
  EXPECT_EQ(*option(kHugePages, kGet, ioas), 1u);
  ASSERT_TRUE(w.unmap(fd, ioas, 0, ~u64{0}));
  ASSERT_TRUE(option(kHugePages, kSet, ioas, 0));
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, 100, 0x10000)), Errno::Einval) << "pages from now on";
  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 4 * kMiB, 4 * kMiB));
  EXPECT_EQ(w.iommu.group(a0).domain()->leaf_at(Iova(6 * kMiB))->length, kPageSize);
  EXPECT_TRUE(option(kHugePages, kSet, ioas, 1)) << "never refused";
  EXPECT_EQ(error_of(option(kHugePages, kSet, ioas, 0)), Errno::Einval) << "areas are in a domain";
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 2 * kMiB, 64 * kMiB));
  EXPECT_EQ(w.iommu.group(a0).domain()->leaf_at(Iova(64 * kMiB))->length, 2 * kMiB);
  unbind(device);
}

// --- accounts -----------------------------------------------------------------------------------------------------

TEST_F(IoasIoctlTest, PinnedPagesArePaidForOnceUpToTheLimit) {
  using iommufd::Accounting;
  for (const Accounting mode : {Accounting::User, Accounting::Process, Accounting::None}) {
    w.task.credentials.uid = 1000;
    w.task.credentials.cap_ipc_lock = mode == Accounting::None;
    w.task.own_process->limit = 5 * kPageSize + 17;
    fd = w.task.add(*w.module->open(mode == Accounting::None ? Accounting::User : mode));
    const auto paid = [&] {
      return mode == Accounting::Process ? w.task.own_process->locked_pages() : w.module->accounts.pinned_by(1000);
    };
    const u64 one = mode == Accounting::None ? 0 : 1;
    const u32 ioas = w.ioas(fd), other = w.ioas(fd);
    const auto m = w.memfd(kMiB);
    ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x4000, 0x10000));
    EXPECT_EQ(w.task.own_process->pinned_pages(), 0u) << "no domain, nothing to pay for";
    Ref<iommufd::Device> device = w.bind(fd, a0);
    ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
    EXPECT_EQ(w.task.own_process->pinned_pages(), 4u);
    EXPECT_EQ(paid(), 4 * one);
    ASSERT_TRUE(w.hwpt(fd, device->id(), ioas)) << "one more domain";
    ASSERT_TRUE(w.hwpt(fd, device->id(), other));
    ASSERT_TRUE(copy(ioas, 0x11000, 0x2000, other, 0x20000)) << "the same pages";
    EXPECT_EQ(w.task.own_process->pinned_pages(), 4u);
    ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x1000, 0x30000)) << "mapped anew: paid anew";
    EXPECT_EQ(paid(), 5 * one);
    EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, 0x1000, 0x40000)),
              mode == Accounting::None ? Errno{} : Errno::Enomem);
    ASSERT_TRUE(w.unmap(fd, ioas, 0, ~u64{0}));
    EXPECT_EQ(w.task.own_process->pinned_pages(), 2u) << "the copy's";
    EXPECT_EQ(paid(), 2 * one);
    ASSERT_TRUE(w.unmap(fd, other, 0, ~u64{0}));
    EXPECT_EQ(w.task.own_process->pinned_pages(), 0u);
    EXPECT_EQ(paid(), 0u);
    unbind(device);
  }
}

TEST_F(IoasIoctlTest, AUserPaysForAllOfItsProcesses) {
  w.task.credentials = {.uid = 7, .cap_sys_resource = true, .cap_sys_rawio = true, .cap_ipc_lock = false};
  w.task.own_process->limit = 6 * kPageSize;
  const u32 ioas = w.ioas(fd);
  const auto m = w.memfd(kMiB);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x4000, 0x10000));
  test::FakeTask other;
  other.credentials = w.task.credentials;
  other.own_process->limit = 6 * kPageSize;
  const auto map = [&](u64 length) {
    const uapi::IommuIoasMapFile cmd{.size = 40,
                                     .flags = IommufdWorld::kRw | kFixed,
                                     .ioas_id = ioas,
                                     .fd = other.add(m.memory),
                                     .start = 0,
                                     .length = length,
                                     .iova = 0x50000};
    return error_of(w.task.files.at(fd)->ioctl(other, uapi::kIommuIoasMapFile, other.put(cmd)));
  };
  EXPECT_EQ(map(0x3000), Errno::Enomem);
  EXPECT_EQ(w.reached(a0, 0x50000), "");
  EXPECT_EQ(map(0x2000), Errno{});
  EXPECT_EQ(other.own_process->pinned_pages(), 2u);
  EXPECT_EQ(w.module->accounts.pinned_by(7), 6u);
  ASSERT_TRUE(w.unmap(fd, ioas, 0, ~u64{0}));
  EXPECT_EQ(w.module->accounts.pinned_by(7), 0u);
  unbind(device);
  other.exit();
}

TEST_F(IoasIoctlTest, ChangeProcessMovesWhatIsPaidForAllOrNothing) {
  w.task.credentials.cap_ipc_lock = false;
  fd = w.task.add(*w.module->open(iommufd::Accounting::Process));
  const u32 ioas = w.ioas(fd), second = w.ioas(fd);
  const auto m = w.memfd(kMiB);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  for (const u32 id : {ioas, second}) ASSERT_TRUE(w.hwpt(fd, device->id(), id));
  test::FakeTask heir;
  heir.credentials = w.task.credentials;
  EXPECT_EQ(change_process(heir, 1), Errno::Eopnotsupp);
  w.task.map_shared(UserAddr(0x100000), 0x1000, m.memory, 0);
  ASSERT_TRUE(w.map(fd, second, 0x100000, 0x1000, 0x40000));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x2000, 0x40000));
  ASSERT_TRUE(copy(ioas, 0x40000, 0x2000, second, 0x60000));
  ASSERT_TRUE(w.map_file(fd, second, m.fd, 0, 0x3000, 0x80000));
  EXPECT_EQ(change_process(heir), Errno::Einval) << "one is not of a file";
  ASSERT_TRUE(w.unmap(fd, second, 0x40000, 0x1000));
  heir.own_process->limit = 4 * kPageSize;
  EXPECT_EQ(change_process(heir), Errno::Enomem);
  EXPECT_EQ(heir.own_process->locked_pages() + heir.own_process->pinned_pages(), 0u);
  EXPECT_EQ(w.task.own_process->locked_pages(), 5u);
  heir.own_process->limit = 5 * kPageSize;
  EXPECT_EQ(change_process(heir), Errno{});
  EXPECT_EQ(heir.own_process->locked_pages(), 5u) << "copies are paid for once";
  EXPECT_EQ(heir.own_process->pinned_pages(), 5u);
  EXPECT_EQ(w.task.own_process->locked_pages() + w.task.own_process->pinned_pages(), 0u);
  ASSERT_TRUE(w.unmap(fd, second, 0, ~u64{0}));
  EXPECT_EQ(heir.own_process->locked_pages(), 2u);
  unbind(device);
  w.task.close(fd);
  EXPECT_EQ(heir.own_process->locked_pages(), 0u);
}

// --- cutting (type 1 of VFIO) -------------------------------------------------------------------------------------

TEST_F(IoasIoctlTest, Type1CutsWhatItMapped) {
  w.task.credentials.cap_ipc_lock = false;
  const u32 ioas = w.ioas(fd);
  const auto m = w.memfd(kMiB);
  uapi::IommuVfioIoas set{.size = sizeof(set), .ioas_id = ioas, .op = uapi::iommu_vfio_ioas::kSet, .reserved = 0};
  ASSERT_TRUE(w.call(fd, uapi::kIommuVfioIoas, set));
  Ref<iommufd::Device> device = w.bind(fd, a0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, ioas));
  const auto set_iommu = [&](u64 type) {
    return w.task.files.at(fd)->ioctl(w.task, uapi::kVfioSetIommu, UserAddr(type));
  };
  const auto unmap = [&](u64 iova, u64 size) {
    uapi::VfioDmaUnmap cmd{.argsz = sizeof(cmd), .flags = 0, .iova = iova, .size = size};
    const Result<void> done = w.call(fd, uapi::kVfioIommuUnmapDma, cmd);
    return done ? Result<u64>(cmd.size) : fail(done.error());
  };
  ASSERT_TRUE(set_iommu(uapi::vfio_extension::kType1v2));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x8000, 0x10000));
  EXPECT_EQ(error_of(unmap(0x12000, 0x1000)), Errno::Enoent) << "version 2 takes whole areas or none";
  ASSERT_TRUE(w.unmap(fd, ioas, 0, ~u64{0}));
  ASSERT_TRUE(set_iommu(uapi::vfio_extension::kType1));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 0x8000, 0x10000));
  EXPECT_EQ(*unmap(0x12000, 0x2000), 0x2000u);
  EXPECT_EQ(w.reached(a0, 0x11000), w.place(m, 0x1000));
  EXPECT_EQ(w.reached(a0, 0x12000), "");
  EXPECT_EQ(w.reached(a0, 0x13000), "");
  EXPECT_EQ(w.reached(a0, 0x14000), w.place(m, 0x4000));
  EXPECT_EQ(w.task.own_process->pinned_pages(), 6u);
  EXPECT_EQ(*unmap(0x14000, 0x4000), 0x4000u);
  EXPECT_EQ(*unmap(0x10000, 0x1000), 0x1000u);
  EXPECT_EQ(*unmap(0x11000, 0x1000), 0x1000u);
  EXPECT_EQ(w.task.own_process->pinned_pages(), 0u);
  unbind(device);
}

// --- dirty tracking, and what no unit here does (§2.7, §2.10)
// --------------------------------------------------------------------------

TEST_F(IoasIoctlTest, DirtyTrackingIsRefusedAfterItsChecks) {
  const u32 ioas = w.ioas(fd);
  Ref<iommufd::Device> device = w.bind(fd, a0);
  const u32 hwpt = *w.hwpt(fd, device->id(), ioas);
  uapi::IommuHwptGetDirtyBitmap cmd{.size = sizeof(cmd),
                                    .hwpt_id = ioas,
                                    .flags = 2,
                                    .reserved = 0,
                                    .iova = 0x10,
                                    .length = 0,
                                    .page_size = 0,
                                    .data = 8};
  EXPECT_EQ(error(uapi::kIommuHwptGetDirtyBitmap, cmd), Errno::Eopnotsupp);
  cmd.flags = 1;
  cmd.reserved = 1;
  EXPECT_EQ(error(uapi::kIommuHwptGetDirtyBitmap, cmd), Errno::Eopnotsupp);
  cmd.reserved = 0;
  EXPECT_EQ(error(uapi::kIommuHwptGetDirtyBitmap, cmd), Errno::Enoent) << "no paging HWPT";
  cmd.hwpt_id = hwpt;
  EXPECT_EQ(error(uapi::kIommuHwptGetDirtyBitmap, cmd), Errno::Einval) << "length 0";
  cmd.length = ~u64{0};
  EXPECT_EQ(error(uapi::kIommuHwptGetDirtyBitmap, cmd), Errno::Eoverflow);
  cmd.length = 0x2000;
  EXPECT_EQ(error(uapi::kIommuHwptGetDirtyBitmap, cmd), Errno::Einval) << "not aligned to pages";
  cmd.iova = 0x1000;
  EXPECT_EQ(error(uapi::kIommuHwptGetDirtyBitmap, cmd), Errno::Einval) << "page size 0";
  cmd.page_size = 0x2000;
  EXPECT_EQ(error(uapi::kIommuHwptGetDirtyBitmap, cmd), Errno::Einval) << "not aligned to what is asked in";
  cmd.page_size = 0x1000;
  EXPECT_EQ(error(uapi::kIommuHwptGetDirtyBitmap, cmd), Errno::Eopnotsupp);
  uapi::IommuHwptSetDirtyTracking track{.size = sizeof(track), .flags = 2, .hwpt_id = ioas, .reserved = 0};
  EXPECT_EQ(error(uapi::kIommuHwptSetDirtyTracking, track), Errno::Eopnotsupp);
  track.flags = 1;
  EXPECT_EQ(error(uapi::kIommuHwptSetDirtyTracking, track), Errno::Enoent);
  track.hwpt_id = hwpt;
  EXPECT_EQ(error(uapi::kIommuHwptSetDirtyTracking, track), Errno::Eopnotsupp);
  unbind(device);
}

TEST_F(IoasIoctlTest, VirtualIommusAreRefusedAfterTheirChecks) {
  Ref<iommufd::Device> device = w.bind(fd, a0);
  uapi::IommuViommuAlloc viommu{};
  viommu.size = sizeof(viommu);
  viommu.dev_id = 99;
  EXPECT_EQ(error(uapi::kIommuViommuAlloc, viommu), Errno::Eopnotsupp) << "type 0";
  viommu.type = 1;
  viommu.flags = 1;
  EXPECT_EQ(error(uapi::kIommuViommuAlloc, viommu), Errno::Eopnotsupp);
  viommu.flags = 0;
  EXPECT_EQ(error(uapi::kIommuViommuAlloc, viommu), Errno::Enoent);
  viommu.dev_id = device->id();
  viommu.reserved = 1;
  EXPECT_EQ(error(uapi::kIommuViommuAlloc, viommu), Errno::Eopnotsupp) << "no unit does it";
  EXPECT_EQ(error(uapi::kIommuVdeviceAlloc, uapi::IommuVdeviceAlloc{.size = 24}), Errno::Enoent);

  uapi::IommuVeventqAlloc events{};
  events.size = sizeof(events);
  EXPECT_EQ(error(uapi::kIommuVeventqAlloc, events), Errno::Eopnotsupp) << "type 0";
  events.type = 1;
  EXPECT_EQ(error(uapi::kIommuVeventqAlloc, events), Errno::Einval) << "depth 0";
  events.veventq_depth = (1 << 19) + 1;
  EXPECT_EQ(error(uapi::kIommuVeventqAlloc, events), Errno::Einval);
  events.reserved = 1;
  EXPECT_EQ(error(uapi::kIommuVeventqAlloc, events), Errno::Eopnotsupp);
  events.reserved = 0;
  events.veventq_depth = 1 << 19;
  EXPECT_EQ(error(uapi::kIommuVeventqAlloc, events), Errno::Enoent);

  uapi::IommuHwQueueAlloc queue{};
  queue.size = sizeof(queue);
  EXPECT_EQ(error(uapi::kIommuHwQueueAlloc, queue), Errno::Eopnotsupp) << "type 0";
  queue.type = 1;
  EXPECT_EQ(error(uapi::kIommuHwQueueAlloc, queue), Errno::Einval);
  queue.length = 2;
  queue.nesting_parent_iova = ~u64{0};
  EXPECT_EQ(error(uapi::kIommuHwQueueAlloc, queue), Errno::Eoverflow);
  queue.nesting_parent_iova = 0;
  EXPECT_EQ(error(uapi::kIommuHwQueueAlloc, queue), Errno::Enoent);
  unbind(device);
}

}  // namespace
}  // namespace perdure::testing
