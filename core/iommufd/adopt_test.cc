// Restored HWPTs that get their IOAS back (design §7, "adopted as mutable"): what hardware walks is not touched, and
// from then on they are like any other.
#include "core/iommufd/testing/iommufd_update.h"

namespace perdure::testing {
namespace {

constexpr SourceId b0 = IommufdWorld::b0;
class AdoptTest : public IommufdUpdate {
 protected:
  static constexpr u64 kFar = kBase + 16 * kMiB;  // where the second area lies

  // Every byte that a walker can see, by page.
  std::map<u64, std::vector<std::byte>> tables(SourceId source = a0) {
    std::map<u64, std::vector<std::byte>> all;
    EXPECT_TRUE(w.iommu.group(source).domain()->table().each_table([&](Phys page, unsigned) -> Result<void> {
      const std::byte* at = w.machine().virt(page);
      all[page.value] = {at, at + kPageSize};
      return {};
    }));
    return all;
  }
  void there_and_back() {
    set_up();
    preserve_all();
    jump();
    come_back();
  }
  void adopt_it() {
    const Result<IommufdWorld::Adopted> adopted = w.adopt(fd, kHwpt);
    ASSERT_TRUE(adopted) << w.machine().lines.back();
    hwpt = adopted->hwpt;
    ioas = adopted->ioas;
    regain_memory();
  }
  // The retrieved memfd as a descriptor.
  void regain_memory() {
    m.memory = Ref<SharedMemory>(file_cast<SharedMemory>(w.session->files.at(kMemfd).get()));
    m.host = w.memfds.at(kMemfd);
    m.fd = w.task.add(m.memory);
  }
  void finish() {
    ASSERT_TRUE(w.can_finish(fd, kContext));
    w.finish(fd, kContext);
    w.iommu.live->finish(0);
    w.session->files.clear();
  }
  u64 unit_a_did() { return w.iommu.hw_a.entries.at(a0).did; }
};

INSTANTIATE_TEST_SUITE_P(Versions, AdoptTest, ::testing::Values(1u, 2u));

// R25 holds until it is asked for; then nothing is written, neither to a table nor to an entry.
TEST_P(AdoptTest, NothingIsMappedAnew) {
  there_and_back();
  const auto before = tables();
  const auto entry = w.iommu.hw_a.entries.at(a0);
  const u64 entry_writes = w.iommu.hw_a.entry_writes;
  const u64 pages = w.iommu.group(a0).domain()->table().arena().pages_in_use();
  EXPECT_EQ(error_of(w.iommu.group(a0).domain()->map(Iova(0), Phys(0), kPageSize, Access::Read)), Errno::Eopnotsupp);
  w.iommu.events.clear();
  w.machine().counting.stores = 0;
  adopt_it();
  EXPECT_EQ(w.machine().counting.stores, 0u);
  EXPECT_TRUE(w.iommu.events.empty()) << "a unit was asked for something: " << w.iommu.events.front();
  EXPECT_EQ(tables(), before);
  EXPECT_EQ(w.iommu.group(a0).domain()->table().arena().pages_in_use(), pages);
  EXPECT_EQ(w.iommu.hw_a.entries.at(a0), entry);
  EXPECT_EQ(w.iommu.hw_a.entry_writes, entry_writes);
  EXPECT_EQ(w.reached(a0, kBase), w.place(m, 0));
  EXPECT_EQ(w.reached(a0, kFar), w.place(m, 3 * kMiB) + " r");
  EXPECT_EQ(*w.file(fd).attach(w.task, *device, hwpt), hwpt) << "the device is attached to it already";
  EXPECT_EQ(error_of(w.adopt(fd, kHwpt)), Errno::Enoent) << "once";
  EXPECT_EQ(error_of(w.restore(fd, kHwpt)), Errno::Enoent) << "with or without";
  unbind();
}

// The cost is that of the areas: one of 4 KiB is taken over like one of a GiB.
TEST_P(AdoptTest, CostsDoNotDependOnTheNumberOfPages) {
  std::vector<u64> costs;
  for (const u64 bytes : {u64{4} * kMiB, u64{512} * kMiB}) {
    IommufdWorld world(GetParam());
    world.iommu.begin();
    s32 context = world.open();
    Ref<iommufd::Device> bound = world.bind(context, a0);
    IommufdWorld::Memfd memory = world.memfd(bytes);
    const u32 space = world.ioas(context);
    // Off by a page, so that every leaf is a small one.
    ASSERT_TRUE(world.map_file(context, space, memory.fd, 0, bytes, kBase + kPageSize));
    const u32 table = *world.hwpt(context, bound->id(), space);
    ASSERT_TRUE(world.file(context).attach(w.task, *bound, table));
    ASSERT_TRUE(world.mark(context, table, kHwpt));
    world.preserve_memfd(memory, kMemfd);
    ASSERT_TRUE(world.preserve(context, kContext));
    ASSERT_TRUE(world.file(context).preserve_device(*bound, *world.session));
    static_cast<void>(bound.release());
    static_cast<void>(memory.memory.release());
    world.jump(kContext);
    context = *world.retrieve(kContext);
    world.machine().counting.allocations = world.machine().counting.stores = 0;
    ASSERT_TRUE(world.adopt(context, kHwpt));
    EXPECT_EQ(world.machine().counting.stores, 0u);
    costs.push_back(world.machine().counting.allocations);
  }
  EXPECT_EQ(costs[0], costs[1]);
}

TEST_P(AdoptTest, CanBeChangedLikeAnyOther) {
  there_and_back();
  adopt_it();
  const std::string did = "flush_pages did " + std::to_string(unit_a_did());
  // Mapped: where the old table has room, and in tables that it did not have.
  for (const u64 iova : {kBase + 4 * kMiB, u64{0x10000}, u64{1} << 40}) {
    ASSERT_TRUE(w.map_file(fd, ioas, m.fd, kMiB, 2 * kMiB, iova));
    EXPECT_EQ(w.reached(a0, iova + kPageSize), w.place(m, kMiB + kPageSize));
  }
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, kPageSize, kBase + kMiB)), Errno::Eexist);
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0xfee00000)), Errno::Einval) << "interrupts";
  // Unmapped: only whole areas, and the unit has forgotten them before the memory is anybody else's.
  EXPECT_EQ(error_of(w.unmap(fd, ioas, kBase, kMiB)), Errno::Enoent);
  EXPECT_EQ(w.reached(a0, kBase), w.place(m, 0));
  w.iommu.events.clear();
  EXPECT_EQ(*w.unmap(fd, ioas, kFar, kMiB), kMiB);
  EXPECT_EQ(w.reached(a0, kFar), "");
  EXPECT_EQ(w.iommu.count(did), 1u);
  EXPECT_EQ(*w.unmap(fd, ioas, kBase, 3 * kMiB), 3 * kMiB);
  EXPECT_EQ(w.reached(a0, kBase), "");
  EXPECT_EQ(w.iommu.count(did), 2u);
  // And mapped again, to something else.
  const auto other = w.memfd(4 * kMiB);
  ASSERT_TRUE(w.map_file(fd, ioas, other.fd, 0, 4 * kMiB, kBase));
  EXPECT_EQ(w.reached(a0, kBase), w.place(other, 0));
  EXPECT_EQ(*w.unmap(fd, ioas, 0, ~u64{0}), 10 * kMiB);
  EXPECT_EQ(w.reached(a0, 0x10000), "");
  finish();
  unbind();
  EXPECT_EQ(w.reached(a0, kBase), "blocked");
  EXPECT_TRUE(w.destroy(fd, hwpt));
  EXPECT_TRUE(w.destroy(fd, ioas));
}

