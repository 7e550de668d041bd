// A context across live updates: what is refused, what comes back, and that devices notice none of it.
#include "core/iommufd/testing/iommufd_update.h"

namespace perdure::testing {
namespace {

class IommufdLiveUpdateTest : public IommufdUpdate {};

INSTANTIATE_TEST_SUITE_P(Versions, IommufdLiveUpdateTest, ::testing::Values(1u, 2u));

// --- marking -------------------------------------------------------------------------------------------------------

TEST_P(IommufdLiveUpdateTest, MarksAreForGoodAndTokensUnique) {
  set_up();
  const u32 other = *w.hwpt(fd, device->id(), ioas);
  EXPECT_EQ(error_of(w.mark(fd, 99, 1)), Errno::Enoent);
  EXPECT_EQ(error_of(w.mark(fd, ioas, 1)), Errno::Enoent);
  EXPECT_EQ(error_of(w.mark(fd, other, kHwpt)), Errno::Eaddrinuse);
  EXPECT_EQ(error_of(w.mark(fd, hwpt, kHwpt)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.mark(fd, hwpt, 1)), Errno::Ebusy);
  // The token is free again once its HWPT is gone.
  ASSERT_TRUE(w.mark(fd, other, 0));
  ASSERT_TRUE(w.destroy(fd, other));
  const u32 third = *w.hwpt(fd, device->id(), ioas);
  EXPECT_TRUE(w.mark(fd, third, 0));
  w.preserve_memfd(m, kMemfd);
  ASSERT_TRUE(w.preserve(fd, kContext));
  const u32 late = *w.hwpt(fd, device->id(), ioas);
  EXPECT_EQ(error_of(w.mark(fd, late, 77)), Errno::Ebusy) << "would not be in the record";
  w.unpreserve(fd, kContext);
  EXPECT_TRUE(w.mark(fd, late, 77));
  unbind();
}

// --- preserve -----------------------------------------------------------------------------------------------------

TEST_P(IommufdLiveUpdateTest, OnlySealedPreservedFilesCanBePreserved) {
  set_up();
  EXPECT_EQ(error_of(w.preserve(fd, kContext)), Errno::Enoent) << "memfd first";
  w.preserve_memfd(m, kMemfd);
  ASSERT_TRUE(w.preserve(fd, kContext));
  w.unpreserve(fd, kContext);

  const auto open = w.memfd(kMiB, seal::kSeal & 0);
  const auto half = w.memfd(kMiB, seal::kShrink | seal::kGrow);
  const auto anonymous = w.memfd(kMiB);
  w.task.map_shared(UserAddr(0x100000), kMiB, anonymous.memory, 0);
  const auto refused = [&](auto map) {
    ASSERT_TRUE(map());
    EXPECT_EQ(error_of(w.preserve(fd, kContext)), Errno::Einval);
    ASSERT_TRUE(w.unmap(fd, ioas, 0x10000, kPageSize)) << "the failed preserve left it immutable";
  };
  refused([&] { return w.map_file(fd, ioas, open.fd, 0, kPageSize, 0x10000); });
  refused([&] { return w.map_file(fd, ioas, half.fd, 0, kPageSize, 0x10000); });
  refused([&] { return w.map(fd, ioas, 0x100000, kPageSize, 0x10000); });
  // Seals that come after the mapping do not count; those that come before do.
  ASSERT_TRUE(w.map_file(fd, ioas, open.fd, 0, kPageSize, 0x10000));
  ASSERT_TRUE(open.host->add_seals(seal::kPreservable));
  w.preserve_memfd(open, kMemfd2);
  EXPECT_EQ(error_of(w.preserve(fd, kContext)), Errno::Einval);
  ASSERT_TRUE(w.unmap(fd, ioas, 0x10000, kPageSize));
  ASSERT_TRUE(w.map_file(fd, ioas, open.fd, 0, kPageSize, 0x10000));
  EXPECT_TRUE(w.preserve(fd, kContext));
  w.unpreserve(fd, kContext);
  unbind();
}

// What the record has no place for is refused, not lost.
TEST_P(IommufdLiveUpdateTest, AnIoasWithAllowedRangesOrWithoutLargePagesIsNotPreserved) {
  set_up();
  w.preserve_memfd(m, kMemfd);
  const UserAddr range = w.task.put(uapi::IommuIovaRange{.start = 0x1000, .last = 0x1fff});
  uapi::IommuIoasAllowIovas allow{
      .size = sizeof(allow), .ioas_id = ioas, .num_iovas = 1, .reserved = 0, .allowed_iovas = range.value};
  ASSERT_TRUE(w.call(fd, uapi::kIommuIoasAllowIovas, allow));
  EXPECT_EQ(error_of(w.preserve(fd, kContext)), Errno::Eopnotsupp);
  EXPECT_NE(w.machine().lines.back().find("allowed ranges"), std::string::npos);
  allow.num_iovas = 0;
  ASSERT_TRUE(w.call(fd, uapi::kIommuIoasAllowIovas, allow)) << "the failed preserve left it immutable";
  ASSERT_TRUE(w.preserve(fd, kContext));
  allow.num_iovas = 1;
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuIoasAllowIovas, allow)), Errno::Ebusy);
  uapi::IommuOption option{.size = sizeof(option),
                           .option_id = uapi::iommu_option::kHugePages,
                           .op = uapi::iommu_option::kSet,
                           .reserved = 0,
                           .object_id = ioas,
                           .val64 = 1};
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuOption, option)), Errno::Ebusy);
  option.option_id = uapi::iommu_option::kRlimitMode;
  option.object_id = 0;
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuOption, option)), Errno::Ebusy);
  uapi::IommuIoasCopy copy{.size = sizeof(copy),
                           .flags = IommufdWorld::kRw,
                           .dst_ioas_id = ioas,
                           .src_ioas_id = ioas,
                           .length = kPageSize,
                           .dst_iova = 0,
                           .src_iova = kBase};
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuIoasCopy, copy)), Errno::Ebusy);
  copy.dst_ioas_id = w.ioas(fd);
  EXPECT_TRUE(w.call(fd, uapi::kIommuIoasCopy, copy)) << "reading a preserved one changes nothing";
  uapi::IommuIoasChangeProcess change{.size = sizeof(change), .reserved = 0};
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuIoasChangeProcess, change)), Errno::Ebusy);
  w.unpreserve(fd, kContext);
  unbind();
}

