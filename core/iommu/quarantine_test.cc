#include "core/iommu/testing/iommu_world.h"

namespace perdure::testing {
namespace {

using QuarantineTest = IommuTest;

TEST_F(QuarantineTest, StopsTheSourceThenTheEntryThenWaitsForWhatIsInFlight) {
  const SourceId c{0, 0x0400}, alias{0, 0x0500};
  IommuDevice* device = *w.iommu->add_device(c, w.unit(kUnitA), std::span(&alias, 1));
  w.bus.on.insert(c);
  auto who = w.owner();
  auto d = w.domain();
  ASSERT_TRUE(device->group().claim(who));
  ASSERT_TRUE(device->group().attach(*who, d));
  w.events.clear();
  w.iommu->quarantine(*device, "a test");
  EXPECT_EQ(w.events, (std::vector<std::string>{"bus master off 4:0.0", "clear 4:0.0", "clear 5:0.0", "pending? 4:0.0",
                                                "did_free 2"}));
  EXPECT_EQ(device->group().ownership(), Ownership::Quarantined);
  EXPECT_TRUE(w.logged("quarantined: a test"));
  EXPECT_FALSE(device->group().domain());
}

TEST_F(QuarantineTest, IsForGood) {
  auto who = w.owner();
  w.attach(a0, who, w.domain());
  w.iommu->quarantine(w.device(a0), "a test");
  EXPECT_EQ(w.group(a0).claim(who).error(), Errno::Eio);
  EXPECT_EQ(w.group(a0).claim_held(who, 1, 1).error(), Errno::Eio);
  EXPECT_EQ(w.group(a0).attach(*who, w.domain()).error(), Errno::Eio);
  EXPECT_EQ(w.group(a0).replace(*who, w.domain()).error(), Errno::Eio);
  EXPECT_EQ(w.group(a0).detach(*who).error(), Errno::Eio);
  w.group(a0).release(*who);
  EXPECT_EQ(w.group(a0).ownership(), Ownership::Quarantined);
  w.iommu->quarantine(w.device(a0), "again");
  EXPECT_EQ(w.group(a0).ownership(), Ownership::Quarantined);
}

TEST_F(QuarantineTest, OfOneFunctionLeavesTheOthersOfItsDomain) {
  auto who = w.owner();
  auto d = w.domain();
  w.attach(a0, who, d);
  w.attach(a1, who, d);
  w.iommu->quarantine(w.device(a0), "a test");
  EXPECT_TRUE(w.hw_a.entries.contains(a1));
  EXPECT_EQ(d->attached_devices(), 1u);
  EXPECT_EQ(w.hw_a.dids.size(), 1u);
  EXPECT_TRUE(d->map(Iova(0), Phys(0x1000), kPageSize, Access::Read));
}

TEST_F(QuarantineTest, OrdinaryTablesThatAreProvenUnreachableComeBack) {
  auto who = w.owner();
  auto d = w.domain();
  const Phys top = d->table().top();
  w.attach(a0, who, d);
  w.iommu->quarantine(w.device(a0), "a test");
  d = nullptr;
  EXPECT_FALSE(w.frames().in_use(top, kPageSize));
}

TEST_F(QuarantineTest, WhatWasNotProvenUnreachableNeverComesBack) {
  auto who = w.owner();
  struct Case {
    SourceId function;
    std::string_view complaint;
  };
  for (const auto& [function, complaint] :
       {Case{a0, "does not stay off"}, Case{a1, "did not complete"}, Case{b0, "did not confirm the flush"}}) {
    auto d = w.domain(function);
    const Phys top = d->table().top();
    ASSERT_TRUE(d->map(Iova(0), Phys(0x1000), kPageSize, Access::ReadWrite));
    w.attach(function, who, d);
    if (function == a0) w.bus.stuck.insert(function);
    if (function == a1) w.bus.busy.insert(function);
    if (function == b0) w.hw_b.fail_after["clear_entry"] = 0;
    w.handover.machine.clock_step_ns = 1'000'000;
    w.iommu->quarantine(w.device(function), "a test");
    EXPECT_TRUE(w.logged(complaint)) << complaint;
    w.group(function).release(*who);
    if (function == b0) {
      EXPECT_EQ(d->unmap(Iova(0), kPageSize).error(), Errno::Eio) << "the page may still be written to";
      EXPECT_EQ(d->map(Iova(0), Phys(0x1000), kPageSize, Access::Read).error(), Errno::Eio);
    } else {
      EXPECT_TRUE(d->unmap(Iova(0), kPageSize)) << "blocked and flushed is unreachable, whatever the function does";
    }
    d = nullptr;
    EXPECT_TRUE(w.frames().in_use(top, kPageSize)) << complaint;
    EXPECT_EQ(w.group(function).ownership(), Ownership::Quarantined);
  }
  EXPECT_EQ(w.group(b1).ownership(), Ownership::Quarantined) << "a unit that does not answer takes all behind it";
  EXPECT_EQ(w.group(a2).ownership(), Ownership::Unowned);
  EXPECT_EQ(w.hw_b.dids.size(), 1u) << "the DID may still be cached";
}

TEST_F(QuarantineTest, EndsOnlyWithAResetBehindABlockedEntry) {
  auto who = w.owner();
  EXPECT_EQ(w.iommu->reset_done(w.device(a0)).error(), Errno::Enoent);
  w.attach(a0, who, w.domain());
  w.iommu->quarantine(w.device(a0), "a test");
  EXPECT_EQ(w.iommu->reset_done(w.device(a0)).error(), Errno::Ebusy) << "owned";
  w.group(a0).release(*who);
  w.hw_a.entries[a0] = {9, 4, 0x1000, false};
  EXPECT_EQ(w.iommu->reset_done(w.device(a0)).error(), Errno::Ebusy) << "not blocked";
  w.hw_a.entries.clear();
  w.bus.on.insert(a0);
  EXPECT_EQ(w.iommu->reset_done(w.device(a0)).error(), Errno::Ebusy) << "at work";
  w.bus.on.erase(a0);
  w.bus.busy.insert(a0);
  EXPECT_EQ(w.iommu->reset_done(w.device(a0)).error(), Errno::Ebusy) << "in flight";
  w.bus.busy.clear();
  ASSERT_TRUE(w.iommu->reset_done(w.device(a0)));
  EXPECT_EQ(w.group(a0).ownership(), Ownership::Unowned);
  w.attach(a0, who, w.domain());
  w.iommu->quarantine_unit(w.unit(kUnitA), "a test");
  w.group(a0).release(*who);
  EXPECT_EQ(w.iommu->reset_done(w.device(a0)).error(), Errno::Eio);
}

TEST_F(QuarantineTest, HeldFunctionThatWasResetIsNobodysAnyMore) {
  Workload s = set_up(w, {a0});
  w.begin();
  preserve(w, s, {a0});
  forget(s);
  w.jump();
  w.iommu->quarantine(w.device(a0), "a test");
  ASSERT_TRUE(w.iommu->reset_done(w.device(a0)));
  auto who = w.owner();
  EXPECT_EQ(w.group(a0).claim_held(who, kSession, kToken).error(), Errno::Eperm);
  EXPECT_TRUE(w.group(a0).claim(who));
}

TEST_F(QuarantineTest, AllocatesNothing) {
  auto who = w.owner();
  w.attach(a0, who, w.domain());
  w.attach(a1, who, w.domain());
  for (u16 i = 0; i < 40; ++i) w.hw_a.entries[{0, static_cast<u16>(0x6000 + i)}] = {9, 4, 0x1000, false};
  auto& steps = w.handover.machine.counting;
  const u64 before = steps.allocations;
  w.iommu->quarantine(w.device(a0), "a test");
  w.iommu->quarantine_unit(w.unit(kUnitA), "a test");
  EXPECT_EQ(steps.allocations, before);
  EXPECT_TRUE(w.hw_a.entries.empty());
}

TEST_F(QuarantineTest, UnitWhoseQueueDiedIsIsolatedWhole) {
  auto who = w.owner();
  auto d = w.domain();
  w.attach(a0, who, d);
  w.attach(b0, who, d);
  const SourceId ghost{0, 0x7f00};
  w.hw_a.entries[ghost] = {9, 4, 0x1000, false};
  w.bus.on.insert(ghost);
  w.hw_a.dead = true;
  ASSERT_TRUE(d->map(Iova(0), Phys(0x1000), kPageSize, Access::Read).error() == Errno::Eio);
  for (SourceId f : {a0, a1, a2}) EXPECT_EQ(w.group(f).ownership(), Ownership::Quarantined);
  EXPECT_FALSE(w.bus.is_on(ghost));
  EXPECT_TRUE(w.hw_a.entries.empty());
  EXPECT_EQ(w.group(b0).ownership(), Ownership::Owned);
  EXPECT_TRUE(w.hw_b.entries.contains(b0));
}

TEST_F(QuarantineTest, FunctionThatJoinsAQuarantinedGroupIsStopped) {
  const SourceId bridge{0, 0x0400}, c{0, 0x0401}, d{0, 0x0402};
  w.bus.on = {c, d};
  IommuDevice* first = *w.iommu->add_device(c, w.unit(kUnitA), std::span(&bridge, 1));
  w.iommu->quarantine(*first, "a test");
  ASSERT_TRUE(w.iommu->add_device(d, w.unit(kUnitA), std::span(&bridge, 1)));
  EXPECT_FALSE(w.bus.is_on(d));
}

TEST_F(QuarantineTest, WithoutABusItSaysThatTheSourceWasNotStopped) {
  IommuWorld other;
  FakeHardware hw, twin;
  hw.base = twin.base = Phys(0xfed00000);
  Iommu bare(other.heap(), other.kho());
  Owned<FakeUnit> unit = std::move(*other.heap().make<FakeUnit>(hw, other.heap(), other.kho()));
  ASSERT_TRUE(unit->start(nullptr));
  ASSERT_TRUE(bare.add_unit(std::move(unit)));
  EXPECT_EQ(bare.add_unit(std::move(*other.heap().make<FakeUnit>(twin, other.heap(), other.kho()))).error(),
            Errno::Eexist);
  IommuDevice* device = *bare.add_device(a0, *bare.find_unit(hw.base), {});
  bare.quarantine(*device, "a test");
  EXPECT_TRUE(other.logged("does not stay off"));
  EXPECT_EQ(device->group().ownership(), Ownership::Quarantined);
}

}  // namespace
}  // namespace perdure::testing