// Its memory is pinned for as long as it is mapped, and no longer.
TEST_P(AdoptTest, HoldsItsMemory) {
  there_and_back();
  adopt_it();
  finish();
  w.task.close(m.fd);
  const u64 id = m.host->id();
  m.memory = nullptr;
  const auto has_bank = [&] {
    for (const auto& [base, bank] : w.machine().banks) {
      if (bank.host_id == id) return true;
    }
    return false;
  };
  EXPECT_TRUE(has_bank()) << "hardware reaches it";
  EXPECT_EQ(w.reached(a0, kBase), std::to_string(id) + "+0");
  ASSERT_TRUE(w.unmap(fd, ioas, 0, ~u64{0}));
  EXPECT_FALSE(has_bank());
  unbind();
}

TEST_P(AdoptTest, TakesFurtherDevicesAndHwpts) {
  there_and_back();
  adopt_it();
  // Another table of the same IOAS, for another unit; and another device on the adopted one.
  Ref<iommufd::Device> other = w.bind(fd, b0), third = w.bind(fd, a1);
  const u32 fresh = *w.hwpt(fd, other->id(), ioas);
  ASSERT_TRUE(w.file(fd).attach(w.task, *other, fresh));
  EXPECT_EQ(*w.file(fd).attach(w.task, *third, hwpt), hwpt);
  EXPECT_EQ(w.iommu.hw_a.entries.at(a1).did, unit_a_did());
  for (const SourceId source : {a0, b0, a1}) {
    EXPECT_EQ(w.reached(source, kBase + kMiB), w.place(m, kMiB));
    EXPECT_EQ(w.reached(source, kFar), w.place(m, 3 * kMiB) + " r");
  }
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0x10000));
  for (const SourceId source : {a0, b0, a1}) EXPECT_EQ(w.reached(source, 0x10000), w.place(m, 0));
  w.iommu.events.clear();
  ASSERT_TRUE(w.unmap(fd, ioas, kBase, 3 * kMiB));
  EXPECT_EQ(w.iommu.count("flush_pages"), 2u) << "each unit, each DID";
  for (const SourceId source : {a0, b0, a1}) EXPECT_EQ(w.reached(source, kBase), "");

  // Moved between the two, each way; detached; gone.
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, fresh));
  EXPECT_EQ(w.reached(a0, 0x10000), w.place(m, 0));
  ASSERT_TRUE(w.file(fd).attach(w.task, *device, hwpt));
  EXPECT_EQ(error_of(w.destroy(fd, hwpt)), Errno::Ebusy);
  ASSERT_TRUE(w.file(fd).detach(*device));
  EXPECT_EQ(w.reached(a0, 0x10000), "blocked");
  EXPECT_EQ(error_of(w.destroy(fd, hwpt)), Errno::Ebusy) << "one more";
  const u32 did = w.iommu.hw_a.entries.at(a1).did;
  ASSERT_TRUE(w.file(fd).detach(*third));
  EXPECT_FALSE(w.iommu.hw_a.dids.contains(did)) << "the DID goes with the last device";
  EXPECT_TRUE(w.destroy(fd, hwpt));
  EXPECT_EQ(w.reached(b0, 0x10000), w.place(m, 0)) << "the IOAS and its other table stay";
  w.file(fd).unbind(*other);
  w.file(fd).unbind(*third);
  other = third = nullptr;
  unbind();
}