// A copy is recorded as what it leads to: the memfd and the place in it.
TEST_P(IommufdLiveUpdateTest, CopiesCrossAnUpdateAsAreas) {
  set_up();
  uapi::IommuIoasCopy copy{.size = sizeof(copy),
                           .flags = IommufdWorld::kRw | uapi::iommu_map::kFixedIova,
                           .dst_ioas_id = ioas,
                           .src_ioas_id = ioas,
                           .length = 2 * kPageSize,
                           .dst_iova = kBase + 32 * kMiB,
                           .src_iova = kBase + 5 * kPageSize};
  ASSERT_TRUE(w.call(fd, uapi::kIommuIoasCopy, copy));
  preserve_all();
  jump();
  come_back();
  const u64 before = w.task.own_process->pinned_pages();  // by the kernel that is gone
  ASSERT_TRUE(w.adopt(fd, kHwpt));
  EXPECT_EQ(w.reached(a0, kBase + 32 * kMiB + kPageSize), w.place(m, 6 * kPageSize));
  EXPECT_EQ(w.task.own_process->pinned_pages() - before, (4 * kMiB + 2 * kPageSize) / kPageSize);
  unbind();
}

TEST_P(IommufdLiveUpdateTest, PreservedMeansImmutableUntilUnpreserved) {
  set_up();
  const u32 second = *w.hwpt(fd, device->id(), ioas);
  ASSERT_TRUE(w.mark(fd, second, kHwpt2));
  const u32 plain = *w.hwpt(fd, device->id(), ioas);
  const u32 elsewhere = w.ioas(fd);
  w.preserve_memfd(m, kMemfd);
  w.session->lookups = 0;
  ASSERT_TRUE(w.preserve(fd, kContext));
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0x10000)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.map(fd, ioas, 0x100000, kPageSize, 0x10000)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.unmap(fd, ioas, kBase, 3 * kMiB)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.unmap(fd, ioas, 0, ~u64{0})), Errno::Ebusy);
  EXPECT_EQ(error_of(w.destroy(fd, second)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.destroy(fd, ioas)), Errno::Ebusy);
  EXPECT_TRUE(w.map_file(fd, elsewhere, m.fd, 0, kPageSize, 0x10000)) << "another IOAS";
  EXPECT_TRUE(w.destroy(fd, plain));
  ASSERT_TRUE(w.file(fd).preserve_device(*device, *w.session));
  EXPECT_EQ(error_of(w.file(fd).detach(*device)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *device, second)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *device, elsewhere)), Errno::Ebusy);
  EXPECT_EQ(w.reached(a0, kBase), w.place(m, 0));

  w.file(fd).unpreserve_device(*device);
  w.unpreserve(fd, kContext);
  EXPECT_TRUE(w.destroy(fd, second)) << "preserving took a use, unpreserving gave it back";
  ASSERT_TRUE(w.unmap(fd, ioas, 0, ~u64{0}));
  ASSERT_TRUE(w.file(fd).detach(*device));
  unbind();
}

// R42: whatever the number of page tables over it, an address space is checked and written once.
TEST_P(IommufdLiveUpdateTest, AreasAreWrittenOncePerIoas) {
  set_up();
  std::vector<u32> further;
  for (u64 i = 0; i < 9; ++i) {
    further.push_back(*w.hwpt(fd, device->id(), ioas));
    ASSERT_TRUE(w.mark(fd, further.back(), kHwpt2 + i));
  }
  w.preserve_memfd(m, kMemfd);
  ASSERT_TRUE(w.preserve(fd, kContext));
  const auto& header = *w.machine().virt<abi::IommufdHeader>(Phys(w.record));
  EXPECT_EQ(header.hwpt_count, 10u);
  EXPECT_EQ(header.area_count, 2u) << "the areas of the one IOAS, not of each HWPT";
  w.unpreserve(fd, kContext);
  for (u32 id : further) EXPECT_TRUE(w.destroy(fd, id));
  unbind();
}

