// The old kernel's side, and whole round trips.
#include "core/iommu/testing/image.h"
#include "core/iommu/testing/iommu_world.h"

namespace perdure::testing {
namespace {

using LiveUpdateTest = IommuTest;
TEST_F(LiveUpdateTest, PreservingMarksTheTablesAndUndoingUnmarksThem) {
  Workload s = set_up(w, {a0});
  std::map<u64, unsigned> blocks;
  EXPECT_TRUE(s.domain->table().each_block([&](Phys base, unsigned order) -> Result<void> {
    blocks[base.value] = order;
    return {};
  }));
  ASSERT_GE(blocks.size(), 3u) << "top, chunk, descriptor";
  w.begin();
  const Result<u32> index = w.live->preserve_domain(*s.domain, kSession);
  ASSERT_TRUE(index);
  for (auto [base, order] : blocks) EXPECT_TRUE(w.kho().is_preserved(Phys(base), order));
  EXPECT_EQ(w.live->preserve_domain(*s.domain, kSession).error(), Errno::Ebusy);
  w.live->unpreserve_domain(*s.domain);
  for (auto [base, order] : blocks) EXPECT_FALSE(w.kho().is_preserved(Phys(base), order));
  EXPECT_FALSE(s.domain->preserved());
  // The slot is used again: no growth by repeated failure (T14).
  EXPECT_EQ(*w.live->preserve_domain(*s.domain, kSession), *index);
  w.live->unpreserve_domain(*s.domain);
  w.live->unpreserve(w.data);
  EXPECT_FALSE(w.kho().is_preserved(Phys(w.data), 0));
}

// Whichever block of the tables cannot be marked: those before it are unmarked again, and the domain is mutable.
TEST_F(LiveUpdateTest, PreservationThatFailsHalfWayLeavesNoKeyBehind) {
  Workload s = set_up(w, {a0});
  std::vector<std::pair<Phys, unsigned>> blocks;
  EXPECT_TRUE(s.domain->table().each_block([&](Phys base, unsigned order) -> Result<void> {
    blocks.emplace_back(base, order);
    return {};
  }));
  ASSERT_GE(blocks.size(), 3u) << "top, chunk, descriptor";
  w.begin();
  for (usize taken = 0; taken < blocks.size(); ++taken) {
    const auto [base, order] = blocks[taken];
    ASSERT_TRUE(w.kho().preserve(base, order));
    EXPECT_EQ(w.live->preserve_domain(*s.domain, kSession).error(), Errno::Eexist);
    for (usize i = 0; i < blocks.size(); ++i) {
      EXPECT_EQ(w.kho().is_preserved(blocks[i].first, blocks[i].second), i == taken) << "block " << i;
    }
    EXPECT_FALSE(s.domain->preserved());
    w.kho().unpreserve(base, order);
  }
  EXPECT_TRUE(w.live->preserve_domain(*s.domain, kSession));
}

TEST_F(LiveUpdateTest, NothingIsPreservedOutsideAnUpdate) {
  Workload s = set_up(w, {a0});
  EXPECT_EQ(w.live->preserve_domain(*s.domain, kSession).error(), Errno::Enoent);
  w.begin();
  EXPECT_EQ(w.live->preserve().error(), Errno::Ebusy);
  EXPECT_EQ(w.live->preserve_domain(*s.domain, 0).error(), Errno::Einval);
  EXPECT_EQ(w.live->freeze(w.data + kPageSize).error(), Errno::Enoent);
}

TEST_F(LiveUpdateTest, PreservedObjectsAreImmutableAtOneChokePoint) {
  Workload s = set_up(w, {a0});
  w.begin();
  preserve(w, s, {a0});
  EXPECT_TRUE(w.device(a0).preserved());
  const auto entries = w.hw_a.entries;
  EXPECT_EQ(s.domain->map(Iova(0), s.memory, kPageSize, Access::Read).error(), Errno::Ebusy);
  EXPECT_EQ(s.domain->unmap(Iova(0x10000), kPageSize).error(), Errno::Ebusy);
  EXPECT_EQ(w.group(a0).detach(*s.who).error(), Errno::Ebusy);
  EXPECT_EQ(w.group(a0).attach(*s.who, w.domain()).error(), Errno::Ebusy);
  EXPECT_EQ(w.group(a0).replace(*s.who, w.domain()).error(), Errno::Ebusy);
  w.group(a0).release(*s.who);
  EXPECT_EQ(w.group(a0).ownership(), Ownership::Owned);
  EXPECT_EQ(w.iommu->remove_device(w.device(a0)).error(), Errno::Ebusy);
  // Nobody joins a preserved domain, nor a preserved function's group (R14).
  ASSERT_TRUE(w.group(a1).claim(s.who));
  EXPECT_EQ(w.group(a1).attach(*s.who, s.domain).error(), Errno::Ebusy);
  const SourceId shared = a0;
  EXPECT_EQ(w.iommu->add_device({0, 0x0101}, w.unit(kUnitA), std::span(&shared, 1)).error(), Errno::Ebusy);
  EXPECT_EQ(w.hw_a.entries, entries);

  w.live->unpreserve_device(w.device(a0));
  w.live->unpreserve_domain(*s.domain);
  EXPECT_FALSE(w.device(a0).preserved());
  EXPECT_TRUE(s.domain->map(Iova(0), s.memory, kPageSize, Access::Read));
  EXPECT_TRUE(w.group(a0).detach(*s.who));
}

TEST_F(LiveUpdateTest, FunctionThatIsNotPreservedMayLeaveAPreservedDomain) {
  Workload s = set_up(w, {a0, a1});
  w.begin();
  preserve(w, s, {a0});
  EXPECT_TRUE(w.group(a1).detach(*s.who));
  EXPECT_EQ(s.domain->attached_devices(), 1u);
}

TEST_F(LiveUpdateTest, OnlyItsOwnersPreservedDevicesArePreserved) {
  Workload s = set_up(w, {a0});
  w.begin();
  auto stranger = w.owner();
  EXPECT_EQ(w.live->preserve_device(w.device(a0), *s.who, kSession, kToken).error(), Errno::Einval) << "domain is not";
  ASSERT_TRUE(w.live->preserve_domain(*s.domain, kSession));
  EXPECT_EQ(w.live->preserve_device(w.device(a0), *stranger, kSession, kToken).error(), Errno::Einval);
  EXPECT_EQ(w.live->preserve_device(w.device(a1), *s.who, kSession, kToken).error(), Errno::Einval) << "R11";
  ASSERT_TRUE(w.group(a1).claim(s.who));
  EXPECT_EQ(w.live->preserve_device(w.device(a1), *s.who, kSession, kToken).error(), Errno::Einval) << "not attached";
  EXPECT_EQ(w.live->preserve_device(w.device(a0), *s.who, kSession + 1, kToken).error(), Errno::Einval);
  ASSERT_TRUE(w.live->preserve_device(w.device(a0), *s.who, kSession, kToken));
  EXPECT_EQ(w.live->preserve_device(w.device(a0), *s.who, kSession, kToken).error(), Errno::Ebusy);
}

TEST_F(LiveUpdateTest, DevicesOfOneDomainHaveOneOwner) {
  Workload s = set_up(w, {a0, a1});
  w.begin();
  preserve(w, s, {a0});
  EXPECT_EQ(w.live->preserve_device(w.device(a1), *s.who, kSession, kToken + 1).error(), Errno::Einval);
  EXPECT_TRUE(w.live->preserve_device(w.device(a1), *s.who, kSession, kToken));
}

TEST_F(LiveUpdateTest, GroupOfSeveralDevicesIsRefused) {
  const SourceId bridge{0, 0x0400}, c{0, 0x0401}, d{0, 0x0402};
  IommuDevice* one = *w.iommu->add_device(c, w.unit(kUnitA), std::span(&bridge, 1));
  ASSERT_TRUE(w.iommu->add_device(d, w.unit(kUnitA), std::span(&bridge, 1)));
  auto who = w.owner();
  auto domain = w.domain();
  ASSERT_TRUE(one->group().claim(who));
  ASSERT_TRUE(one->group().attach(*who, domain));
  w.begin();
  ASSERT_TRUE(w.live->preserve_domain(*domain, kSession));
  EXPECT_EQ(w.live->preserve_device(*one, *who, kSession, kToken).error(), Errno::Eopnotsupp);
}

TEST_F(LiveUpdateTest, UnitIsPreservedWithItsFirstDeviceUntilItsLast) {
  Workload s = set_up(w, {a0, a1, b0});
  w.begin();
  preserve(w, s, {a0, a1});
  EXPECT_TRUE(w.hw_a.preserved);
  EXPECT_FALSE(w.hw_b.preserved);
  w.live->unpreserve_device(w.device(a0));
  EXPECT_TRUE(w.hw_a.preserved);
  w.live->unpreserve_device(w.device(a1));
  EXPECT_FALSE(w.hw_a.preserved);
  ASSERT_TRUE(w.live->preserve_device(w.device(b0), *s.who, kSession, kToken));
  EXPECT_TRUE(w.hw_b.preserved);
}

// R54, §8.3-2: a unit that cannot be preserved leaves no record, no pointer and no key behind.
TEST_F(LiveUpdateTest, UnitThatCannotBePreservedIsNotRecorded) {
  Workload s = set_up(w, {a0, b0});
  w.begin();
  ASSERT_TRUE(w.live->preserve_domain(*s.domain, kSession));
  ASSERT_TRUE(w.kho().preserve(w.hw_a.status, 0)) << "somebody else's key is in the way of the unit's last page";
  EXPECT_EQ(w.live->preserve_device(w.device(a0), *s.who, kSession, kToken).error(), Errno::Eexist);
  EXPECT_FALSE(w.device(a0).preserved());
  EXPECT_FALSE(w.hw_a.preserved);
  for (Phys page : {w.hw_a.root, w.hw_a.queue}) EXPECT_FALSE(w.kho().is_preserved(page, 0));
  ASSERT_TRUE(w.live->preserve_device(w.device(b0), *s.who, kSession, kToken)) << "the other unit is none the worse";
  ASSERT_TRUE(w.live->freeze(w.data));
  u64 used = 0;
  Image image(w.handover.machine, w.data);
  for (const Image::Part& p : image.parts()) {
    if (p.what != Image::Part::What::Record || p.bytes[0] == std::byte{0}) continue;
    used += p.kind != abi::IommuRecordKind::Domain ? 1 : 0;
    if (p.kind == abi::IommuRecordKind::Unit) {
      EXPECT_EQ(reinterpret_cast<const abi::IommuUnitRecord*>(p.bytes.data())->base, kUnitB.value);
    }
  }
  EXPECT_EQ(used, 3u) << "a unit, an attachment and a device: those of b0";
  w.kho().unpreserve(w.hw_a.status, 0);
  EXPECT_TRUE(w.live->preserve_device(w.device(a0), *s.who, kSession, kToken)) << "and it can be tried again";
}

// R10, R35, §8.3-20: what a reader compares is really written.
TEST_F(LiveUpdateTest, RecordsSayWhoseTheyAreAndInWhichVersion) {
  for (const u32 version : {abi::kIommuReadMin, abi::kIommuReadMax}) {
    IommuWorld one(version);
    Workload s = set_up(one, {a0, b0});
    one.begin();
    preserve(one, s, {a0, b0}, kToken + 7);
    ASSERT_TRUE(one.live->freeze(one.data));
    Image image(one.handover.machine, one.data);
    EXPECT_EQ(image.header().magic, 0x554d'4d4f'4944'5250u);
    EXPECT_EQ(image.header().version, version);
    EXPECT_NE(image.header().generation, 0u);
    EXPECT_EQ(image.record<abi::IommuDomainRecord>(0).owner_generation, kSession);
    for (u32 i : {0u, 1u}) {
      EXPECT_EQ(image.record<abi::IommuDeviceRecord>(i).owner_generation, kSession);
      EXPECT_EQ(image.record<abi::IommuDeviceRecord>(i).owner_token, kToken + 7);
    }
    forget(s);
  }
}

// R53: a handler or a shared state that can preserve and cannot take it back is no implementation: nobody can make one.
struct HandlerWithoutUnpreserve : luo::FileHandler {
  virtual ~HandlerWithoutUnpreserve() = default;
  std::string_view compatible() const override { return "half"; }
  bool can_preserve(File&) const override { return true; }
  Result<void> preserve(luo::FileState&) override { return {}; }
  Result<Ref<File>> retrieve(luo::FileState&) override { return fail(Errno::Enoent); }
  void finish(luo::FileState&) override {}
};
struct WholeHandler : HandlerWithoutUnpreserve {
  void unpreserve(luo::FileState&) override {}
};
struct StateWithoutUnpreserve : luo::Flb {
  virtual ~StateWithoutUnpreserve() = default;
  std::string_view compatible() const override { return "half"; }
  Result<u64> preserve() override { return 0; }
  Result<void> retrieve(u64) override { return {}; }
  void finish(u64) override {}
};
struct WholeState : StateWithoutUnpreserve {
  void unpreserve(u64) override {}
};
TEST(Interfaces, PreserveWithoutItsInverseIsNoImplementation) {
  EXPECT_TRUE(std::is_abstract_v<HandlerWithoutUnpreserve>);
  EXPECT_FALSE(std::is_abstract_v<WholeHandler>);
  EXPECT_TRUE(std::is_abstract_v<StateWithoutUnpreserve>);
  EXPECT_FALSE(std::is_abstract_v<WholeState>);
}

TEST_F(LiveUpdateTest, AuditFindsLeavesOutsidePreservedMemory) {
  Workload s = set_up(w, {a0});
  const Phys lost = w.memory(0, /*preserve=*/false);
  ASSERT_TRUE(s.domain->map(Iova(0x20000), lost, kPageSize, Access::Read));
  w.begin();
  preserve(w, s, {a0});
  EXPECT_EQ(w.live->audit().error(), Errno::Efault);
  EXPECT_TRUE(w.logged("IOVA 0x20000")) << w.handover.machine.lines.back();
  ASSERT_TRUE(w.kho().preserve(lost, 0));
  EXPECT_TRUE(w.live->audit());
}

TEST_F(LiveUpdateTest, AuditAcceptsALargeLeafOverSmallKeysAndSmallLeavesUnderALargeKey) {
  auto who = w.owner();
  auto d = w.domain();
  w.attach(a0, who, d);
  const Phys huge = *w.frames().alloc(9), chunk = *w.frames().alloc(9);
  for (u64 at = 0; at < kHugePageSize; at += 4 * kPageSize) ASSERT_TRUE(w.kho().preserve(huge + at, 2));
  ASSERT_TRUE(w.kho().preserve(chunk, 9));
  ASSERT_TRUE(d->map(Iova(kHugePageSize), huge, kHugePageSize, Access::ReadWrite));
  for (u64 i = 0; i < 64; ++i) {
    ASSERT_TRUE(d->map(Iova(0x40000000 + i * 0x3000), chunk + i * 0x2000, kPageSize, Access::Read));
  }
  ASSERT_EQ(d->leaf_at(Iova(kHugePageSize))->length, kHugePageSize);
  w.begin();
  ASSERT_TRUE(w.live->preserve_domain(*d, kSession));
  EXPECT_TRUE(w.live->audit());
  w.kho().unpreserve(huge + kHugePageSize - 4 * kPageSize, 2);
  EXPECT_EQ(w.live->audit().error(), Errno::Efault);
}

TEST_F(LiveUpdateTest, AuditAsksTheOwnerForEveryLeaf) {
  struct Check final : LeafCheck {
    bool expected(const PagingDomain&, const pt::Leaf& leaf) override {
      seen.push_back(leaf.iova.value);
      return leaf.phys == wanted[leaf.iova.value];
    }
    bool takes_runs() const override { return runs; }
    bool runs = false;
    std::vector<u64> seen;
    std::map<u64, Phys> wanted;
  } check;
  Workload s = set_up(w, {a0});
  check.wanted = {{0x10000, s.memory}, {kHugePageSize, s.memory + kPageSize}};
  w.begin();
  ASSERT_TRUE(w.live->preserve_domain(*s.domain, kSession, &check));
  EXPECT_TRUE(w.live->audit());
  EXPECT_EQ(check.seen, (std::vector<u64>{0x10000, kHugePageSize}));
  check.wanted[kHugePageSize] = s.memory;
  EXPECT_EQ(w.live->audit().error(), Errno::Efault);
  EXPECT_TRUE(w.logged("is not what its owner mapped"));

  // Neighbours together, for one who can tell.
  w.live->unpreserve_domain(*s.domain);
  ASSERT_TRUE(s.domain->unmap(Iova(kHugePageSize), kPageSize));
  ASSERT_TRUE(s.domain->map(Iova(0x11000), s.memory + kPageSize, kPageSize, Access::ReadWrite));
  ASSERT_TRUE(w.live->preserve_domain(*s.domain, kSession, &check));
  check.seen.clear();
  check.runs = true;
  EXPECT_TRUE(w.live->audit());
  EXPECT_EQ(check.seen, (std::vector<u64>{0x10000}));
}

TEST_F(LiveUpdateTest, FreezeAllocatesNothing) {
  Workload s = set_up(w, {a0, b0});
  w.begin();
  preserve(w, s, {a0, b0});
  auto& steps = w.handover.machine.counting;
  const u64 before = steps.allocations;
  ASSERT_TRUE(w.live->freeze(w.data));
  ASSERT_TRUE(w.live->freeze(w.data)) << "after a jump that failed, once more";
  EXPECT_EQ(steps.allocations, before);
}

TEST_F(LiveUpdateTest, FreezeRefusesWhatWasQuarantinedAfterItWasPreserved) {
  Workload s = set_up(w, {a0});
  w.begin();
  preserve(w, s, {a0});
  w.iommu->quarantine(w.device(a0), "a test");
  EXPECT_EQ(w.live->freeze(w.data).error(), Errno::Eio);
  w.live->unpreserve_device(w.device(a0));
  w.live->unpreserve_domain(*s.domain);
  EXPECT_TRUE(w.live->freeze(w.data)) << "the others go on";
}

TEST_F(LiveUpdateTest, QuiesceKeepsPreservedEntriesOnlyAndTurnsOtherUnitsOff) {
  const SourceId c{0, 0x0400}, alias{0, 0x0500};
  ASSERT_TRUE(w.iommu->add_device(c, w.unit(kUnitA), std::span(&alias, 1)));
  Workload s = set_up(w, {c, a1, b0});
  w.begin();
  preserve(w, s, {c});
  ASSERT_TRUE(w.live->freeze(w.data));
  const auto a = w.hw_a.entries;
  const auto b = w.hw_b.entries;
  ASSERT_TRUE(w.live->quiesce());
  EXPECT_EQ(w.hw_a.entries.size(), 2u);
  EXPECT_TRUE(w.hw_a.entries.contains(c) && w.hw_a.entries.contains(alias));
  EXPECT_TRUE(w.hw_b.entries.empty());
  w.live->resume();
  EXPECT_EQ(w.hw_a.entries, a);
  EXPECT_EQ(w.hw_b.entries, b);
}

TEST_F(LiveUpdateTest, QuiesceThatFailsIsUndoneAndTurnsNothingOff) {
  Workload s = set_up(w, {a0, a1, b0});
  w.begin();
  preserve(w, s, {a0, b0});
  ASSERT_TRUE(w.live->freeze(w.data));
  const auto a = w.hw_a.entries;
  w.hw_b.fail_after["quiesce"] = 0;
  EXPECT_EQ(w.live->quiesce().error(), Errno::Eio);
  EXPECT_EQ(w.hw_a.entries, a);
  EXPECT_EQ(w.count("disable"), 0u);
}

TEST_F(LiveUpdateTest, PreserveIsUndoneWholeWhicheverAllocationFails) {
  Workload s = set_up(w, {a0, a1, b0});
  auto& steps = w.handover.machine.counting;
  const auto all = [&]() -> Result<void> {
    w.data = TRY(w.live->preserve());
    TRY(w.live->preserve_domain(*s.domain, kSession));
    for (SourceId f : {a0, a1, b0}) TRY(w.live->preserve_device(w.device(f), *s.who, kSession, kToken));
    return {};
  };
  const auto undo = [&] {
    for (SourceId f : {b0, a1, a0}) w.live->unpreserve_device(w.device(f));
    w.live->unpreserve_domain(*s.domain);
    if (w.data) w.live->unpreserve(w.data);
    w.heap().trim();
  };
  // Once, since the nodes of the handover tree stay after they were made.
  ASSERT_TRUE(all());
  undo();
  const u64 free = w.frames().totals().free, heap = w.heap().bytes_in_use();
  bool complete = false;
  for (u64 nth = 1; !complete; ++nth) {
    steps.allocations = 0;
    steps.fail_at = nth;
    w.data = 0;
    const Result<void> done = all();
    complete = steps.allocations < nth;
    steps.fail_at = 0;
    if (complete) {
      ASSERT_TRUE(done);
      EXPECT_GT(nth, 8u);
      ASSERT_TRUE(w.live->freeze(w.data));
    } else {
      EXPECT_EQ(done.error(), Errno::Enomem) << nth;
    }
    undo();
    EXPECT_FALSE(w.hw_a.preserved || w.hw_b.preserved);
    EXPECT_FALSE(s.domain->preserved());
    EXPECT_TRUE(s.domain->map(Iova(0x30000), s.memory, kPageSize, Access::Read));
    EXPECT_TRUE(s.domain->unmap(Iova(0x30000), kPageSize));
    EXPECT_EQ(w.heap().bytes_in_use(), heap) << nth;
    EXPECT_EQ(w.frames().totals().free, free) << nth;
  }
}

// --- round trips ----------------------------------------------------------------------------------------------

class RoundTrip : public ::testing::TestWithParam<std::pair<u32, u32>> {};

TEST_P(RoundTrip, DmaGoesOnThroughTheSameTablesAndProgramsGetThemBack) {
  IommuWorld w(GetParam().first);
  const SourceId a0 = w.a0, a1 = w.a1, b0 = w.b0;
  w.hw_b.dids.insert(2);  // so that the two units have different ids for the domain
  Workload s = set_up(w, {a0, a1, b0});
  w.begin();
  preserve(w, s, {a0, a1, b0});
  ASSERT_TRUE(w.live->audit());
  const auto a = w.hw_a.entries, b = w.hw_b.entries;
  ASSERT_NE(a.at(a0).did, b.at(b0).did);
  const Phys top = s.domain->table().top(), memory = s.memory;
  const u32 index = s.index;
  // The old kernel's objects die with it.
  forget(s);
  w.write_version = GetParam().second;
  const u64 writes = w.hw_a.entry_writes + w.hw_b.entry_writes;
  w.jump();
  ASSERT_TRUE(w.load_result);
  EXPECT_EQ(w.live->report().units, 2u);
  EXPECT_EQ(w.live->report().domains, 1u);
  EXPECT_EQ(w.live->report().devices, 3u);
  EXPECT_EQ(w.live->report().quarantined, 0u);
  EXPECT_EQ(w.hw_a.entries, a);
  EXPECT_EQ(w.hw_b.entries, b);
  EXPECT_EQ(w.hw_a.entry_writes + w.hw_b.entry_writes, writes) << "R28: reattach is software only";

  // Held, immutable, one object for all (R02, R03, R25).
  auto who = w.owner();
  for (SourceId f : {a0, a1, b0}) {
    EXPECT_EQ(w.group(f).ownership(), Ownership::HeldForSession);
    EXPECT_EQ(w.group(f).claim(who).error(), Errno::Eperm);
    EXPECT_EQ(w.group(f).domain(), w.group(a0).domain());
  }
  EXPECT_EQ(w.hw_a.dids, (std::set<u64>{a.at(a0).did}));
  EXPECT_EQ(w.hw_b.dids, (std::set<u64>{b.at(b0).did}));
  EXPECT_EQ(w.live->reclaim_domain(index, kSession + 1).error(), Errno::Enoent);
  EXPECT_EQ(w.live->reclaim_domain(index + 1, kSession).error(), Errno::Enoent);
  Ref<PagingDomain> restored = *w.live->reclaim_domain(index, kSession);
  EXPECT_EQ(w.live->reclaim_domain(index, kSession).error(), Errno::Ebusy);
  w.live->unreclaim_domain(*restored);
  EXPECT_EQ(*w.live->reclaim_domain(index, kSession), restored);
  EXPECT_TRUE(restored->restored());
  EXPECT_EQ(restored->table().top(), top);
  EXPECT_EQ(restored->attached_devices(), 3u);
  EXPECT_EQ(restored->leaf_at(Iova(0x10000))->phys, memory);
  EXPECT_EQ(restored->map(Iova(0), memory, kPageSize, Access::Read).error(), Errno::Eopnotsupp);
  EXPECT_EQ(restored->unmap(Iova(0x10000), kPageSize).error(), Errno::Eopnotsupp);
  ASSERT_TRUE(w.group(w.a2).claim(who));
  EXPECT_EQ(w.group(w.a2).attach(*who, restored).error(), Errno::Eopnotsupp);

  // Replace on one: all move, by one store a slot, one flush a unit, no entry written.
  ASSERT_TRUE(w.group(a0).claim_held(who, kSession, kToken));
  Ref<PagingDomain> fresh = rebuilt(w, a0, memory);
  ASSERT_TRUE(fresh->map(Iova(0x40000000), memory, kPageSize, Access::Read)) << "the new one may map more";
  w.events.clear();
  ASSERT_TRUE(w.group(a0).replace(*who, fresh));
  EXPECT_EQ(w.events, (std::vector<std::string>{"flush_domain did " + std::to_string(a.at(a0).did),
                                                "flush_domain did " + std::to_string(b.at(b0).did)}));
  EXPECT_EQ(w.hw_a.entries, a);
  EXPECT_EQ(w.hw_b.entries, b);
  EXPECT_EQ(fresh->table().top(), top);
  EXPECT_EQ(fresh->attached_devices(), 3u);
  EXPECT_EQ(restored->attached_devices(), 0u);
  for (SourceId f : {a0, a1, b0}) EXPECT_EQ(w.group(f).domain(), fresh);
  EXPECT_EQ(w.group(a1).ownership(), Ownership::HeldForSession) << "moved, not taken";
  ASSERT_TRUE(w.group(a1).claim_held(who, kSession, kToken));
  ASSERT_TRUE(w.group(a1).replace(*who, fresh)) << "is there already";

  // Finish: the records go, everything else goes on.
  restored = nullptr;
  w.live->finish(w.data);
  EXPECT_EQ(w.live->unit_record(w.kUnitA), nullptr);
  EXPECT_EQ(w.live->reclaim_domain(index, kSession).error(), Errno::Enoent);
  ASSERT_TRUE(fresh->map(Iova(0x50000000), memory, kPageSize, Access::Read));
  EXPECT_EQ(w.group(b0).ownership(), Ownership::HeldForSession);
  ASSERT_TRUE(w.group(b0).claim_held(who, kSession, kToken));
  for (SourceId f : {a0, a1, b0}) w.group(f).release(*who);
  EXPECT_TRUE(w.hw_a.entries.empty() && w.hw_b.entries.empty());
  EXPECT_TRUE(w.hw_a.dids.empty() && w.hw_b.dids.empty());
}
INSTANTIATE_TEST_SUITE_P(Versions, RoundTrip,
                         ::testing::Values(std::pair(1u, 1u), std::pair(1u, 2u), std::pair(2u, 1u), std::pair(2u, 2u)));

TEST_F(LiveUpdateTest, FinishGivesBackEveryPageOfTheHandover) {
  Workload s = set_up(w, {a0});
  w.begin();
  preserve(w, s, {a0});
  const Phys memory = s.memory;
  forget(s);
  w.jump();
  auto who = w.owner();
  ASSERT_TRUE(w.group(a0).claim_held(who, kSession, kToken));
  Ref<PagingDomain> restored = *w.live->reclaim_domain(s.index, kSession);
  ASSERT_TRUE(w.group(a0).replace(*who, rebuilt(w, a0, memory)));
  restored = nullptr;
  w.live->finish(w.data);
  // What is still kept is the program's memory and the handover's own FDT page, which are not the IOMMU core's.
  EXPECT_EQ(w.frames().totals().kept, 2u + 1u);
}

TEST_F(LiveUpdateTest, RestoredDomainIsKeptAndPreservedAgainAsItIs) {
  Workload s = set_up(w, {a0, b0});
  w.begin();
  preserve(w, s, {a0, b0});
  const auto a = w.hw_a.entries;
  const u32 index = s.index;
  const Phys memory = s.memory;
  forget(s);
  w.jump();
  // Hop 1: nobody came for a0, so its session is handed on; b0 was reclaimed, kept, and preserved again by its owner.
  ASSERT_TRUE(w.kho().restore(memory, 1));
  ASSERT_TRUE(w.kho().preserve(memory, 1));
  const u64 first_data = w.data;
  w.begin();
  Ref<PagingDomain> held = *w.live->held_domain(index, kSession);
  const u32 next_index = *w.live->preserve_domain(*held, kSession + 1);
  EXPECT_EQ(w.live->preserve_held_device(w.device(a0), kSession, kToken + 1, kSession + 1, kToken).error(),
            Errno::Eperm);
  ASSERT_TRUE(w.live->preserve_held_device(w.device(a0), kSession, kToken, kSession + 1, kToken));
  EXPECT_EQ(w.live->preserve_held_device(w.device(a0), kSession, kToken, kSession + 1, kToken).error(), Errno::Ebusy);
  auto who = w.owner();
  EXPECT_EQ(w.group(a0).claim_held(who, kSession, kToken).error(), Errno::Ebusy) << "on its way already";
  ASSERT_TRUE(w.group(b0).claim_held(who, kSession, kToken));
  ASSERT_TRUE(w.live->preserve_device(w.device(b0), *who, kSession + 1, kToken));
  ASSERT_TRUE(w.live->audit());
  EXPECT_NE(w.data, first_data);
  static_cast<void>(held.release());
  static_cast<void>(who.release());
  w.jump();
  ASSERT_TRUE(w.load_result);
  EXPECT_EQ(w.live->report().devices, 2u);
  EXPECT_EQ(w.hw_a.entries, a);
  who = w.owner();
  EXPECT_EQ(w.group(a0).claim_held(who, kSession, kToken).error(), Errno::Eperm) << "the session has a new generation";
  ASSERT_TRUE(w.group(a0).claim_held(who, kSession + 1, kToken));
  EXPECT_EQ((*w.live->reclaim_domain(next_index, kSession + 1))->leaf_at(Iova(0x10000))->phys, memory);
}

TEST_F(LiveUpdateTest, WhatVersion1DidNotSayIsFoundOutByTheNextAudit) {
  IommuWorld one(1);
  Workload s = set_up(one, {a0});
  one.begin();
  preserve(one, s, {a0});
  const Phys memory = s.memory;
  forget(s);
  one.write_version = 2;
  one.jump();
  for (const bool audited : {false, true}) {
    ASSERT_TRUE(one.kho().restore(memory, 1));
    ASSERT_TRUE(one.kho().preserve(memory, 1));
    const Phys before(one.data);
    one.begin();
    EXPECT_NE(before.value, one.data);
    Ref<PagingDomain> held = *one.live->held_domain(0, kSession);
    EXPECT_EQ(held->mapped_bytes(), 0u) << "not known";
    ASSERT_EQ(*one.live->preserve_domain(*held, kSession), 0u);
    ASSERT_TRUE(one.live->preserve_held_device(one.device(a0), kSession, kToken, kSession, kToken));
    if (audited) {
      ASSERT_TRUE(one.live->audit());
    }
    ASSERT_TRUE(one.live->freeze(one.data));
    const auto& record = Image(one.handover.machine, one.data).record<abi::IommuDomainRecord>(0);
    EXPECT_EQ(record.mapped_bytes, audited ? 2 * kPageSize : abi::kIommuMappedUnknown);
    static_cast<void>(held.release());
    one.jump();
    ASSERT_EQ(one.live->report().devices, 1u);
  }
  EXPECT_EQ((*one.live->held_domain(0, kSession))->mapped_bytes(), 2 * kPageSize);
}

TEST_F(LiveUpdateTest, DomainWithoutADeviceComesBackToo) {
  Workload s = set_up(w, {a0});
  auto lonely = w.domain();
  ASSERT_TRUE(lonely->map(Iova(0), s.memory, kPageSize, Access::Read));
  w.begin();
  preserve(w, s, {a0});
  const u32 index = *w.live->preserve_domain(*lonely, kSession);
  forget(s);
  static_cast<void>(lonely.release());
  w.jump();
  EXPECT_EQ(w.live->report().domains, 2u);
  Ref<PagingDomain> d = *w.live->reclaim_domain(index, kSession);
  EXPECT_EQ(d->attached_devices(), 0u);
  EXPECT_EQ(d->leaf_at(Iova(0))->phys, s.memory);
}

TEST_F(LiveUpdateTest, RecordsFillSeveralBlocksAndHolesStayUnused) {
  // 1, capacity, capacity + 1 and 3 * capacity domains, with holes at the borders (R32).
  const u32 capacity = abi::iommu_chain(abi::IommuRecordKind::Domain, abi::kIommuReadMax).capacity();
  ASSERT_EQ(capacity, 46u);
  Phys memory = w.memory(0);
  std::vector<Ref<PagingDomain>> domains;
  w.begin();
  for (u32 i = 0; i < 3 * capacity; ++i) {
    auto d = w.domain();
    ASSERT_TRUE(d->map(Iova(u64{i} << 12), memory, kPageSize, Access::Read));
    ASSERT_EQ(*w.live->preserve_domain(*d, kSession), i);
    domains.push_back(d);
  }
  std::set<u32> holes{0, capacity - 1, capacity, 2 * capacity - 1, 3 * capacity - 1};
  for (u32 h : holes) w.live->unpreserve_domain(*domains[h]);
  for (auto& d : domains) static_cast<void>(d.release());
  w.jump();
  ASSERT_TRUE(w.load_result);
  EXPECT_EQ(w.live->report().domains, 3 * capacity - holes.size());
  for (u32 i = 0; i < 3 * capacity; ++i) {
    const Result<Ref<PagingDomain>> d = w.live->reclaim_domain(i, kSession);
    if (holes.contains(i)) {
      EXPECT_EQ(d.error(), Errno::Enoent);
    } else {
      ASSERT_TRUE(d);
      EXPECT_TRUE((*d)->leaf_at(Iova(u64{i} << 12)));
    }
  }
}

}  // namespace
}  // namespace perdure::testing