// One domain on two units: one recorded DID each, and a change reaches both.
TEST_P(AdoptTest, FlushesTheDidOfEveryUnit) {
  set_up();
  // Taken, so that the two units' DIDs differ.
  w.iommu.hw_b.dids.insert(kFirstDynamicDid);
  Ref<iommufd::Device> other = w.bind(fd, b0);
  ASSERT_TRUE(w.file(fd).attach(w.task, *other, hwpt));
  const u32 did_a = w.iommu.hw_a.entries.at(a0).did, did_b = w.iommu.hw_b.entries.at(b0).did;
  ASSERT_NE(did_a, did_b);
  preserve_all();
  ASSERT_TRUE(w.file(fd).preserve_device(*other, *w.session));
  static_cast<void>(other.release());
  jump();
  come_back();
  // The second one is bound only after the table was adopted and changed.
  adopt_it();
  w.iommu.events.clear();
  ASSERT_TRUE(w.unmap(fd, ioas, kFar, kMiB));
  EXPECT_EQ(w.iommu.count("flush_pages did " + std::to_string(did_a) + " "), 1u);
  EXPECT_EQ(w.iommu.count("flush_pages did " + std::to_string(did_b) + " "), 1u);
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0xfee00000)), Errno::Einval) << "for it, too";
  other = *w.file(fd).bind_held(w.iommu.device(b0), IommufdWorld::kGeneration, kContext);
  EXPECT_EQ(*w.file(fd).attach(w.task, *other, hwpt), hwpt);
  EXPECT_EQ(w.reached(b0, kBase), w.place(m, 0));
  EXPECT_EQ(w.reached(b0, kFar), "");
  unbind();
  EXPECT_FALSE(w.iommu.hw_a.dids.contains(did_a));
  EXPECT_TRUE(w.iommu.hw_b.dids.contains(did_b));
  EXPECT_EQ(error_of(w.destroy(fd, hwpt)), Errno::Ebusy);
  w.file(fd).unbind(*other);
  other = nullptr;
  EXPECT_TRUE(w.destroy(fd, hwpt));
}