TEST_P(IommufdLiveUpdateTest, DevicesAreJudgedInOrder) {
  set_up();
  Ref<iommufd::Device> other = w.bind(fd, a1);
  EXPECT_EQ(error_of(w.file(fd).preserve_device(*other, *w.session)), Errno::Enoent) << "not attached";
  EXPECT_EQ(error_of(w.file(fd).preserve_device(*device, *w.session)), Errno::Enoent) << "context first";
  w.preserve_memfd(m, kMemfd);
  const u32 plain = *w.hwpt(fd, device->id(), ioas);
  ASSERT_TRUE(w.file(fd).attach(w.task, *other, plain));
  ASSERT_TRUE(w.preserve(fd, kContext));
  EXPECT_EQ(error_of(w.file(fd).preserve_device(*other, *w.session)), Errno::Einval) << "HWPT not marked";
  EXPECT_TRUE(w.file(fd).preserve_device(*device, *w.session));
  EXPECT_EQ(error_of(w.file(fd).preserve_device(*device, *w.session)), Errno::Ebusy);
  w.file(fd).unpreserve_device(*device);
  w.unpreserve(fd, kContext);
  w.file(fd).unbind(*other);
  other = nullptr;
  unbind();
}

TEST_P(IommufdLiveUpdateTest, EveryFailingAllocationOfPreserveIsUndone) {
  set_up();
  const u32 second = *w.hwpt(fd, device->id(), ioas);
  ASSERT_TRUE(w.mark(fd, second, kHwpt2));
  w.preserve_memfd(m, kMemfd);
  // Once, so that what stays allocated for reuse (the tree of blocks) is there.
  ASSERT_TRUE(w.preserve(fd, kContext));
  w.unpreserve(fd, kContext);
  const u64 before = (w.heap().trim(), w.heap().bytes_in_use());
  for (u64 n = 1;; ++n) {
    const Result<void> preserved = w.machine().counting.failing(n, [&] { return w.preserve(fd, kContext); });
    if (preserved) {
      EXPECT_GT(n, 10u);
      break;
    }
    ASSERT_EQ(preserved.error(), Errno::Enomem);
    ASSERT_EQ(w.heap().bytes_in_use(), before) << n;
    ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0x10000)) << n;
    ASSERT_TRUE(w.unmap(fd, ioas, 0x10000, kPageSize)) << n;
    ASSERT_LT(n, 500u);
  }
  w.unpreserve(fd, kContext);
  ASSERT_TRUE(w.destroy(fd, second));
  unbind();
}

TEST_P(IommufdLiveUpdateTest, FreezeNeedsAnAuditThatSawEverything) {
  set_up();
  preserve_all();
  luo::FileState state = w.state(kContext, w.task.files.at(fd).get());
  EXPECT_EQ(error_of(w.handler->audit()), Errno::Efault) << "none was made";
  EXPECT_EQ(error_of(w.handler->freeze(state)), Errno::Efault);
  ASSERT_TRUE(w.iommu.live->audit());
  EXPECT_TRUE(w.handler->audit());
  EXPECT_TRUE(w.handler->freeze(state));
  w.handler->unfreeze(state);
  // A leaf that leads elsewhere, and one that is missing: as a stray write to a table would make them.
  PagingDomain& domain = *w.iommu.group(a0).domain();
  Phys table;
  ASSERT_TRUE(domain.table().each_table([&](Phys page, unsigned level) -> Result<void> {
    if (level == 1 || !table) table = page;
    return {};
  }));
  u64* const entries = w.machine().virt<u64>(table);
  usize used = 0;
  while (entries[used] == 0) ++used;
  const u64 good = entries[used];
  entries[used] = good + kPageSize;
  EXPECT_EQ(error_of(w.iommu.live->audit()), Errno::Efault);
  entries[used] = 0;
  const bool core_noticed = !w.iommu.live->audit();
  EXPECT_TRUE(core_noticed || error_of(w.handler->audit()) == Errno::Efault);
  entries[used] = good;
  ASSERT_TRUE(w.iommu.live->audit());
  EXPECT_TRUE(w.handler->audit());
  w.file(fd).unpreserve_device(*device);
  w.unpreserve(fd, kContext);
  unbind();
}

// --- and back ------------------------------------------------------------------------------------------------------

