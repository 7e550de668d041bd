// Dirty tracking: allocation, SET_DIRTY_TRACKING and GET_DIRTY_BITMAP (uapi §2.7), and an update while it is on.
#include <random>

#include "core/iommufd/testing/iommufd_update.h"

namespace perdure::testing {
namespace {

constexpr u32 kTrack = uapi::iommu_hwpt::kDirtyTracking;
constexpr u64 k4 = kPageSize;
constexpr u64 k2M = kHugePageSize;

// What a device does when it writes: the unit marks the leaf if its entry says so.
void device_writes(IommufdWorld& w, u64 iova, u64 length = 1, SourceId source = a0) {
  const FakeHardware& hw = w.iommu.hw_a.entries.contains(source) ? w.iommu.hw_a : w.iommu.hw_b;
  if (!hw.entries.at(source).tracks_dirty) return;
  EXPECT_TRUE(w.iommu.group(source).domain()->table().mark_dirty(Iova(iova), length));
}
std::set<u64> marks(PagingDomain& domain) {
  std::set<u64> found;
  EXPECT_TRUE(domain.table().each_dirty(Iova(0), ~u64{0}, [&](const pt::Leaf& leaf) -> Result<bool> {
    found.insert(leaf.iova.value);
    return false;
  }));
  return found;
}
std::set<u64> marks(IommufdWorld& w) {
  return marks(*w.iommu.group(a0).domain());
}
Result<void> track(IommufdWorld& w, s32 fd, u32 hwpt, bool on) {
  uapi::IommuHwptSetDirtyTracking cmd{
      .size = sizeof(cmd), .flags = on ? uapi::iommu_dirty::kEnable : 0, .hwpt_id = hwpt, .reserved = 0};
  return w.call(fd, uapi::kIommuHwptSetDirtyTracking, cmd);
}
struct Range {
  u64 iova = 0;
  u64 length = 0;
  u64 page_size = k4;
};
Result<void> get_at(IommufdWorld& w, s32 fd, u32 hwpt, Range range, UserAddr bitmap, bool clear = true) {
  uapi::IommuHwptGetDirtyBitmap cmd{.size = sizeof(cmd),
                                    .hwpt_id = hwpt,
                                    .flags = clear ? 0 : uapi::iommu_dirty::kNoClear,
                                    .reserved = 0,
                                    .iova = range.iova,
                                    .length = range.length,
                                    .page_size = range.page_size,
                                    .data = bitmap.value};
  return w.call(fd, uapi::kIommuHwptGetDirtyBitmap, cmd);
}
// The numbers of the bits that are set.
Result<std::set<u64>> get(IommufdWorld& w, s32 fd, u32 hwpt, Range range, bool clear = true) {
  const u64 bytes = (range.length / range.page_size + 7) / 8;
  const UserAddr at = w.task.allocate_before_hole(bytes);  // none beyond the last is touched
  TRY(get_at(w, fd, hwpt, range, at, clear));
  std::set<u64> bits;
  for (u64 i = 0; i < bytes * 8; ++i) {
    if ((w.task.peek<u8>(at + i / 8) >> (i % 8) & 1) != 0) bits.insert(i);
  }
  return bits;
}

class DirtyTest : public ::testing::Test {
 protected:
  static constexpr u64 kBase = u64{1} << 30;

  void set_up(u64 bytes, bool large_pages = true) {
    ioas = w.ioas(fd);
    if (!large_pages) {
      uapi::IommuOption off{.size = sizeof(off), .option_id = 1, .op = 0, .reserved = 0, .object_id = ioas, .val64 = 0};
      ASSERT_TRUE(w.call(fd, uapi::kIommuOption, off));
    }
    m = w.memfd(bytes);
    ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, bytes, kBase));
    device = w.bind(fd, a0);
    hwpt = *w.hwpt(fd, device->id(), ioas, kTrack);
    ASSERT_TRUE(w.file(fd).attach(w.task, *device, hwpt));
    ASSERT_TRUE(track(w, fd, hwpt, true));
    w.iommu.events.clear();
  }
  ~DirtyTest() override {
    if (device) w.file(fd).unbind(*device);
    device = nullptr;
  }

  IommufdWorld w;
  s32 fd = w.open();
  u32 ioas = 0, hwpt = 0;
  IommufdWorld::Memfd m;
  Ref<iommufd::Device> device;
};

// --- which page tables can track -----------------------------------------------------------------------------------

