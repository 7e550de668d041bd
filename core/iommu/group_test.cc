#include "core/iommu/testing/iommu_world.h"

namespace perdure {

// What only a restore may do, for tests of the rules around it.
struct GroupPeer {
  static Result<void> hold(Group& group, Ref<HeldOwner> owner, Ref<PagingDomain> domain) {
    MutexGuard guard(group.lock());
    return group.hold_locked(std::move(owner), std::move(domain));
  }
  static void hold_without_lock(Group& group, Ref<HeldOwner> owner) NO_THREAD_SAFETY_ANALYSIS {
    static_cast<void>(group.hold_locked(std::move(owner), nullptr));
  }
};

namespace testing {
namespace {

using GroupTest = IommuTest;

TEST_F(GroupTest, FirstClaimOwnsFurtherOnesCountLastReleaseBlocks) {
  auto one = w.owner(), two = w.owner();
  Group& g = w.group(a0);
  EXPECT_EQ(g.ownership(), Ownership::Unowned);
  ASSERT_TRUE(g.claim(one));
  ASSERT_TRUE(g.claim(one));
  EXPECT_EQ(g.claim(two).error(), Errno::Eperm);
  ASSERT_TRUE(g.attach(*one, w.domain()));
  g.release(*two);
  g.release(*one);
  EXPECT_EQ(g.ownership(), Ownership::Owned);
  EXPECT_TRUE(w.hw_a.entries.contains(a0));
  g.release(*one);
  EXPECT_EQ(g.ownership(), Ownership::Unowned);
  EXPECT_FALSE(w.hw_a.entries.contains(a0));
  EXPECT_FALSE(g.domain());
  g.release(*one);  // one too many changes nothing
  ASSERT_TRUE(g.claim(two));
}

TEST_F(GroupTest, OnlyTheOwnerAttachesReplacesDetaches) {
  auto one = w.owner(), two = w.owner();
  Group& g = w.group(a0);
  auto d = w.domain();
  EXPECT_EQ(g.attach(*one, d).error(), Errno::Eperm) << "not claimed";
  ASSERT_TRUE(g.claim(one));
  EXPECT_EQ(g.attach(*two, d).error(), Errno::Eperm);
  ASSERT_TRUE(g.attach(*one, d));
  EXPECT_EQ(g.attach(*one, w.domain()).error(), Errno::Ebusy);
  EXPECT_EQ(g.replace(*two, w.domain()).error(), Errno::Eperm);
  EXPECT_EQ(g.detach(*two).error(), Errno::Eperm);
  EXPECT_EQ(g.domain(), d);
  ASSERT_TRUE(g.detach(*one));
  EXPECT_EQ(g.detach(*one).error(), Errno::Enoent);
  EXPECT_TRUE(w.hw_a.entries.empty());
}

TEST_F(GroupTest, LiveEntryThatNobodyOwnsCannotBeClaimed) {
  w.hw_a.entries[a0] = {9, 4, 0x1000, false};
  EXPECT_EQ(w.group(a0).claim(w.owner()).error(), Errno::Ebusy);
}

TEST_F(GroupTest, DomainThatTheUnitCannotWalkIsRefused) {
  auto who = w.owner();
  pt::Geometry five = w.hw_a.geometry;
  five.levels = 5;
  five.iova_bits = 57;
  auto d = *w.heap().make_ref<PagingDomain>(*w.iommu, std::move(*pt::create(w.heap(), five)), false);
  ASSERT_TRUE(w.group(a0).claim(who));
  EXPECT_FALSE(w.iommu->compatible(*d, w.device(a0)));
  EXPECT_EQ(w.group(a0).attach(*who, d).error(), Errno::Einval);
  EXPECT_EQ(w.group(a0).replace(*who, d).error(), Errno::Einval);
  pt::Geometry less = w.hw_a.geometry;
  less.leaf_sizes = kPageSize;
  less.iova_bits = 39;
  less.coherent = false;
  auto fits = *w.heap().make_ref<PagingDomain>(*w.iommu, std::move(*pt::create(w.heap(), less)), false);
  EXPECT_TRUE(w.iommu->compatible(*fits, w.device(a0)));
  ASSERT_TRUE(w.group(a0).attach(*who, fits));
}

TEST_F(GroupTest, EveryAliasIsSetOrNone) {
  const SourceId c{0, 0x0400}, alias1{0, 0x0500}, alias2{0, 0x0501};
  const SourceId ids[] = {c, alias1, alias2, alias1};
  IommuDevice* device = *w.iommu->add_device(c, w.unit(kUnitA), ids);
  EXPECT_EQ(device->aliases().size(), 3u);
  EXPECT_EQ(w.iommu->find(alias1), nullptr) << "an id, not a function";
  auto who = w.owner();
  auto d = w.domain();
  ASSERT_TRUE(device->group().claim(who));
  for (int good = 0; good < 3; ++good) {
    w.hw_a.fail_after["set_entry"] = good;
    EXPECT_EQ(device->group().attach(*who, d).error(), Errno::Enomem);
    EXPECT_TRUE(w.hw_a.entries.empty());
    EXPECT_TRUE(w.hw_a.dids.empty());
  }
  w.hw_a.fail_after.clear();
  ASSERT_TRUE(device->group().attach(*who, d));
  EXPECT_EQ(w.hw_a.entries.size(), 3u);
  EXPECT_EQ(w.hw_a.entries.at(alias2).did, w.hw_a.entries.at(c).did);
  ASSERT_TRUE(device->group().detach(*who));
  EXPECT_TRUE(w.hw_a.entries.empty());
}

TEST_F(GroupTest, EntryThatIsInTheWayIsNotTakenDownByTheUndo) {
  auto who = w.owner();
  ASSERT_TRUE(w.group(a0).claim(who));
  w.hw_a.entries[a0] = {9, 4, 0x1000, false};
  EXPECT_EQ(w.group(a0).attach(*who, w.domain()).error(), Errno::Eexist);
  EXPECT_TRUE(w.hw_a.entries.contains(a0));
}

TEST_F(GroupTest, FunctionsThatShareRequesterIdsAreOneGroup) {
  const SourceId bridge{0, 0x0400}, c{0, 0x0401}, d{0, 0x0402};
  IommuDevice* first = *w.iommu->add_device(c, w.unit(kUnitA), std::span(&bridge, 1));
  IommuDevice* second = *w.iommu->add_device(d, w.unit(kUnitA), std::span(&bridge, 1));
  EXPECT_EQ(&first->group(), &second->group());
  auto who = w.owner();
  auto domain = w.domain();
  ASSERT_TRUE(first->group().claim(who));
  ASSERT_TRUE(first->group().attach(*who, domain));
  EXPECT_EQ(w.hw_a.entries.size(), 3u) << "the shared id once";
  EXPECT_EQ(domain->attached_devices(), 2u);
  // A third one would join what its owner chose without it.
  EXPECT_EQ(w.iommu->add_device({0, 0x0403}, w.unit(kUnitA), std::span(&bridge, 1)).error(), Errno::Ebusy);
  first->group().release(*who);
  // One id cannot belong to two groups, or to two units.
  EXPECT_EQ(w.iommu->add_device({0, 0x0404}, w.unit(kUnitB), std::span(&bridge, 1)).error(), Errno::Einval);
  const SourceId both[] = {bridge, a0};
  EXPECT_EQ(w.iommu->add_device({0, 0x0405}, w.unit(kUnitA), both).error(), Errno::Einval);
  EXPECT_EQ(w.iommu->add_device(a0, w.unit(kUnitA), {}).error(), Errno::Eexist);
}

TEST_F(GroupTest, RemovedFunctionIsFoundAgain) {
  IommuDevice& device = w.device(a0);
  auto who = w.owner();
  ASSERT_TRUE(w.group(a0).claim(who));
  EXPECT_EQ(w.iommu->remove_device(device).error(), Errno::Ebusy);
  w.group(a0).release(*who);
  ASSERT_TRUE(w.iommu->remove_device(device));
  EXPECT_EQ(w.iommu->find(a0), nullptr);
  EXPECT_EQ(w.iommu->add_device(a0, w.unit(kUnitB), {}).error(), Errno::Einval) << "another unit, another function";
  EXPECT_EQ(*w.iommu->add_device(a0, w.unit(kUnitA), {}), &device);
  EXPECT_EQ(w.iommu->find(a0), &device);
}

TEST_F(GroupTest, ReplaceBetweenOrdinaryDomainsClearsThenSets) {
  auto who = w.owner();
  auto former = w.domain(), next = w.domain();
  w.attach(a0, who, former);
  w.events.clear();
  ASSERT_TRUE(w.group(a0).replace(*who, next));
  EXPECT_EQ(w.events, (std::vector<std::string>{"clear 1:0.0", "set 1:0.0 did 3", "did_free 2"}));
  EXPECT_EQ(w.hw_a.entries.at(a0).top, next->table().top().value);
  EXPECT_EQ(former->attached_devices(), 0u);
  EXPECT_EQ(w.group(a0).domain(), next);
  // To itself: nothing to do.
  w.events.clear();
  ASSERT_TRUE(w.group(a0).replace(*who, next));
  EXPECT_TRUE(w.events.empty());
  // From nothing: an attach.
  ASSERT_TRUE(w.group(a0).detach(*who));
  ASSERT_TRUE(w.group(a0).replace(*who, former));
  EXPECT_EQ(w.group(a0).domain(), former);
}

TEST_F(GroupTest, FailedReplaceGoesBackToTheFormerDomain) {
  auto who = w.owner();
  auto former = w.domain(), next = w.domain();
  w.attach(a0, who, former);
  const auto before = w.hw_a.entries;
  w.hw_a.fail_after["did_alloc"] = 0;
  EXPECT_EQ(w.group(a0).replace(*who, next).error(), Errno::Enospc);
  EXPECT_EQ(w.hw_a.entries, before);
  w.hw_a.fail_after.clear();

  // The new entry cannot be set, the old one can.
  bool failed = false;
  w.hw_a.on_call = [&](const std::string& what) {
    if (what == "set 1:0.0 did 3" && !std::exchange(failed, true)) w.hw_a.fail_after["set_entry"] = 0;
    if (what == "set 1:0.0 did 2") w.hw_a.fail_after.clear();
  };
  EXPECT_EQ(w.group(a0).replace(*who, next).error(), Errno::Enomem);
  EXPECT_TRUE(failed);
  EXPECT_EQ(w.hw_a.entries, before);
  EXPECT_EQ(w.group(a0).domain(), former);
  EXPECT_EQ(w.hw_a.dids, (std::set<u64>{2}));
  EXPECT_EQ(next->attached_devices(), 0u);

  // Neither can: blocked, and said so.
  w.hw_a.on_call = nullptr;
  w.hw_a.fail_after["set_entry"] = 0;
  EXPECT_EQ(w.group(a0).replace(*who, next).error(), Errno::Enomem);
  EXPECT_TRUE(w.hw_a.entries.empty());
  EXPECT_FALSE(w.group(a0).domain());
  EXPECT_TRUE(w.hw_a.dids.empty());
  EXPECT_TRUE(w.logged("could not be set again"));
  w.hw_a.fail_after.clear();
  ASSERT_TRUE(w.group(a0).attach(*who, next));
}

TEST_F(GroupTest, UnitThatDiesInAReplaceIsQuarantined) {
  auto who = w.owner();
  auto former = w.domain(), next = w.domain();
  w.attach(a0, who, former);
  w.hw_a.dead = true;
  EXPECT_EQ(w.group(a0).replace(*who, next).error(), Errno::Eio);
  EXPECT_EQ(w.group(a0).ownership(), Ownership::Quarantined);
  EXPECT_TRUE(w.hw_a.entries.empty());
  const Phys top = former->table().top();
  former = nullptr;
  EXPECT_TRUE(w.frames().in_use(top, kPageSize)) << "the flush was never confirmed";
}

// --- ownership of restored groups: the review's points ----------------------------------------------------------

Ref<HeldOwner> held(IommuWorld& w, u64 generation, u64 token) {
  return *w.heap().make_ref<HeldOwner>(generation, token);
}

// R05, R08.
TEST_F(GroupTest, GroupLockHeldWhileOwnerIsSetAndExistingOwnerReported) {
  auto who = w.owner();
  ASSERT_TRUE(w.group(a0).claim(who));
  EXPECT_EQ(GroupPeer::hold(w.group(a0), held(w, 1, 2), nullptr).error(), Errno::Eexist);
  EXPECT_TRUE(w.logged("has an owner already"));
  EXPECT_EQ(w.group(a0).ownership(), Ownership::Owned);
  ASSERT_TRUE(w.group(a0).claim(who)) << "the owner it had is still its owner";
  // A second restore of one group is the same mistake.
  ASSERT_TRUE(GroupPeer::hold(w.group(a1), held(w, 1, 2), nullptr));
  EXPECT_EQ(GroupPeer::hold(w.group(a1), held(w, 1, 3), nullptr).error(), Errno::Eexist);
  // Devices that cannot be told apart were refused when they were preserved (R14).
  const SourceId bridge{0, 0x0400}, c{0, 0x0401}, d{0, 0x0402};
  IommuDevice* sibling = *w.iommu->add_device(c, w.unit(kUnitA), std::span(&bridge, 1));
  ASSERT_TRUE(w.iommu->add_device(d, w.unit(kUnitA), std::span(&bridge, 1)));
  EXPECT_EQ(GroupPeer::hold(sibling->group(), held(w, 1, 2), nullptr).error(), Errno::Eopnotsupp);
  EXPECT_DEATH(GroupPeer::hold_without_lock(w.group(a2), held(w, 1, 2)), "held_by_me");
}

// R07: a token is a program's number; no number stands for an owner.
TEST_F(GroupTest, OwnerOfRestoredGroupCannotBeAliasedByToken) {
  auto live = w.owner();
  const u64 token = reinterpret_cast<u64>(live.get());
  ASSERT_TRUE(GroupPeer::hold(w.group(a0), held(w, 7, token), nullptr));
  EXPECT_EQ(w.group(a0).claim(live).error(), Errno::Eperm);
  w.group(a0).release(*live);
  w.group(a0).unclaim_held(*live);
  EXPECT_EQ(w.group(a0).ownership(), Ownership::HeldForSession);
  EXPECT_EQ(w.group(a0).attach(*live, w.domain()).error(), Errno::Eperm);
  EXPECT_EQ(w.group(a0).claim_held(live, 6, token).error(), Errno::Eperm);
  EXPECT_EQ(w.group(a0).claim_held(live, 7, token + 1).error(), Errno::Eperm);
  ASSERT_TRUE(w.group(a0).claim_held(live, 7, token));
}

// R06: the way to own without blocking is closed to all but a restore.
template <class G>
concept CanHold = requires(G& g) { g.hold_locked(nullptr, nullptr); };
template <class G>
concept CanSetOwner = requires(G& g) { g.owner_ = nullptr; };
TEST_F(GroupTest, OnlyARestoreOwnsWithoutBlocking) {
  static_assert(!CanHold<Group> && !CanSetOwner<Group>);
  // What anybody can call leaves DMA blocked until something is attached.
  auto who = w.owner();
  ASSERT_TRUE(w.group(a0).claim(who));
  EXPECT_TRUE(w.hw_a.entries.empty());
  EXPECT_FALSE(w.group(a0).domain());
}

// R09.
TEST_F(GroupTest, HeldGroupIsHandedOverExactlyOnceAndBackWhenBindFails) {
  auto one = w.owner(), two = w.owner();
  Group& g = w.group(a0);
  ASSERT_TRUE(GroupPeer::hold(g, held(w, 7, 8), nullptr));
  EXPECT_EQ(g.claim(one).error(), Errno::Eperm);
  ASSERT_TRUE(g.claim_held(one, 7, 8));
  EXPECT_EQ(g.claim_held(two, 7, 8).error(), Errno::Eperm);
  EXPECT_EQ(g.claim_held(one, 7, 8).error(), Errno::Eperm);
  EXPECT_EQ(g.claim(two).error(), Errno::Eperm);
  g.unclaim_held(*two);
  EXPECT_EQ(g.ownership(), Ownership::Owned) << "only its owner gives it back";
  g.unclaim_held(*one);
  EXPECT_EQ(g.ownership(), Ownership::HeldForSession);
  EXPECT_EQ(g.claim(one).error(), Errno::Eperm);
  ASSERT_TRUE(g.claim_held(two, 7, 8));
  g.release(*two);
  EXPECT_EQ(g.ownership(), Ownership::Unowned) << "the count that was handed over was one";
  EXPECT_EQ(g.claim_held(one, 7, 8).error(), Errno::Eperm);
  g.unclaim_held(*two);
  EXPECT_EQ(g.ownership(), Ownership::Unowned);
  // An ordinary owner has nothing to go back to.
  ASSERT_TRUE(g.claim(one));
  g.unclaim_held(*one);
  EXPECT_EQ(g.ownership(), Ownership::Owned);
}

}  // namespace
}  // namespace testing
}  // namespace perdure