TEST_P(IommufdLiveUpdateTest, ComesBackAndIsReplacedWithoutAGap) {
  set_up();
  preserve_all();
  const std::string reached = w.reached(a0, kBase);
  jump();
  const auto entry = w.iommu.hw_a.entries.at(a0);
  const u64 writes = w.iommu.hw_a.entry_writes;

  // Nobody else gets the device.
  const s32 stranger = w.open();
  EXPECT_EQ(error_of(w.file(stranger).bind(w.iommu.device(a0))), Errno::Eperm);
  EXPECT_EQ(error_of(w.file(stranger).bind_held(w.iommu.device(a0), IommufdWorld::kGeneration, kContext)),
            Errno::Eperm);
  EXPECT_EQ(error_of(w.restore(stranger, kHwpt)), Errno::Enotty) << "no record";
  EXPECT_FALSE(w.can_finish(-1, kContext, 0)) << "not retrieved";

  fd = *w.retrieve(kContext);
  EXPECT_EQ(error_of(w.file(fd).bind_held(w.iommu.device(a0), IommufdWorld::kGeneration + 1, kContext)), Errno::Eperm);
  EXPECT_EQ(error_of(w.file(fd).bind_held(w.iommu.device(a0), IommufdWorld::kGeneration, kContext + 1)), Errno::Eperm);
  const s32 sibling = *w.retrieve(kContext + 1);
  EXPECT_EQ(error_of(w.file(sibling).bind_held(w.iommu.device(a0), IommufdWorld::kGeneration, kContext)), Errno::Eperm)
      << "of the same session, under another token";
  w.session->files.erase(kContext + 1);
  w.task.close(sibling);
  device = *w.file(fd).bind_held(w.iommu.device(a0), IommufdWorld::kGeneration, kContext);
  EXPECT_EQ(error_of(w.file(fd).bind_held(w.iommu.device(a0), IommufdWorld::kGeneration, kContext)), Errno::Eperm);
  // What it runs on has no object yet.
  const u32 empty = w.ioas(fd);
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *device, empty)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.file(fd).detach(*device)), Errno::Ebusy);
  EXPECT_FALSE(w.can_finish(fd, kContext));

  EXPECT_EQ(error_of(w.restore(fd, 999)), Errno::Enoent);
  const u32 restored = *w.restore(fd, kHwpt);
  EXPECT_EQ(error_of(w.restore(fd, kHwpt)), Errno::Enoent) << "once";
  EXPECT_TRUE(w.can_finish(fd, kContext));
  EXPECT_EQ(error_of(w.destroy(fd, restored)), Errno::Ebusy);
  EXPECT_EQ(*w.file(fd).attach(w.task, *device, restored), restored) << "it is attached";
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *device, empty)), Errno::Einval) << "other results";
  EXPECT_EQ(error_of(w.hwpt(fd, device->id(), restored)), Errno::Eopnotsupp);
  Ref<iommufd::Device> other = w.bind(fd, a1);
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *other, restored)), Errno::Einval) << "no further devices";
  w.file(fd).unbind(*other);
  other = nullptr;

  const u32 fresh = rebuild();
  EXPECT_EQ(*w.file(fd).attach(w.task, *device, fresh), fresh);
  EXPECT_EQ(w.reached(a0, kBase), reached);
  EXPECT_EQ(w.iommu.hw_a.entries.at(a0), entry) << "DID and top page stay";
  EXPECT_EQ(w.iommu.hw_a.entry_writes, writes) << "no entry was written";
  EXPECT_EQ(w.iommu.count("flush_domain") + w.iommu.count("flush_all") > 0, true);
  EXPECT_TRUE(w.destroy(fd, restored));
  ASSERT_TRUE(w.can_finish(fd, kContext));
  w.finish(fd, kContext);
  w.iommu.live->finish(0);
  EXPECT_EQ(error_of(w.restore(fd, kHwpt)), Errno::Enotty);
  // An ordinary HWPT now.
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0x10000));
  EXPECT_EQ(w.reached(a0, 0x10000), w.place(m, 0));
  unbind();
}