TEST_F(DirtyTest, AUnitThatDoesNotMarkOffersAndAllocatesNothing) {
  w.iommu.hw_b.marks_dirty = false;
  w.forget_session();
  w.handler.destroy();
  w.module.destroy();
  w.task.exit();
  w.iommu.shut_down();
  w.iommu.boot_iommu(0);
  w.files.destroy();
  w.boot();
  fd = w.open();
  ioas = w.ioas(fd);
  const auto capabilities = [&](const iommufd::Device& of) {
    uapi::IommuHwInfo info{};
    info.size = sizeof(info);
    info.dev_id = of.id();
    EXPECT_TRUE(w.call(fd, uapi::kIommuGetHwInfo, info));
    return info.out_capabilities & uapi::iommu_hw_info::kCapDirtyTracking;
  };
  device = w.bind(fd, a0);
  Ref<iommufd::Device> other = w.bind(fd, IommufdWorld::b0);
  EXPECT_NE(capabilities(*device), 0u);
  EXPECT_EQ(capabilities(*other), 0u);
  EXPECT_EQ(error_of(w.hwpt(fd, other->id(), ioas, kTrack)), Errno::Eopnotsupp);
  hwpt = *w.hwpt(fd, device->id(), ioas, kTrack);
  // Neither may it be attached where it would not be tracked; Linux answers Einval.
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *other, hwpt)), Errno::Einval);
  EXPECT_TRUE(w.file(fd).attach(w.task, *other, ioas)) << "an automatic one";
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, hwpt));
  EXPECT_EQ(error_of(w.file(fd).attach(w.task, *other, hwpt)), Errno::Einval) << "replace, too";
  w.file(fd).unbind(*other);
  other = nullptr;
}

TEST_F(DirtyTest, NotOfAHwptThatWasNotAllocatedForIt) {
  set_up(k2M);
  const u32 plain = *w.hwpt(fd, device->id(), ioas);
  EXPECT_EQ(error_of(track(w, fd, plain, true)), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(track(w, fd, plain, false)), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(get(w, fd, plain, {kBase, k4})), Errno::Eopnotsupp);
  EXPECT_EQ(error_of(get(w, fd, plain, {kBase, 0})), Errno::Einval) << "the range is judged first";
}

// --- on and off ----------------------------------------------------------------------------------------------------

TEST_F(DirtyTest, EntriesTrackFromTheNextWriteOnWhateverWasAttachedWhen) {
  set_up(k2M, false);
  const auto& entries = w.iommu.hw_a.entries;
  EXPECT_TRUE(entries.at(a0).tracks_dirty);
  Ref<iommufd::Device> later = w.bind(fd, a1);
  Ref<iommufd::Device> elsewhere = w.bind(fd, IommufdWorld::b0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *later, hwpt));
  ASSERT_TRUE(w.file(fd).attach(w.task, *elsewhere, hwpt));
  EXPECT_TRUE(entries.at(a1).tracks_dirty);
  EXPECT_TRUE(w.iommu.hw_b.entries.at(IommufdWorld::b0).tracks_dirty);
  device_writes(w, kBase + k4, 1, IommufdWorld::b0);
  ASSERT_TRUE(track(w, fd, hwpt, false));
  EXPECT_FALSE(entries.at(a0).tracks_dirty);
  EXPECT_FALSE(entries.at(a1).tracks_dirty);
  EXPECT_FALSE(w.iommu.hw_b.entries.at(IommufdWorld::b0).tracks_dirty);
  device_writes(w, kBase + 2 * k4);
  EXPECT_EQ(*get(w, fd, hwpt, {kBase, k2M}, false), (std::set<u64>{1})) << "what was written before stays readable";
  // Another turn begins with nothing.
  ASSERT_TRUE(track(w, fd, hwpt, true));
  EXPECT_EQ(*get(w, fd, hwpt, {kBase, k2M}, false), std::set<u64>());
  device_writes(w, kBase + 3 * k4);
  ASSERT_TRUE(track(w, fd, hwpt, true)) << "also when it was on";
  EXPECT_EQ(*get(w, fd, hwpt, {kBase, k2M}), std::set<u64>());
  for (Ref<iommufd::Device>* d : {&later, &elsewhere}) {
    w.file(fd).unbind(**d);
    *d = nullptr;
  }
}