TEST_P(AdoptTest, GoesIntoTheNextUpdateAndIsAdoptedAgain) {
  there_and_back();
  for (int hop = 0; hop < 3; ++hop) {
    SCOPED_TRACE(hop);
    adopt_it();
    finish();
    // Something new each time, something old gone.
    ASSERT_TRUE(w.map_file(fd, ioas, m.fd, kMiB, kMiB, kBase + u64(32 + hop) * kMiB));
    if (hop == 0) {
      ASSERT_TRUE(w.unmap(fd, ioas, kFar, kMiB));
    }
    if (hop == 2) {
      ASSERT_TRUE(w.unmap(fd, ioas, kBase + 32 * kMiB, kMiB));
    }
    w.iommu.begin();
    ASSERT_TRUE(w.mark(fd, hwpt, kHwpt));
    EXPECT_EQ(error_of(w.preserve(fd, kContext)), Errno::Enoent) << "its memory first, as ever";
    preserve_all();
    EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0x10000)), Errno::Ebusy);
    jump();
    come_back();
    EXPECT_EQ(w.reached(a0, kFar), "");
    EXPECT_EQ(w.reached(a0, kBase + u64(32 + hop) * kMiB), std::to_string(m.host->id()) + "+" + std::to_string(kMiB));
  }
  adopt_it();
  EXPECT_EQ(*w.unmap(fd, ioas, 0, ~u64{0}), 5 * kMiB);
  unbind();
}

// The HWPTs of one IOAS get one again. Until the last of them is there it stays as it is, since that one would not have
// learned of the change.
TEST_P(AdoptTest, HwptsOfOneIoasShareItAgain) {
  set_up();
  Ref<iommufd::Device> other = w.bind(fd, b0);
  const u32 second = *w.hwpt(fd, other->id(), ioas);
  ASSERT_TRUE(w.file(fd).attach(w.task, *other, second));
  ASSERT_TRUE(w.mark(fd, second, kHwpt2));
  // An empty one of another IOAS, which has the same (no) areas as a third.
  const u32 empty = *w.hwpt(fd, other->id(), w.ioas(fd)), empty2 = *w.hwpt(fd, other->id(), w.ioas(fd));
  ASSERT_TRUE(w.mark(fd, empty, 33));
  ASSERT_TRUE(w.mark(fd, empty2, 34));
  preserve_all();
  ASSERT_TRUE(w.file(fd).preserve_device(*other, *w.session));
  static_cast<void>(other.release());
  jump();
  come_back();
  adopt_it();
  EXPECT_EQ(error_of(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0x10000)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.unmap(fd, ioas, kFar, kMiB)), Errno::Ebusy);
  const IommufdWorld::Adopted joined = *w.adopt(fd, kHwpt2);
  EXPECT_EQ(joined.ioas, ioas);
  ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, kPageSize, 0x10000));
  for (const SourceId source : {a0, b0}) EXPECT_EQ(w.reached(source, 0x10000), w.place(m, 0));
  ASSERT_TRUE(w.unmap(fd, ioas, kFar, kMiB));
  for (const SourceId source : {a0, b0}) EXPECT_EQ(w.reached(source, kFar), "");
  const IommufdWorld::Adopted alone = *w.adopt(fd, 33), alone2 = *w.adopt(fd, 34);
  EXPECT_NE(alone.ioas, ioas);
  EXPECT_NE(alone.ioas, alone2.ioas);
  EXPECT_TRUE(w.map_file(fd, alone.ioas, m.fd, 0, kPageSize, 0x10000));
  finish();
  unbind();
}

// Two threads that restore them at the same time must not rebuild the IOAS twice.
TEST_P(AdoptTest, HwptsOfOneIoasAreRestoredOneAfterTheOther) {
  set_up();
  const u32 second = *w.hwpt(fd, device->id(), ioas);
  ASSERT_TRUE(w.mark(fd, second, kHwpt2));
  preserve_all();
  jump();
  come_back();
  Errno meanwhile{};
  w.task.before_copy_out = [&] { meanwhile = error_of(w.adopt(fd, kHwpt2)); };
  adopt_it();
  EXPECT_EQ(meanwhile, Errno::Ebusy);
  const Result<IommufdWorld::Adopted> joined = w.adopt(fd, kHwpt2);
  ASSERT_TRUE(joined) << w.machine().lines.back();
  EXPECT_EQ(joined->ioas, ioas);
  finish();
  unbind();
}