TEST_P(IommufdLiveUpdateTest, ReplacementMustGiveTheSameResults) {
  set_up();
  preserve_all();
  jump();
  come_back();
  const u32 restored = *w.restore(fd, kHwpt);
  const std::string reached = w.reached(a0, kBase);
  m.memory = Ref<SharedMemory>(file_cast<SharedMemory>(w.session->files.at(kMemfd).get()));
  m.fd = w.task.add(m.memory);
  const auto other = w.memfd(4 * kMiB);
  constexpr u32 kReadOnly = uapi::iommu_map::kReadable | 1, kBoth = IommufdWorld::kRw | 1;
  struct Case {
    const char* what;
    std::function<void(u32 ioas)> map;
  };
  const Case cases[] = {
      {"nothing", [&](u32) {}},
      {"an area missing", [&](u32 i) { ASSERT_TRUE(w.map_file(fd, i, m.fd, 0, 3 * kMiB, kBase)); }},
      {"too short",
       [&](u32 i) {
         ASSERT_TRUE(w.map_file(fd, i, m.fd, 0, 3 * kMiB - kPageSize, kBase));
         ASSERT_TRUE(w.map_file(fd, i, m.fd, 3 * kMiB, kMiB, kBase + 16 * kMiB, kReadOnly));
       }},
      {"another offset",
       [&](u32 i) {
         ASSERT_TRUE(w.map_file(fd, i, m.fd, kMiB, 3 * kMiB, kBase));
         ASSERT_TRUE(w.map_file(fd, i, m.fd, 3 * kMiB, kMiB, kBase + 16 * kMiB, kReadOnly));
       }},
      {"another file",
       [&](u32 i) {
         ASSERT_TRUE(w.map_file(fd, i, other.fd, 0, 3 * kMiB, kBase));
         ASSERT_TRUE(w.map_file(fd, i, m.fd, 3 * kMiB, kMiB, kBase + 16 * kMiB, kReadOnly));
       }},
      {"more access",
       [&](u32 i) {
         ASSERT_TRUE(w.map_file(fd, i, m.fd, 0, 3 * kMiB, kBase));
         ASSERT_TRUE(w.map_file(fd, i, m.fd, 3 * kMiB, kMiB, kBase + 16 * kMiB, kBoth));
       }},
      {"a hole",
       [&](u32 i) {
         ASSERT_TRUE(w.map_file(fd, i, m.fd, 0, kMiB, kBase));
         ASSERT_TRUE(w.map_file(fd, i, m.fd, 2 * kMiB, kMiB, kBase + 2 * kMiB));
         ASSERT_TRUE(w.map_file(fd, i, m.fd, 3 * kMiB, kMiB, kBase + 16 * kMiB, kReadOnly));
       }},
  };
  for (const Case& c : cases) {
    const u32 space = w.ioas(fd);
    c.map(space);
    EXPECT_EQ(error_of(w.file(fd).attach(w.task, *device, space)), Errno::Einval) << c.what;
    EXPECT_EQ(w.reached(a0, kBase), reached) << c.what;
    EXPECT_EQ(error_of(w.destroy(fd, restored)), Errno::Ebusy) << c.what;
    EXPECT_TRUE(w.destroy(fd, space)) << c.what;
  }
  // The same, cut differently, and more: that is fine.
  const u32 space = w.ioas(fd);
  ASSERT_TRUE(w.map_file(fd, space, m.fd, 0, kMiB, kBase));
  ASSERT_TRUE(w.map_file(fd, space, m.fd, kMiB, 2 * kMiB, kBase + kMiB));
  ASSERT_TRUE(w.map_file(fd, space, m.fd, 3 * kMiB, kMiB, kBase + 16 * kMiB, kReadOnly));
  ASSERT_TRUE(w.map_file(fd, space, other.fd, 0, kMiB, kBase + 32 * kMiB));
  EXPECT_TRUE(w.file(fd).attach(w.task, *device, space));
  EXPECT_EQ(w.reached(a0, kBase + kMiB), w.place(m, kMiB));
  EXPECT_EQ(w.reached(a0, kBase + 32 * kMiB), w.place(other, 0));
  unbind();
}

TEST_P(IommufdLiveUpdateTest, KeptAsItIsAndPreservedAgain) {
  set_up();
  preserve_all();
  const std::string reached = w.reached(a0, kBase);
  for (int hop = 0; hop < 3; ++hop) {
    jump();
    EXPECT_EQ(w.reached(a0, kBase), reached) << hop;
    come_back();
    hwpt = *w.restore(fd, kHwpt);
    ASSERT_TRUE(w.can_finish(fd, kContext));
    w.finish(fd, kContext);
    w.iommu.live->finish(0);
    // The memory is found again under its token, and is preserved again.
    m.memory = Ref<SharedMemory>(file_cast<SharedMemory>(w.session->files.at(kMemfd).get()));
    m.host = w.memfds.at(kMemfd);
    w.session->files.clear();
    w.iommu.begin();
    EXPECT_EQ(error_of(w.preserve(fd, kContext)), Errno{}) << "nothing is marked: an empty record";
    w.unpreserve(fd, kContext);
    ASSERT_TRUE(w.mark(fd, hwpt, kHwpt));
    EXPECT_EQ(error_of(w.preserve(fd, kContext)), Errno::Enoent) << "memfd first, here too";
    preserve_all();
  }
  w.file(fd).unpreserve_device(*device);
  w.unpreserve(fd, kContext);
  // Detached, it can go, and its memory with it.
  unbind();
  EXPECT_EQ(w.reached(a0, kBase), "blocked");
  EXPECT_TRUE(w.destroy(fd, hwpt));
}

// The session is over, and only then the program makes its own table.
TEST_P(IommufdLiveUpdateTest, KeptFirstAndReplacedLater) {
  set_up();
  preserve_all();
  const std::string reached = w.reached(a0, kBase);
  jump();
  const auto entry = w.iommu.hw_a.entries.at(a0);
  come_back();
  const u32 restored = *w.restore(fd, kHwpt);
  w.finish(fd, kContext);
  w.iommu.live->finish(0);
  const u32 fresh = rebuild();
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, fresh));
  EXPECT_EQ(w.reached(a0, kBase), reached);
  EXPECT_EQ(w.iommu.hw_a.entries.at(a0), entry);
  EXPECT_TRUE(w.destroy(fd, restored));
  unbind();
}