TEST_F(DirtyTest, AUnitThatFailsLeavesAllAsTheyWere) {
  set_up(k2M);
  Ref<iommufd::Device> other = w.bind(fd, IommufdWorld::b0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *other, hwpt));
  w.iommu.hw_b.fail_after["set_dirty_tracking"] = 0;
  EXPECT_EQ(error_of(track(w, fd, hwpt, false)), Errno::Eio);
  EXPECT_TRUE(w.iommu.hw_a.entries.at(a0).tracks_dirty);
  EXPECT_TRUE(w.iommu.group(a0).domain()->tracks_dirty());
  device_writes(w, kBase);
  EXPECT_FALSE(get(w, fd, hwpt, {kBase, k2M})->empty());
  EXPECT_FALSE(w.iommu.hw_b.entries.contains(IommufdWorld::b0)) << "the unit that did not answer is isolated";
  w.file(fd).unbind(*other);
  other = nullptr;
}

// --- the bitmap ----------------------------------------------------------------------------------------------------

TEST_F(DirtyTest, BitsAreThePagesThatWereWrittenAndAreGoneAfterwards) {
  set_up(4 * kMiB, false);
  for (u64 page : {0, 7, 8, 500, 1023}) device_writes(w, kBase + page * k4 + 5);
  EXPECT_EQ(*get(w, fd, hwpt, {kBase, 4 * kMiB}, false), (std::set<u64>{0, 7, 8, 500, 1023}));
  EXPECT_TRUE(w.iommu.events.empty()) << "looking on flushes nothing";
  EXPECT_EQ(*get(w, fd, hwpt, {kBase + 8 * k4, 8 * k4}), (std::set<u64>{0}));
  EXPECT_EQ(w.iommu.events,
            (std::vector<std::string>{"flush_pages did 2 " + std::to_string(kBase + 8 * k4) + "+4096 IH"}));
  w.iommu.events.clear();
  EXPECT_EQ(*get(w, fd, hwpt, {kBase, 4 * kMiB}), (std::set<u64>{0, 7, 500, 1023}));
  // Once, from the first to the last that lost its mark.
  EXPECT_EQ(w.iommu.events, (std::vector<std::string>{"flush_pages did 2 " + std::to_string(kBase) + "+4194304 IH"}));
  w.iommu.events.clear();
  EXPECT_EQ(*get(w, fd, hwpt, {kBase, 4 * kMiB}), std::set<u64>());
  EXPECT_TRUE(w.iommu.events.empty());
  // In larger pages.
  for (u64 page : {3, 4, 700}) device_writes(w, kBase + page * k4);
  EXPECT_EQ(*get(w, fd, hwpt, {kBase, 4 * kMiB, 4 * k4}), (std::set<u64>{0, 1, 175}));
  EXPECT_EQ(marks(w), std::set<u64>());
}

TEST_F(DirtyTest, BitsThatAreSetStaySet) {
  set_up(kMiB, false);
  const UserAddr at = w.task.put(u32{0x8000'0100});
  device_writes(w, kBase);
  ASSERT_TRUE(get_at(w, fd, hwpt, {kBase, 32 * k4}, at));
  EXPECT_EQ(w.task.peek<u32>(at), 0x8000'0101u);
}

TEST_F(DirtyTest, ALargeLeafIsAllItsPages) {
  set_up(4 * kMiB);
  ASSERT_EQ(w.iommu.group(a0).domain()->leaf_at(Iova(kBase))->length, k2M) << "of no use otherwise";
  device_writes(w, kBase + k2M + 12345);
  const std::set<u64> found = *get(w, fd, hwpt, {kBase, 4 * kMiB}, false);
  EXPECT_EQ(found.size(), 512u);
  EXPECT_EQ(*found.begin(), 512u);
  // A range that it reaches beyond learns of its part; the mark stays for the rest.
  EXPECT_EQ(get(w, fd, hwpt, {kBase, k2M + 8 * k4})->size(), 8u);
  EXPECT_EQ(get(w, fd, hwpt, {kBase + 4 * kMiB - k4, k4})->size(), 1u);
  EXPECT_EQ(marks(w), (std::set<u64>{kBase + k2M}));
  EXPECT_EQ(get(w, fd, hwpt, {kBase + k2M, k2M})->size(), 512u);
  EXPECT_EQ(marks(w), std::set<u64>());
}

TEST_F(DirtyTest, TheWalkEndsAtTheFirstHole) {
  set_up(kMiB, false);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kMiB, kBase + kMiB));  // another area, but no hole
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kMiB, kBase + 3 * kMiB));
  for (u64 at : {kBase + kMiB - k4, kBase + kMiB, kBase + 3 * kMiB}) device_writes(w, at);
  EXPECT_EQ(*get(w, fd, hwpt, {kBase, 4 * kMiB}), (std::set<u64>{255, 256}));
  EXPECT_EQ(*get(w, fd, hwpt, {kBase + 2 * kMiB, 2 * kMiB}), std::set<u64>());
  EXPECT_EQ(marks(w), (std::set<u64>{kBase + 3 * kMiB}));
  EXPECT_EQ(*get(w, fd, hwpt, {kBase + 3 * kMiB, kMiB}), (std::set<u64>{0}));
}