// The rest of an IOAS may come without it, or never.
TEST_P(AdoptTest, AnIoasDoesNotWaitForWhatCannotJoinIt) {
  set_up();
  Ref<iommufd::Device> other = w.bind(fd, b0), third = w.bind(fd, a1);
  const u32 second = *w.hwpt(fd, other->id(), ioas), kept = *w.hwpt(fd, third->id(), ioas);
  ASSERT_TRUE(w.file(fd).attach(w.task, *other, second));
  ASSERT_TRUE(w.file(fd).attach(w.task, *third, kept));
  ASSERT_TRUE(w.mark(fd, second, kHwpt2));
  ASSERT_TRUE(w.mark(fd, kept, 33));
  preserve_all();
  ASSERT_TRUE(w.file(fd).preserve_device(*other, *w.session));
  ASSERT_TRUE(w.file(fd).preserve_device(*third, *w.session));
  static_cast<void>(other.release());
  static_cast<void>(third.release());
  // One of them is lost on the way: its entry leads elsewhere.
  w.iommu.hw_b.entries.at(b0).top += kPageSize;
  jump();
  come_back();
  adopt_it();
  EXPECT_EQ(error_of(w.adopt(fd, kHwpt2)), Errno::Eio);
  EXPECT_EQ(error_of(w.unmap(fd, ioas, kFar, kMiB)), Errno::Ebusy) << "the third is still to come";
  ASSERT_TRUE(w.restore(fd, 33));
  ASSERT_TRUE(w.unmap(fd, ioas, kFar, kMiB));
  EXPECT_EQ(w.reached(a0, kFar), "");
  EXPECT_EQ(w.reached(a1, kFar), w.place(m, 3 * kMiB) + " r") << "kept as it is";
  finish();
  unbind();
}

TEST_P(AdoptTest, ASiblingThatIsLostLaterHoldsTheIoasUntilFinish) {
  set_up();
  Ref<iommufd::Device> other = w.bind(fd, b0);
  const u32 second = *w.hwpt(fd, other->id(), ioas);
  ASSERT_TRUE(w.mark(fd, second, kHwpt2));
  preserve_all();
  static_cast<void>(other.release());
  jump();
  come_back();
  adopt_it();
  EXPECT_EQ(error_of(w.unmap(fd, ioas, kFar, kMiB)), Errno::Ebusy);
  w.finish(fd, kContext);
  EXPECT_TRUE(w.unmap(fd, ioas, kFar, kMiB));
  unbind();
}

// Whatever fails on the way, devices run on and it can be tried again, either way.
TEST_P(AdoptTest, EveryFailureLeavesItToBeReclaimed) {
  there_and_back();
  const auto before = tables();
  w.heap().trim();
  const u64 heap = w.heap().bytes_in_use();
  u64 failed = 0;
  for (u64 n = 1;; ++n) {
    const Result<IommufdWorld::Adopted> adopted = w.machine().counting.failing(n, [&] { return w.adopt(fd, kHwpt); });
    if (adopted) {
      hwpt = adopted->hwpt;
      ioas = adopted->ioas;
      break;
    }
    ++failed;
    ASSERT_EQ(adopted.error(), Errno::Enomem) << n;
    w.heap().trim();
    ASSERT_EQ(w.heap().bytes_in_use(), heap) << n;
    ASSERT_TRUE(w.iommu.group(a0).domain()->restored()) << n;
    ASSERT_FALSE(w.can_finish(fd, kContext)) << n;
    ASSERT_EQ(tables(), before) << n;
    ASSERT_LT(n, 200u);
  }
  EXPECT_GT(failed, 5u);
  regain_memory();
  EXPECT_EQ(hwpt, device->id() + 1) << "no id is left over";
  EXPECT_TRUE(w.unmap(fd, ioas, 0, ~u64{0}));
  unbind();
}