TEST_P(IommufdLiveUpdateTest, RestoreIsUndoneWhenItsAnswerCannotBeWritten) {
  set_up();
  preserve_all();
  jump();
  come_back();
  uapi::IommuHwptRestore cmd{.size = sizeof(cmd), .flags = 0, .token = kHwpt, .out_hwpt_id = 0, .out_ioas_id = 0};
  const UserAddr at = w.task.put(cmd);
  w.task.set_writable(at, false);
  EXPECT_EQ(error_of(w.task.files.at(fd)->ioctl(w.task, uapi::kIommuHwptRestore, at)), Errno::Efault);
  EXPECT_FALSE(w.can_finish(fd, kContext));
  cmd.flags = 2;
  EXPECT_EQ(error_of(w.call(fd, uapi::kIommuHwptRestore, cmd)), Errno::Eopnotsupp);
  EXPECT_EQ(*w.restore(fd, kHwpt), device->id() + 1);
  EXPECT_TRUE(w.can_finish(fd, kContext));
  unbind();
}

// §8.3-13, §8.3-14: what a HWPT without IOAS refuses, and asking whether one may finish, keeps nothing.
TEST_P(IommufdLiveUpdateTest, RefusedCallsOnARestoredHwptKeepNoReference) {
  set_up();
  preserve_all();
  jump();
  come_back();
  const Ref<File> context = w.task.files.at(fd);
  const u64 before = context->ref_count();
  EXPECT_FALSE(w.can_finish(fd, kContext));
  const u32 restored = *w.restore(fd, kHwpt);
  for (int i = 0; i < 3; ++i) {
    uapi::IommuHwptSetDirtyTracking set{.size = sizeof(set), .flags = 1, .hwpt_id = restored};
    EXPECT_FALSE(w.call(fd, uapi::kIommuHwptSetDirtyTracking, set));
    uapi::IommuHwptGetDirtyBitmap get{};
    get.size = sizeof(get);
    get.hwpt_id = restored;
    EXPECT_FALSE(w.call(fd, uapi::kIommuHwptGetDirtyBitmap, get));
    EXPECT_FALSE(w.map_file(fd, restored, m.fd, 0, kPageSize, 0x10000));
    EXPECT_FALSE(w.unmap(fd, restored, kBase, kMiB));
    EXPECT_FALSE(w.hwpt(fd, device->id(), restored)) << "no parent of others";
    EXPECT_FALSE(w.destroy(fd, restored)) << "hardware walks it";
    EXPECT_TRUE(w.can_finish(fd, kContext));
  }
  EXPECT_EQ(context->ref_count(), before);
  unbind();
  EXPECT_TRUE(w.destroy(fd, restored)) << "the last one to use it is gone";
}

TEST_P(IommufdLiveUpdateTest, DevicesThatShareADomainMoveTogether) {
  set_up();
  Ref<iommufd::Device> second = w.bind(fd, a1);
  ASSERT_TRUE(w.file(fd).attach(w.task, *second, hwpt));
  preserve_all();
  ASSERT_TRUE(w.file(fd).preserve_device(*second, *w.session));
  static_cast<void>(second.release());
  jump();
  come_back();
  const u32 restored = *w.restore(fd, kHwpt);
  second = *w.file(fd).bind_held(w.iommu.device(a1), IommufdWorld::kGeneration, kContext);
  const u32 fresh = rebuild();
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, fresh));
  EXPECT_EQ(w.reached(a1, kBase), w.reached(a0, kBase));
  EXPECT_TRUE(w.destroy(fd, restored)) << "nobody runs on it any more";
  EXPECT_EQ(*w.file(fd).attach(w.task, *second, fresh), fresh);
  // What is mapped from now on reaches both.
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0x10000));
  EXPECT_EQ(w.reached(a0, 0x10000), w.place(m, 0));
  EXPECT_EQ(w.reached(a1, 0x10000), w.place(m, 0));
  EXPECT_EQ(error_of(w.destroy(fd, fresh)), Errno::Ebusy);
  unbind();
  EXPECT_EQ(error_of(w.destroy(fd, fresh)), Errno::Ebusy);
  w.file(fd).unbind(*second);
  second = nullptr;
  EXPECT_TRUE(w.destroy(fd, fresh));
}