TEST_F(DirtyTest, ABadBitmapCostsNoMark) {
  set_up(4 * kMiB, false);
  EXPECT_TRUE(get_at(w, fd, hwpt, {kBase, 4 * kMiB}, UserAddr(0))) << "nothing to be written there";
  device_writes(w, kBase + 9 * k4);
  EXPECT_EQ(error_of(get_at(w, fd, hwpt, {kBase, 4 * kMiB}, UserAddr(0))), Errno::Efault);
  EXPECT_EQ(error_of(get_at(w, fd, hwpt, {kBase, 4 * kMiB}, UserAddr(~u64{0} - 3))), Errno::Efault);
  EXPECT_EQ(error_of(get_at(w, fd, hwpt, {kBase, 4 * kMiB}, w.task.allocate(128, false))), Errno::Efault);
  EXPECT_EQ(marks(w), (std::set<u64>{kBase + 9 * k4}));
  EXPECT_TRUE(w.iommu.events.empty());
  // A good part: what is told of is taken back, and flushed. With a bit a byte a window is eight pages.
  device_writes(w, kBase + 2 * kMiB);
  const UserAddr half = w.task.allocate_before_hole(kMiB / 8);
  EXPECT_EQ(error_of(get_at(w, fd, hwpt, {kBase, 4 * kMiB, 1}, half)), Errno::Efault);
  EXPECT_EQ(w.task.peek<u64>(half + 9 * k4 / 8), ~u64{0});
  EXPECT_EQ(marks(w), (std::set<u64>{kBase + 2 * kMiB}));
  EXPECT_EQ(w.iommu.events,
            (std::vector<std::string>{"flush_pages did 2 " + std::to_string(kBase + 9 * k4) + "+4096 IH"}));
}

TEST_F(DirtyTest, WhatIsWrittenWhileItIsReadIsForTheNextCall) {
  set_up(4 * kMiB);
  ASSERT_EQ(w.iommu.group(a0).domain()->leaf_at(Iova(kBase + k2M))->length, k2M);
  // The second leaf gets its mark after it was looked at, before the first one loses its own.
  device_writes(w, kBase);
  w.task.before_copy_out = [&] { device_writes(w, kBase + k2M); };
  EXPECT_EQ(get(w, fd, hwpt, {kBase, 4 * kMiB})->size(), 512u);
  EXPECT_EQ(marks(w), (std::set<u64>{kBase + k2M}));
  EXPECT_EQ(get(w, fd, hwpt, {kBase, 4 * kMiB})->size(), 512u);
  EXPECT_EQ(marks(w), std::set<u64>());
}

TEST_F(DirtyTest, ALeafThatStraddlesWindowsIsDecidedOnce) {
  set_up(4 * kMiB);
  ASSERT_EQ(w.iommu.group(a0).domain()->leaf_at(Iova(kBase))->length, k2M);
  // With a bit a byte both leaves take 64 windows each; the second gets its mark while the first is told of.
  device_writes(w, kBase);
  w.task.before_copy_out = [&] { device_writes(w, kBase + k2M); };
  const Range all{kBase, 4 * kMiB, 1};
  const UserAddr at = w.task.allocate(all.length / 8);
  ASSERT_TRUE(get_at(w, fd, hwpt, all, at));
  for (u64 byte = 0; byte < all.length / 8; byte += 8) ASSERT_EQ(w.task.peek<u64>(at + byte), ~u64{0}) << byte;
  EXPECT_EQ(marks(w), std::set<u64>()) << "whole, by then";
  // The first window ends inside of the leaf, which gets its mark only then: what was told of as not written is not
  // told of by halves, nor forgotten.
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, k4, k4, kBase - k4));
  device_writes(w, kBase - k4);
  w.task.before_copy_out = [&] { device_writes(w, kBase); };
  EXPECT_EQ(get(w, fd, hwpt, {kBase - k4, k4 + k2M, 1})->size(), k4);
  EXPECT_EQ(marks(w), (std::set<u64>{kBase}));
}