TEST_P(AdoptTest, AnAnswerThatCannotBeWrittenChangesNothing) {
  there_and_back();
  uapi::IommuHwptRestore cmd{.size = sizeof(cmd), .flags = uapi::iommu_hwpt_restore::kIoas, .token = kHwpt};
  const UserAddr at = w.task.put(cmd);
  w.task.set_writable(at, false);
  EXPECT_EQ(error_of(w.task.files.at(fd)->ioctl(w.task, uapi::kIommuHwptRestore, at)), Errno::Efault);
  EXPECT_TRUE(w.iommu.group(a0).domain()->restored());
  EXPECT_FALSE(w.can_finish(fd, kContext));
  adopt_it();
  EXPECT_EQ(ioas, device->id() + 2);
  unbind();
}

// A token that leads to other memory: nothing may be adopted that is not what hardware reaches (version 1 does not say
// which memory it was).
TEST_P(AdoptTest, TheTableMustLeadToTheMemory) {
  set_up();
  preserve_all();
  jump();
  if (GetParam() == 1) {
    w.session->retrieve = [&](u64) -> Result<Ref<File>> { return Ref<File>(w.memfd(4 * kMiB).memory); };
    come_back();
    EXPECT_EQ(error_of(w.adopt(fd, kHwpt)), Errno::Eproto);
    EXPECT_TRUE(w.restore(fd, kHwpt)) << "as it is, it harms nobody";
    unbind();
    return;
  }
  // A table that was changed on the way, at the end of a stretch and in its access.
  come_back();
  const Ref<PagingDomain> domain = w.iommu.group(a0).domain();
  u64* slot = nullptr;
  ASSERT_TRUE(domain->table().each_table([&](Phys page, unsigned level) -> Result<void> {
    u64* const entries = w.machine().virt<u64>(page);
    for (unsigned i = 0; level == 1 && i < 512; ++i) {
      if (entries[i] != 0) slot = entries + i;
    }
    return {};
  }));
  ASSERT_NE(slot, nullptr);
  const u64 good = *slot;
  for (const u64 bad : {u64{0}, good + kPageSize, good ^ 2}) {
    *slot = bad;
    EXPECT_EQ(error_of(w.adopt(fd, kHwpt)), Errno::Eproto);
    EXPECT_TRUE(domain->restored());
  }
  *slot = good;
  adopt_it();
  unbind();
}

// A damaged adopted table: unmap finds less than was mapped. What is gone from the IOAS stays pinned, since it may be
// reachable elsewhere.
TEST_P(AdoptTest, MemoryOfADamagedTableStaysPinned) {
  there_and_back();
  adopt_it();
  u64* slot = nullptr;
  ASSERT_TRUE(w.iommu.group(a0).domain()->table().each_table([&](Phys page, unsigned level) -> Result<void> {
    u64* const entries = w.machine().virt<u64>(page);
    for (unsigned i = 0; level == 1 && i < 512; ++i) {
      if (entries[i] != 0) slot = entries + i;
    }
    return {};
  }));
  ASSERT_NE(slot, nullptr);
  *slot = 0;
  EXPECT_EQ(error_of(w.unmap(fd, ioas, 0, ~u64{0})), Errno::Eio);
  const u64 id = m.host->id();
  bool found = false;
  finish();
  w.task.close(m.fd);
  m.memory = nullptr;
  for (const auto& [base, bank] : w.machine().banks) found = found || bank.host_id == id;
  EXPECT_TRUE(found);
  unbind();
}

// What hardware may walk for ever must not be changed, since its pages would be used again.
TEST_P(AdoptTest, TablesThatAreNeverFreedAreNotAdopted) {
  set_up();
  Ref<iommufd::Device> other = w.bind(fd, a1);
  ASSERT_TRUE(w.file(fd).attach(w.task, *other, hwpt));
  preserve_all();
  ASSERT_TRUE(w.file(fd).preserve_device(*other, *w.session));
  static_cast<void>(other.release());
  // One of the two devices comes up with another DID in its entry.
  ++w.iommu.hw_a.entries.at(a1).did;
  jump();
  come_back();
  EXPECT_EQ(w.iommu.group(a1).ownership(), Ownership::Quarantined);
  EXPECT_EQ(error_of(w.adopt(fd, kHwpt)), Errno::Eio);
  EXPECT_TRUE(w.restore(fd, kHwpt));
  unbind();
}

}  // namespace
}  // namespace perdure::testing