// Row 9, §5.5: a domain of two devices behind two units. All of it moves by one replacement, whichever device asks for
// it; or nothing does, when the new table would lead anywhere else.
TEST_P(IommufdLiveUpdateTest, DevicesOfTwoUnitsMoveTogetherOrNotAtAll) {
  constexpr SourceId b0 = IommufdWorld::b0;
  set_up();
  w.iommu.hw_b.dids.insert(kFirstDynamicDid);  // so that the units' DIDs differ
  Ref<iommufd::Device> second = w.bind(fd, b0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *second, hwpt));
  preserve_all();
  ASSERT_TRUE(w.file(fd).preserve_device(*second, *w.session));
  static_cast<void>(second.release());
  jump();
  come_back();
  second = *w.file(fd).bind_held(w.iommu.device(b0), IommufdWorld::kGeneration, kContext);
  const u32 restored = *w.restore(fd, kHwpt);
  const auto snapshot = [&] {
    std::map<u64, std::vector<std::byte>> tables;
    EXPECT_TRUE(w.iommu.group(a0).domain()->table().each_table([&](Phys page, unsigned) -> Result<void> {
      tables[page.value] = {w.machine().virt(page), w.machine().virt(page) + kPageSize};
      return {};
    }));
    return std::tuple(tables, w.iommu.hw_a.entries, w.iommu.hw_b.entries, w.iommu.hw_a.entry_writes,
                      w.iommu.hw_b.entry_writes);
  };
  const auto before = snapshot();
  const u32 wrong_space = w.ioas(fd);
  const u32 wrong = *w.hwpt(fd, device->id(), wrong_space);
  w.iommu.events.clear();
  for (iommufd::Device* asking : {&*device, &*second}) {
    EXPECT_EQ(error_of(w.file(fd).attach(w.task, *asking, wrong)), Errno::Einval);
    EXPECT_EQ(error_of(w.file(fd).attach(w.task, *asking, wrong_space)), Errno::Einval);
    EXPECT_EQ(*w.file(fd).attach(w.task, *asking, restored), restored) << "still attached to what it was";
  }
  EXPECT_EQ(snapshot(), before);
  EXPECT_EQ(w.iommu.count("flush") + w.iommu.count("set") + w.iommu.count("clear"), 0u);
  EXPECT_TRUE(w.destroy(fd, wrong));
  EXPECT_TRUE(w.destroy(fd, wrong_space)) << "nothing of it was left reserved";

  const u32 fresh = rebuild();
  ASSERT_TRUE(w.file(fd).attach(w.task, *second, fresh));
  const std::string did_a = std::to_string(w.iommu.hw_a.entries.at(a0).did);
  const std::string did_b = std::to_string(w.iommu.hw_b.entries.at(b0).did);
  EXPECT_NE(did_a, did_b);
  EXPECT_EQ(w.iommu.count("flush_domain did " + did_a), 1u);
  EXPECT_EQ(w.iommu.count("flush_domain did " + did_b), 1u);
  EXPECT_EQ(w.iommu.hw_a.entries, std::get<1>(before));
  EXPECT_EQ(w.iommu.hw_b.entries, std::get<2>(before));
  EXPECT_TRUE(w.destroy(fd, restored)) << "nobody runs on it any more";
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0x10000));
  for (const SourceId source : {a0, b0}) EXPECT_EQ(w.reached(source, 0x10000), w.place(m, 0));
  w.file(fd).unbind(*second);
  second = nullptr;
  unbind();
}

// One device is bound only after the other one's replacement took the shared domain over.
TEST_P(IommufdLiveUpdateTest, ALateDeviceFindsTheNewHwpt) {
  set_up();
  Ref<iommufd::Device> second = w.bind(fd, a1);
  ASSERT_TRUE(w.file(fd).attach(w.task, *second, hwpt));
  preserve_all();
  ASSERT_TRUE(w.file(fd).preserve_device(*second, *w.session));
  static_cast<void>(second.release());
  jump();
  come_back();
  ASSERT_TRUE(w.restore(fd, kHwpt));
  const u32 fresh = rebuild();
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, fresh));
  second = *w.file(fd).bind_held(w.iommu.device(a1), IommufdWorld::kGeneration, kContext);
  EXPECT_EQ(*w.file(fd).attach(w.task, *second, fresh), fresh);
  unbind();
  EXPECT_EQ(error_of(w.destroy(fd, fresh)), Errno::Ebusy) << "the late one uses it";
  w.file(fd).unbind(*second);
  second = nullptr;
  EXPECT_TRUE(w.destroy(fd, fresh));
}

TEST_P(IommufdLiveUpdateTest, AFailedBindLeavesTheDeviceHeld) {
  set_up();
  preserve_all();
  jump();
  fd = *w.retrieve(kContext);
  for (u64 n = 1;; ++n) {
    Result<Ref<iommufd::Device>> bound = w.machine().counting.failing(
        n, [&] { return w.file(fd).bind_held(w.iommu.device(a0), IommufdWorld::kGeneration, kContext); });
    if (bound) {
      device = *bound;
      break;
    }
    ASSERT_EQ(w.iommu.group(a0).ownership(), Ownership::HeldForSession) << n;
    ASSERT_LT(n, 50u);
  }
  w.file(fd).unbind_to_held(*device);
  device = nullptr;
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::HeldForSession);
  const u32 restored = *w.restore(fd, kHwpt);
  EXPECT_EQ(error_of(w.destroy(fd, restored)), Errno::Ebusy) << "a device runs on it that is not bound yet";
  device = *w.file(fd).bind_held(w.iommu.device(a0), IommufdWorld::kGeneration, kContext);
  w.file(fd).unbind_to_held(*device);
  device = *w.file(fd).bind_held(w.iommu.device(a0), IommufdWorld::kGeneration, kContext);
  unbind();
}