// Any leaves, any range, any page: against what the table holds, told bit by bit.
TEST_F(DirtyTest, AgainstAModel) {
  set_up(8 * kMiB);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, k4, kMiB, kBase + 8 * kMiB));  // small leaves
  const u64 end = kBase + 9 * kMiB;
  PagingDomain& domain = *w.iommu.group(a0).domain();
  for (u64 seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto below = [&](u64 n) { return random() % n; };
    for (u64 i = below(12); i > 0; --i) device_writes(w, kBase + below(9 * kMiB), 1 + below(4 * k4));
    constexpr u64 kSizes[] = {64, 512, k4, 2 * k4, 3 * k4, 16 * k4, 64 * k4, kMiB};
    const u64 page = kSizes[below(std::size(kSizes))];
    const u64 unit = page % k4 == 0 ? page : k4;  // ranges are multiples of both
    const u64 first = (kBase + unit - 1) / unit * unit + below(4 * kMiB / unit) * unit;
    const u64 length = (1 + below((end - first) / unit)) * unit;
    ASSERT_LE(first + length, end);
    std::set<u64> expected, left;
    std::map<u64, u64> leaves;
    ASSERT_TRUE(domain.table().each_leaf(Iova(0), ~u64{0}, [&](const pt::Leaf& leaf) -> Result<void> {
      leaves[leaf.iova.value] = leaf.length;
      return {};
    }));
    const bool clear = below(3) != 0;
    for (u64 at : marks(w)) {
      const u64 to = at + leaves[at];
      for (u64 byte = std::max(at, first); byte < std::min(to, first + length); byte += std::min(page, k4)) {
        expected.insert((byte - first) / page);
      }
      if (!clear || at < first || to > first + length) left.insert(at);
    }
    const Result<std::set<u64>> bits = get(w, fd, hwpt, {first, length, page}, clear);
    ASSERT_TRUE(bits);
    EXPECT_EQ(*bits, expected);
    EXPECT_EQ(marks(w), left);
  }
}

// --- updates -------------------------------------------------------------------------------------------------------

class DirtyUpdate : public IommufdUpdate {
 protected:
  // As set_up(), but for the HWPT.
  void set_up_tracked(bool on = true) {
    set_up();
    const u32 plain = hwpt;
    hwpt = *w.hwpt(fd, device->id(), ioas, kTrack);
    ASSERT_TRUE(w.file(fd).attach(w.task, *device, hwpt));
    ASSERT_TRUE(w.destroy(fd, plain));
    ASSERT_TRUE(w.mark(fd, hwpt, kHwpt));
    if (on) {
      ASSERT_TRUE(track(w, fd, hwpt, true));
    }
  }
  void regain_memory() {
    m.memory = Ref<SharedMemory>(file_cast<SharedMemory>(w.session->files.at(kMemfd).get()));
    m.host = w.memfds.at(kMemfd);
    m.fd = w.task.add(m.memory);
  }
};
INSTANTIATE_TEST_SUITE_P(Versions, DirtyUpdate, ::testing::Values(1u, 2u));

// R46, T8.
TEST_P(DirtyUpdate, WhilePreservedNothingIsToggledAndNoMarkTaken) {
  set_up_tracked();
  device_writes(w, kBase);
  preserve_all();
  EXPECT_EQ(error_of(track(w, fd, hwpt, false)), Errno::Ebusy);
  EXPECT_EQ(error_of(track(w, fd, hwpt, true)), Errno::Ebusy);
  EXPECT_EQ(error_of(get(w, fd, hwpt, {kBase, k2M})), Errno::Ebusy);
  PagingDomain& domain = *w.iommu.group(a0).domain();
  EXPECT_EQ(error_of(domain.set_dirty_tracking(false)), Errno::Ebusy) << "nor below the user API";
  EXPECT_EQ(error_of(domain.each_dirty(Iova(0), k4, [](const pt::Leaf&) -> Result<bool> { return true; })),
            Errno::Ebusy);
  EXPECT_EQ(marks(w).size(), 1u);
  w.iommu.live->unpreserve_device(w.iommu.device(a0));
}

TEST_P(DirtyUpdate, TrackingGoesOnAcrossAnUpdateWithEveryMark) {
  set_up_tracked();
  device_writes(w, kBase + k4);
  preserve_all();
  device_writes(w, kBase + 2 * kMiB);  // after the last chance to ask
  jump();
  EXPECT_TRUE(w.iommu.hw_a.entries.at(a0).tracks_dirty);
  device_writes(w, kBase + 2 * kMiB + 16 * k4);  // before anybody came back
  come_back();
  const Result<IommufdWorld::Adopted> adopted = w.adopt(fd, kHwpt);
  ASSERT_TRUE(adopted);
  hwpt = adopted->hwpt;
  regain_memory();
  const auto covered = [&](u64 iova) { return w.iommu.group(a0).domain()->leaf_at(Iova(iova))->iova.value; };
  EXPECT_EQ(marks(w),
            (std::set<u64>{covered(kBase + k4), covered(kBase + 2 * kMiB), covered(kBase + 2 * kMiB + 16 * k4)}));
  const std::set<u64> bits = *get(w, fd, hwpt, {kBase, 3 * kMiB});
  for (u64 page : {1, 512, 528}) EXPECT_TRUE(bits.contains(page)) << page;
  EXPECT_EQ(marks(w), std::set<u64>());
  // Like any other, from here on.
  device_writes(w, kBase);
  EXPECT_FALSE(get(w, fd, hwpt, {kBase, 3 * kMiB})->empty());
  ASSERT_TRUE(track(w, fd, hwpt, false));
  EXPECT_FALSE(w.iommu.hw_a.entries.at(a0).tracks_dirty);
  unbind();
}

TEST_P(DirtyUpdate, ARestoredHwptAnswersNothingItself) {
  set_up_tracked();
  preserve_all();
  jump();
  come_back();
  const u32 restored = *w.restore(fd, kHwpt);
  EXPECT_EQ(error_of(track(w, fd, restored, false)), Errno::Einval);
  EXPECT_EQ(error_of(get(w, fd, restored, {kBase, k4})), Errno::Einval);
  EXPECT_TRUE(w.iommu.hw_a.entries.at(a0).tracks_dirty);
  unbind();
}

TEST_P(DirtyUpdate, AReplacementThatTracksGetsTheMarks) {
  set_up_tracked();
  device_writes(w, kBase + k4);
  preserve_all();
  jump();
  come_back();
  ASSERT_TRUE(w.restore(fd, kHwpt));
  m.memory = Ref<SharedMemory>(file_cast<SharedMemory>(w.session->files.at(kMemfd).get()));
  m.fd = w.task.add(m.memory);
  ioas = w.ioas(fd);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 3 * kMiB, kBase));
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 3 * kMiB, kMiB, kBase + 16 * kMiB, uapi::iommu_map::kReadable | 1));
  hwpt = *w.hwpt(fd, device->id(), ioas, kTrack);
  ASSERT_TRUE(track(w, fd, hwpt, true));
  device_writes(w, kBase + 2 * kMiB);
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, hwpt));
  EXPECT_TRUE(w.iommu.hw_a.entries.at(a0).tracks_dirty);
  const std::set<u64> bits = *get(w, fd, hwpt, {kBase, 3 * kMiB});
  for (u64 page : {1, 512}) EXPECT_TRUE(bits.contains(page)) << page;
  unbind();
}

TEST_P(DirtyUpdate, AReplacementThatDoesNotTrackEndsIt) {
  set_up_tracked();
  device_writes(w, kBase);
  preserve_all();
  jump();
  come_back();
  ASSERT_TRUE(w.restore(fd, kHwpt));
  hwpt = rebuild();
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, hwpt));
  EXPECT_FALSE(w.iommu.hw_a.entries.at(a0).tracks_dirty);
  EXPECT_FALSE(w.iommu.group(a0).domain()->tracks_dirty());
  EXPECT_EQ(marks(w), std::set<u64>());
  unbind();
}

TEST_P(DirtyUpdate, WhatMayTrackButDoesNotComesBackSo) {
  set_up_tracked(false);
  preserve_all();
  jump();
  come_back();
  const Result<IommufdWorld::Adopted> adopted = w.adopt(fd, kHwpt);
  ASSERT_TRUE(adopted);
  device_writes(w, kBase);
  EXPECT_TRUE(get(w, fd, adopted->hwpt, {kBase, 3 * kMiB})->empty());
  ASSERT_TRUE(track(w, fd, adopted->hwpt, true));
  device_writes(w, kBase);
  EXPECT_FALSE(get(w, fd, adopted->hwpt, {kBase, 3 * kMiB})->empty());
  unbind();
}

}  // namespace
}  // namespace perdure::testing