// Design §8: what an unreadable record lets its devices reach is not known; they are stopped, the others go on.
TEST_P(IommufdLiveUpdateTest, AnUnreadableRecordStopsItsDevicesAndNoOthers) {
  set_up();
  const s32 neighbour = w.open();
  Ref<iommufd::Device> other = w.bind(neighbour, a1);
  const u32 space = w.ioas(neighbour);
  const u32 table = *w.hwpt(neighbour, other->id(), space);
  ASSERT_TRUE(w.file(neighbour).attach(w.task, *other, table));
  ASSERT_TRUE(w.mark(neighbour, table, kHwpt2));
  ASSERT_TRUE(w.preserve(neighbour, kContext + 1));
  ASSERT_EQ(*w.file(neighbour).preserve_device(*other, *w.session), kContext + 1);
  static_cast<void>(other.release());
  luo::FileState neighbours = w.state(kContext + 1, w.task.files.at(neighbour).get());
  preserve_all();
  ASSERT_TRUE(w.iommu.live->audit());
  ASSERT_TRUE(w.handler->freeze(neighbours));
  jump();
  ++w.machine().virt<abi::IommufdHeader>(Phys(w.record))->version;
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::HeldForSession);
  EXPECT_EQ(error_of(w.retrieve(kContext)), Errno::Eio);
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::Quarantined);
  EXPECT_EQ(w.reached(a0, kBase), "blocked");
  EXPECT_EQ(w.iommu.group(a1).ownership(), Ownership::HeldForSession);
  EXPECT_TRUE(w.iommu.hw_a.entries.contains(a1));
  EXPECT_TRUE(w.can_finish(-1, kContext, -static_cast<int>(Errno::Eio))) << "nothing is left to take over";
  luo::FileState state = w.state(kContext);
  state.retrieve_status = -static_cast<int>(Errno::Eio);
  w.handler->finish(state);
  w.iommu.live->finish(0);
}

TEST_P(IommufdLiveUpdateTest, MemoryMustBeWhatWasMapped) {
  set_up();
  preserve_all();
  jump();
  const auto good = w.session->retrieve;
  w.session->retrieve = [&](u64) -> Result<Ref<File>> { return fail(Errno::Enoent); };
  // A context that comes to nothing is closed by LUO, when the session's lock is given up.
  luo::FileState state = w.state(kContext);
  EXPECT_EQ(error_of(w.handler->retrieve(state)), Errno::Enoent);
  ASSERT_TRUE(state.discard);
  EXPECT_EQ(state.discard->ref_count(), 1u);
  EXPECT_EQ(error_of(w.retrieve(kContext)), Errno::Enoent);
  w.session->retrieve = [&](u64) -> Result<Ref<File>> { return Ref<File>(*w.module->open()); };
  EXPECT_EQ(error_of(w.retrieve(kContext)), Errno::Eproto) << "no memfd";
  w.session->files.clear();
  w.session->retrieve = [&](u64) -> Result<Ref<File>> { return Ref<File>(w.memfd(4 * kMiB).memory); };
  const Result<s32> swapped = w.retrieve(kContext);
  // Version 1 does not say which memory it was; then only the comparison of tables protects.
  EXPECT_EQ(error_of(swapped), GetParam() >= 2 ? Errno::Eproto : Errno{});
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::HeldForSession);
}

TEST_P(IommufdLiveUpdateTest, WhatWasNeverRetrievedIsHandedOn) {
  set_up();
  preserve_all();
  const std::string reached = w.reached(a0, kBase);
  jump();
  // The next update begins while nobody came back.
  w.iommu.begin();
  luo::FileState state = w.state(kContext);
  for (u64 n = 1;; ++n) {
    const Result<u64> outgoing = w.machine().counting.failing(n, [&] { return w.handler->forward(state); });
    if (outgoing) {
      w.handler->unforward(state, *outgoing);
      break;
    }
    ASSERT_EQ(outgoing.error(), Errno::Enomem);
    ASSERT_LT(n, 200u);
  }
  const Result<u64> outgoing = w.handler->forward(state);
  ASSERT_TRUE(outgoing);
  ASSERT_TRUE(w.iommu.live->preserve_held_device(w.iommu.device(a0), IommufdWorld::kGeneration, kContext,
                                                 w.session->next_generation(), kContext));
  for (auto& [token, host] : w.memfds) {
    for (const auto& [base, bank] : w.machine().banks) {
      if (bank.host_id == host->id()) {
        ASSERT_TRUE(w.iommu.kho().preserve_range(bank.base, bank.length));
      }
    }
  }
  const u64 next = w.session->next_generation();
  ASSERT_TRUE(w.iommu.live->audit());
  w.handler.forget();
  w.module.forget();
  w.files.forget();
  const auto retrieve = w.session->retrieve;
  w.iommu.jump();
  w.record = *outgoing;
  w.boot();
  w.session = std::make_unique<FakeSession>(next);
  w.session->retrieve = retrieve;
  EXPECT_EQ(w.reached(a0, kBase), reached);
  fd = *w.retrieve(kContext);
  device = *w.file(fd).bind_held(w.iommu.device(a0), next, kContext);
  ASSERT_TRUE(w.restore(fd, kHwpt));
  EXPECT_TRUE(w.can_finish(fd, kContext));
  unbind();
}

}  // namespace
}  // namespace perdure::testing
