// The new kernel's side: what is believed, what is refused, and what becomes of the refused.
#include "core/iommu/incoming_model.h"
#include "core/iommu/record_reader.h"
#include "core/iommu/testing/image.h"
#include "core/iommu/testing/iommu_world.h"

namespace perdure::testing {
namespace {

// a0 and b0 in one domain (record 0), a1 in another (record 1); on unit A they have DIDs 2 and 3.
class RestoreTest : public IommuTest {
 protected:
  void SetUp() override {
    first = set_up(w, {a0, b0});
    second = set_up(w, {a1});
    w.begin();
    preserve(w, first, {a0, b0});
    preserve(w, second, {a1}, kToken + 1);
    entries_a = w.hw_a.entries;
    entries_b = w.hw_b.entries;
    top = first.domain->table().top();
    first.domain->table()
        .each_block([&](Phys base, unsigned order) -> Result<void> {
          tables.push_back({base, order});
          return {};
        })
        .value();
    ASSERT_TRUE(w.live->freeze(w.data));
    ASSERT_TRUE(w.live->quiesce());
  }
  void jump(const std::function<void(Image&)>& tamper = {}) {
    forget(first);
    forget(second);
    Image image(w.handover.machine, w.data);
    if (tamper) tamper(image);
    w.jump_as_is();
  }
  void expect_held(std::initializer_list<SourceId> functions) {
    for (SourceId f : functions) {
      EXPECT_EQ(w.group(f).ownership(), Ownership::HeldForSession) << text(f);
      FakeHardware& hw = f < b0 ? w.hw_a : w.hw_b;
      EXPECT_TRUE(hw.entries.contains(f) && hw.entries.at(f) == (f < b0 ? entries_a : entries_b).at(f)) << text(f);
      EXPECT_TRUE(w.bus.is_on(f)) << text(f);
    }
  }
  void expect_quarantined(std::initializer_list<SourceId> functions) {
    for (SourceId f : functions) {
      EXPECT_EQ(w.group(f).ownership(), Ownership::Quarantined) << text(f);
      EXPECT_FALSE((f < b0 ? w.hw_a : w.hw_b).entries.contains(f)) << text(f);
      EXPECT_FALSE(w.bus.is_on(f)) << text(f);
    }
    EXPECT_EQ(w.count("set "), 0u) << "a restore programs no entry";
  }
  void expect_tables_with_nobody() {
    for (auto [base, order] : tables) EXPECT_TRUE(w.frames().in_use(base, kPageSize << order));
  }
  Workload first, second;
  std::map<SourceId, FakeHardware::Entry> entries_a, entries_b;
  Phys top;
  std::vector<std::pair<Phys, unsigned>> tables;  // of the first domain
};

TEST_F(RestoreTest, EverythingSoundIsHeld) {
  jump();
  expect_held({a0, a1, b0});
  EXPECT_EQ(w.group(a2).ownership(), Ownership::Unowned);
  EXPECT_EQ(w.hw_a.dids, (std::set<u64>{2, 3}));
  EXPECT_EQ(w.hw_b.dids, (std::set<u64>{2}));
  EXPECT_NE(w.group(a0).domain(), w.group(a1).domain());
}

// --- domain ids -------------------------------------------------------------------------------------------------

// The records and the hardware's entry of a0 agree on `did`; all that is wrong is the number.
void claim_did(Image& image, IommuWorld& w, u64 did) {
  image.record<abi::IommuAttachmentRecord>(0).did = did;
  image.seal<abi::IommuAttachmentRecord>(0);
  image.record<abi::IommuDeviceRecord>(0).did = did;
  image.seal<abi::IommuDeviceRecord>(0);
  w.hw_a.entries.at(IommuWorld::a0).did = static_cast<u32>(did);
}

class RecordedDid : public RestoreTest, public ::testing::WithParamInterface<u64> {};
using RecordedDidBelowFirstDynamic = RecordedDid;
TEST_P(RecordedDidBelowFirstDynamic, RecordedDidBelowFirstDynamicIsRefused) {
  jump([&](Image& image) { claim_did(image, w, GetParam()); });
  expect_quarantined({a0});
  expect_held({a1, b0});
  EXPECT_EQ(w.hw_a.dids, (std::set<u64>{3})) << "the id space is as if it had not been recorded";
  EXPECT_EQ(w.count("did_reserve " + std::to_string(GetParam())), 0u) << "checked before it is reserved";
  expect_tables_with_nobody();
}
INSTANTIATE_TEST_SUITE_P(R01, RecordedDidBelowFirstDynamic, ::testing::Values(0, 1));

using RecordedDidOutOfRange = RecordedDid;
TEST_P(RecordedDidOutOfRange, RecordedDidOutOfRangeIsRefused) {
  jump([&](Image& image) { claim_did(image, w, GetParam()); });
  expect_quarantined({a0});
  expect_held({a1, b0});
  EXPECT_EQ(w.hw_a.dids, (std::set<u64>{3}));
}
// The limit of the unit; of the format; and numbers that are good ids once they are cut to 32 or 16 bits.
INSTANTIATE_TEST_SUITE_P(R01, RecordedDidOutOfRange,
                         ::testing::Values(256, 0xffff, u64{1} << 16, (u64{1} << 16) + 2, (u64{1} << 32) + 5,
                                           u64{1} << 63, ~u64{0}));

TEST_F(RestoreTest, RecordedDidOfAnotherIsRefused) {
  // a0 claims the id of a1's domain; hardware knows better.
  jump([&](Image& image) {
    claim_did(image, w, 3);
    w.hw_a.entries.at(a0).did = 2;
  });
  expect_quarantined({a0});
  expect_held({a1, b0});
  EXPECT_EQ(w.hw_a.dids, (std::set<u64>{3}));
}

TEST_F(RestoreTest, OneDidForTwoTablesInHardwareIsRefusedForBoth) {
  jump([&](Image& image) { claim_did(image, w, 3); });
  expect_quarantined({a0, a1});
  expect_held({b0});
  EXPECT_TRUE(w.hw_a.dids.empty());
}

TEST_F(RestoreTest, DidThatSomebodyHasByNowIsRefused) {
  forget(first);
  forget(second);
  w.jump_memory();
  w.boot_iommu(w.data, /*commit=*/false);
  ASSERT_TRUE(w.unit(kUnitA).did_reserve(2));
  w.live->commit();
  expect_quarantined({a0});
  expect_held({a1, b0});
  EXPECT_TRUE(w.logged("its DID is taken"));
  EXPECT_TRUE(w.hw_a.dids.contains(2)) << "it stays who had it";
}

TEST_F(RestoreTest, DidsAreReservedBeforeAnythingCanBeGivenOne) {
  jump();
  EXPECT_LT(w.event("did_reserve 2"), w.events.size());
  auto d = w.domain();
  auto who = w.owner();
  w.attach(a2, who, d);
  EXPECT_EQ(d->did_on(w.unit(kUnitA)), 4u);
}

TEST_F(RestoreTest, DidOfARefusedDeviceComesBackAfterItsEntryWasFlushedAway) {
  w.iommu->quarantine(w.device(b1), "not of interest");
  jump([&](Image&) { w.hw_a.entries.at(a0).top = 0x1000; });
  expect_quarantined({a0});
  EXPECT_EQ(w.hw_a.dids, (std::set<u64>{3}));
}

// --- records against hardware ---------------------------------------------------------------------------------

TEST_F(RestoreTest, EntryThatSaysOtherwiseIsRefused) {
  struct Case {
    const char* what;
    void (*change)(FakeHardware::Entry&);
  };
  const Case cases[] = {{"another DID", [](auto& e) { e.did = 9; }},
                        {"another table", [](auto& e) { e.top += kPageSize; }},
                        {"another table", [](auto& e) { e.levels = 5; }},
                        {"another table", [](auto& e) { e.format = pt::FormatId::X86FirstStage; }},
                        {"differ in dirty tracking", [](auto& e) { e.tracks_dirty = true; }},
                        {"passes DMA through", [](auto& e) { e.pass_through = true; }}};
  for (const Case& c : cases) {
    IommuWorld other;
    Workload s = set_up(other, {a0});
    other.begin();
    preserve(other, s, {a0});
    ASSERT_TRUE(other.live->freeze(other.data));
    forget(s);
    c.change(other.hw_a.entries.at(a0));
    other.jump_as_is();
    EXPECT_EQ(other.group(a0).ownership(), Ownership::Quarantined) << c.what;
    EXPECT_TRUE(other.hw_a.entries.empty()) << c.what;
    EXPECT_TRUE(other.logged(c.what)) << c.what;
    EXPECT_EQ(other.live->reclaim_domain(s.index, kSession).error(), Errno::Eio);
  }
}

TEST_F(RestoreTest, RecordWithoutALiveEntryIsNotHeld) {
  jump([&](Image&) { w.hw_a.entries.erase(a0); });
  EXPECT_EQ(w.group(a0).ownership(), Ownership::Unowned);
  expect_held({a1, b0});
  EXPECT_EQ(w.live->report().not_held, 1u);
  EXPECT_TRUE(w.bus.is_on(a0)) << "nothing to stop";
  EXPECT_TRUE(w.group(a0).claim(w.owner()));
}

TEST_F(RestoreTest, LiveEntryWithoutARecordIsQuarantinedByItsBdf) {
  const SourceId ghost{0, 0x7f00};
  w.bus.on.insert(ghost);
  const u64 pages = top.value;
  jump([&](Image&) {
    w.hw_a.entries[a2] = {77, 4, pages, false};
    w.hw_a.entries[ghost] = {78, 3, 0x123000, false};
  });
  expect_quarantined({a2});
  EXPECT_FALSE(w.hw_a.entries.contains(ghost));
  EXPECT_FALSE(w.bus.is_on(ghost));
  EXPECT_EQ(w.live->report().quarantined, 2u);
  EXPECT_LT(w.event("bus master off 127:0.0"), w.event("clear 127:0.0"));
  expect_held({a0, a1, b0});
}

TEST_F(RestoreTest, ManyGhostsAreAllQuarantined) {
  jump([&](Image&) {
    for (u16 i = 0; i < 100; ++i) w.hw_b.entries[{0, static_cast<u16>(0x9000 + i)}] = {9, 4, 0x1000, false};
  });
  EXPECT_EQ(w.hw_b.entries.size(), 1u);
  EXPECT_EQ(w.live->report().quarantined, 100u);
  expect_held({a0, a1, b0});
}

TEST_F(RestoreTest, FunctionThatIsGoneIsQuarantinedByWhatHardwareSays) {
  w.absent.insert(a0);
  jump();
  EXPECT_FALSE(w.hw_a.entries.contains(a0));
  EXPECT_FALSE(w.bus.is_on(a0));
  expect_held({a1, b0});
  EXPECT_EQ(w.live->report().not_held, 1u);
}

TEST_F(RestoreTest, FunctionBehindAnotherUnitThanRecordedIsRefused) {  // R13
  jump([&](Image& image) {
    image.record<abi::IommuDeviceRecord>(0).unit = 1;  // b0's: there is an attachment of the domain there
    image.seal<abi::IommuDeviceRecord>(0);
  });
  expect_quarantined({a0});
  expect_held({a1, b0});
}

TEST_F(RestoreTest, SameBdfInAnotherSegmentIsAnotherFunction) {  // R12
  jump([&](Image& image) {
    image.record<abi::IommuDeviceRecord>(0).segment = 1;
    image.seal<abi::IommuDeviceRecord>(0);
  });
  expect_quarantined({a0});
  expect_held({a1, b0});
}

TEST_F(RestoreTest, UnitThatIsNotTheRecordedOneLosesItsDevices) {
  for (auto change :
       {+[](abi::IommuUnitRecord& r) { r.cap ^= 1; }, +[](abi::IommuUnitRecord& r) { r.ecap ^= 1; },
        +[](abi::IommuUnitRecord& r) { r.did_limit = 255; }, +[](abi::IommuUnitRecord& r) { r.type = 2; },
        +[](abi::IommuUnitRecord& r) { r.root = 0x3000; }, +[](abi::IommuUnitRecord& r) { r.generation ^= 1; }}) {
    IommuWorld other;
    Workload s = set_up(other, {a0, b0});
    other.begin();
    preserve(other, s, {a0, b0});
    ASSERT_TRUE(other.live->freeze(other.data));
    forget(s);
    Image image(other.handover.machine, other.data);
    change(image.record<abi::IommuUnitRecord>(0));
    image.seal<abi::IommuUnitRecord>(0);
    other.jump_as_is();
    EXPECT_EQ(other.group(a0).ownership(), Ownership::Quarantined);
    EXPECT_EQ(other.group(b0).ownership(), Ownership::HeldForSession);
    EXPECT_TRUE(other.hw_a.entries.empty());
    // A domain that a quarantined function used stays for ever, even when its last user lets go.
    auto who = other.owner();
    ASSERT_TRUE(other.group(b0).claim_held(who, kSession, kToken));
    const Phys root = (*other.live->reclaim_domain(0, kSession))->table().top();
    other.group(b0).release(*who);
    other.live->finish(other.data);
    EXPECT_TRUE(other.frames().in_use(root, kPageSize));
  }
}

TEST_F(RestoreTest, DevicesOfTwoOwnersOnOneDomainAreRefused) {
  jump([&](Image& image) {
    image.record<abi::IommuDeviceRecord>(0).owner_token = 99;
    image.seal<abi::IommuDeviceRecord>(0);
  });
  expect_quarantined({a0, b0});
  expect_held({a1});
}

TEST_F(RestoreTest, AliasesMustBeTheSame) {
  const SourceId c{0, 0x0400}, alias{0, 0x0500}, other{0, 0x0501};
  for (const bool same : {true, false}) {
    IommuWorld one;
    one.absent.insert(a0);
    const auto add = [&](SourceId with) {
      ASSERT_TRUE(one.iommu->add_device(c, one.unit(kUnitA), std::span(&with, 1)));
    };
    add(alias);
    Workload s = set_up(one, {c});
    one.begin();
    preserve(one, s, {c});
    ASSERT_TRUE(one.live->freeze(one.data));
    forget(s);
    one.jump_memory();
    one.boot_iommu(one.data, /*commit=*/false);
    add(same ? alias : other);
    one.live->commit();
    EXPECT_EQ(one.group(c).ownership(), same ? Ownership::HeldForSession : Ownership::Quarantined);
    EXPECT_EQ(one.hw_a.entries.size(), same ? 2u : 0u) << "the alias nobody knows of any more is cleared, too";
  }
}

TEST_F(RestoreTest, FunctionThatIsNewInTheGroupOfARecordedOneQuarantinesBoth) {  // R14
  forget(first);
  forget(second);
  w.jump_memory();
  w.boot_iommu(w.data, /*commit=*/false);
  const SourceId sibling{0, 0x0101};
  w.bus.on.insert(sibling);
  ASSERT_TRUE(w.iommu->add_device(sibling, w.unit(kUnitA), std::span(&IommuWorld::a0, 1)));
  EXPECT_EQ(&w.group(sibling), &w.group(a0));
  w.live->commit();
  expect_quarantined({a0});
  EXPECT_FALSE(w.bus.is_on(sibling));
  expect_held({a1, b0});
}

TEST_F(RestoreTest, NobodyClaimsWhatWaitsForTheRestore) {
  forget(first);
  forget(second);
  w.jump_memory();
  w.boot_iommu(w.data, /*commit=*/false);
  EXPECT_EQ(w.group(a0).claim(w.owner()).error(), Errno::Ebusy);
  EXPECT_EQ(w.group(a0).claim_held(w.owner(), kSession, kToken).error(), Errno::Eperm);
  EXPECT_TRUE(w.live->records(a0));
  EXPECT_FALSE(w.live->records(a2));
  w.live->commit();
  expect_held({a0, a1, b0});
}

TEST_F(RestoreTest, SessionOfADeviceIsItsDomains) {
  jump([&](Image& image) {
    image.record<abi::IommuDeviceRecord>(0).owner_generation = kSession + 1;
    image.seal<abi::IommuDeviceRecord>(0);
  });
  expect_quarantined({a0});
  expect_held({a1, b0});
}

TEST_F(RestoreTest, BusMasteringThatSomebodyTurnedOffIsReported) {
  w.bus.on.erase(a1);
  ASSERT_TRUE(w.live->freeze(w.data));
  jump([&](Image&) { w.bus.on.erase(a0); });
  EXPECT_TRUE(w.logged("0x100 was preserved with bus mastering on"));
  EXPECT_FALSE(w.logged("0x200 was preserved with bus mastering on")) << "it was off before";
  EXPECT_EQ(w.group(a0).ownership(), Ownership::HeldForSession);
}

TEST_F(RestoreTest, RemovedAndFoundAgainAHeldFunctionIsStillHeld) {  // R33
  jump();
  IommuDevice& device = w.device(a0);
  ASSERT_TRUE(w.iommu->remove_device(device));
  EXPECT_EQ(w.iommu->find(a0), nullptr);
  EXPECT_TRUE(w.hw_a.dids.contains(2));
  ASSERT_TRUE(w.iommu->add_device(a0, w.unit(kUnitA), {}));
  expect_held({a0});
  EXPECT_TRUE(w.group(a0).claim_held(w.owner(), kSession, kToken));
}

// --- images that say nothing ------------------------------------------------------------------------------------

TEST_F(RestoreTest, UnknownVersionQuarantinesEverything) {  // R35
  jump([&](Image& image) {
    image.header().version = abi::kIommuReadMax + 1;
    image.seal_header();
  });
  EXPECT_EQ(w.load_result.error(), Errno::Eproto);
  expect_quarantined({a0, a1, b0});
  EXPECT_EQ(w.live->unit_record(kUnitA), nullptr);
  EXPECT_EQ(w.live->reclaim_domain(0, kSession).error(), Errno::Enoent);
  w.live->finish(w.data);  // nothing is known, nothing is given back
  EXPECT_FALSE(w.live->records(a0));
}

TEST_F(RestoreTest, NoRecordsAtAllQuarantinesWhatIsLive) {
  forget(first);
  forget(second);
  w.jump_memory();
  w.boot_iommu(0);
  expect_quarantined({a0, a1, b0});
  EXPECT_EQ(w.group(a2).ownership(), Ownership::Unowned);
}

// A domain without any device is taken over by its HWPT alone; one whose devices were all refused is not, since a unit
// that could not be asked may walk it still. And as long as there is such a unit, nothing of either is given out again.
TEST_F(RestoreTest, DomainThatLostItsDevicesIsNobodysAndOneThatHadNoneIsTaken) {
  for (const bool sound : {true, false}) {
    IommuWorld one;
    Workload s = set_up(one, {a0});
    auto lonely = one.domain();
    ASSERT_TRUE(lonely->map(Iova(0), s.memory, kPageSize, Access::Read));
    one.begin();
    preserve(one, s, {a0});
    const u32 index = *one.live->preserve_domain(*lonely, kSession);
    const Phys root = lonely->table().top();
    ASSERT_TRUE(one.live->freeze(one.data));
    forget(s);
    static_cast<void>(lonely.release());
    if (!sound) {
      Image image(one.handover.machine, one.data);
      image.record<abi::IommuUnitRecord>(0).status_page = image.record<abi::IommuUnitRecord>(0).iqa;
      image.seal<abi::IommuUnitRecord>(0);
      one.absent.insert(a0);  // nobody is there to look at its entry for it
    }
    one.jump_as_is();
    EXPECT_EQ(one.live->reclaim_domain(s.index, kSession).has_value(), sound);
    ASSERT_TRUE(one.live->reclaim_domain(index, kSession));
    one.live->finish(one.data);
    EXPECT_EQ(one.frames().in_use(root, kPageSize), !sound);
  }
}

TEST_F(RestoreTest, HeaderMustLieInMemoryOfThisHandover) {
  // Preserved, too, but a bank: a program writes there.
  const Phys bank(w.handover.machine.ram_bytes() + kHugePageSize);
  ASSERT_TRUE(w.kho().preserve(bank, 0));
  jump();
  ASSERT_TRUE(w.kho().restorable(bank, 0));
  memcpy(w.handover.machine.virt(bank), w.handover.machine.virt(Phys(w.data)), kPageSize);
  for (u64 at : {u64{0}, w.data + 8, w.data + kPageSize, bank.value, w.handover.machine.window, ~u64{0xfff}}) {
    EXPECT_EQ(read_iommu_records(w.kho(), at).error(), Errno::Eproto) << at;
  }
}

TEST_F(RestoreTest, TablesOfAHeldFunctionThatIsQuarantinedLaterStayForGood) {
  jump();
  w.iommu->quarantine(w.device(a0), "a test");
  expect_held({a1, b0});
  w.iommu->quarantine(w.device(b0), "a test");
  w.live->finish(w.data);
  expect_tables_with_nobody();
  EXPECT_EQ(w.hw_a.dids, (std::set<u64>{3})) << "the flush was confirmed";
}

// --- R20: failure while restoring -------------------------------------------------------------------------------

TEST_F(RestoreTest, DomainThatFailsToRestoreIsFreedWithoutFreeingPreservedPages) {
  forget(first);
  forget(second);
  w.jump_memory();
  w.boot_iommu(w.data, /*commit=*/false);
  // Somebody took a page of the table over already: the table cannot be adopted (and nothing of it is trusted).
  ASSERT_TRUE(w.kho().restore(top, 0));
  const u64 heap = w.heap().bytes_in_use();
  w.live->commit();
  expect_quarantined({a0, b0});
  expect_held({a1});
  EXPECT_EQ(w.live->reclaim_domain(0, kSession).error(), Errno::Eio);
  expect_tables_with_nobody();
  // The second domain and its owner are all that is left of this; the first one's object went.
  const u64 second_alone = w.heap().bytes_in_use() - heap;
  IommuWorld one;
  Workload s = set_up(one, {a1});
  one.begin();
  preserve(one, s, {a1});
  ASSERT_TRUE(one.live->freeze(one.data));
  forget(s);
  one.jump_memory();
  one.boot_iommu(one.data, /*commit=*/false);
  const u64 before = one.heap().bytes_in_use();
  one.live->commit();
  // A domain reserves room for as many units as the image has: two here, one there, the same block of the heap.
  EXPECT_EQ(second_alone, one.heap().bytes_in_use() - before);
}

// Whichever allocation fails, each function ends held or quarantined, never in between, and never with the default
// (R21).
TEST(RestoreSweep, EveryFailedAllocationQuarantinesWhatItConcerns) {
  u64 quarantined = 0;
  for (u64 nth = 1;; ++nth) {
    IommuWorld w;
    const SourceId a0 = w.a0, a1 = w.a1, b0 = w.b0;
    Workload first = set_up(w, {a0, b0}), second = set_up(w, {a1});
    w.begin();
    preserve(w, first, {a0, b0});
    preserve(w, second, {a1}, kToken + 1);
    std::vector<std::pair<Phys, unsigned>> tables;
    for (const Workload& s : {first, second}) {
      ASSERT_TRUE(s.domain->table().each_block([&](Phys base, unsigned order) -> Result<void> {
        tables.push_back({base, order});
        return {};
      }));
    }
    ASSERT_TRUE(w.live->freeze(w.data));
    const auto before_a = w.hw_a.entries, before_b = w.hw_b.entries;
    forget(first);
    forget(second);
    w.jump_memory();
    w.boot_iommu(w.data, /*commit=*/false);
    auto& steps = w.handover.machine.counting;
    steps.allocations = 0;
    steps.fail_at = nth;
    w.live->commit();
    const bool complete = steps.allocations < nth;
    steps.fail_at = 0;
    for (SourceId f : {a0, a1, b0}) {
      const auto& now = f < b0 ? w.hw_a.entries : w.hw_b.entries;
      const auto& before = f < b0 ? before_a : before_b;
      const Ownership state = w.group(f).ownership();
      if (state == Ownership::HeldForSession) {
        ASSERT_TRUE(now.contains(f));
        EXPECT_EQ(now.at(f), before.at(f));
        EXPECT_TRUE(w.group(f).domain());
      } else {
        EXPECT_EQ(state, Ownership::Quarantined);
        EXPECT_FALSE(now.contains(f));
        EXPECT_FALSE(w.bus.is_on(f));
        EXPECT_FALSE(w.group(f).domain());
        ++quarantined;
      }
    }
    EXPECT_EQ(w.count("set "), 0u);
    for (auto [base, order] : tables) EXPECT_TRUE(w.frames().in_use(base, kPageSize << order)) << nth;
    if (complete) break;
  }
  EXPECT_GT(quarantined, 4u);
}

TEST(RestoreSweep, LoadThatRunsOutOfMemoryCanBeRepeated) {
  IommuWorld w;
  Workload s = set_up(w, {w.a0, w.b0});
  w.begin();
  preserve(w, s, {w.a0, w.b0});
  forget(s);
  w.jump();
  auto& steps = w.handover.machine.counting;
  for (u64 nth = 1;; ++nth) {
    const u64 heap = w.heap().bytes_in_use();
    const auto model = steps.failing(nth, [&] { return read_iommu_records(w.kho(), w.data); });
    if (model) {
      EXPECT_GT(nth, 3u);
      EXPECT_EQ((*model)->devices.size(), 2u);
      break;
    }
    EXPECT_EQ(model.error(), Errno::Enomem);
    EXPECT_EQ(w.heap().bytes_in_use(), heap);
  }
}

// --- version 2's fields -----------------------------------------------------------------------------------------

TEST_F(RestoreTest, TableThatLostPagesIsRefused) {
  jump([&](Image& image) {
    ++image.record<abi::IommuDomainRecord>(0).table_pages;
    image.seal<abi::IommuDomainRecord>(0);
  });
  expect_quarantined({a0, b0});
  expect_held({a1});
  expect_tables_with_nobody();
}

TEST_F(RestoreTest, TableThatMapsMoreThanRecordedIsNotReplaced) {
  jump([&](Image& image) {
    image.record<abi::IommuDomainRecord>(0).mapped_bytes -= kPageSize;
    image.seal<abi::IommuDomainRecord>(0);
  });
  expect_held({a0, a1, b0});
  auto who = w.owner();
  ASSERT_TRUE(w.group(a0).claim_held(who, kSession, kToken));
  EXPECT_EQ(w.group(a0).replace(*who, rebuilt(w, a0, first.memory)).error(), Errno::Eio);
  EXPECT_TRUE(w.logged("the handover is damaged"));
  EXPECT_EQ(w.hw_a.entries, entries_a);
  EXPECT_TRUE(w.group(a0).domain()->restored());
}

// --- replace ----------------------------------------------------------------------------------------------------

class ReplaceTest : public RestoreTest {
 protected:
  void SetUp() override {
    RestoreTest::SetUp();
    jump();
    who = w.owner();
    ASSERT_TRUE(w.group(a0).claim_held(who, kSession, kToken));
    memory = first.memory;
  }
  void expect_refused(Ref<PagingDomain> fresh, Errno why) {
    const Ref<PagingDomain> before = w.group(a0).domain();
    const Phys fresh_top = fresh->table().top();
    w.events.clear();
    EXPECT_EQ(w.group(a0).replace(*who, fresh).error(), why);
    EXPECT_TRUE(w.events.empty());
    EXPECT_EQ(w.group(a0).domain(), before);
    EXPECT_EQ(w.group(b0).domain(), before);
    EXPECT_EQ(before->table().top(), top);
    EXPECT_EQ(fresh->table().top(), fresh_top);
    EXPECT_EQ(w.hw_a.entries, entries_a);
    EXPECT_EQ(before->leaf_at(Iova(0x10000))->phys, memory);
  }
  Ref<TestOwner> who;
  Phys memory;
};

TEST_F(ReplaceTest, TableWithOtherResultsIsRefusedAndNothingChanges) {
  auto less = w.domain();
  ASSERT_TRUE(less->map(Iova(0x10000), memory, kPageSize, Access::ReadWrite));
  expect_refused(less, Errno::Einval);
  EXPECT_TRUE(w.logged("differs at IOVA 0x200000"));
  ASSERT_TRUE(less->map(Iova(kHugePageSize), memory, kPageSize, Access::Read));  // another page
  expect_refused(less, Errno::Einval);

  auto weaker = w.domain();
  ASSERT_TRUE(weaker->map(Iova(0x10000), memory, kPageSize, Access::Read));
  ASSERT_TRUE(weaker->map(Iova(kHugePageSize), memory + kPageSize, kPageSize, Access::Read));
  expect_refused(weaker, Errno::Einval);
}

TEST_F(ReplaceTest, TableOfAnotherShapeIsRefused) {
  pt::Geometry g = w.hw_a.geometry;
  g.leaf_sizes = kPageSize;
  auto fresh = *w.heap().make_ref<PagingDomain>(*w.iommu, std::move(*pt::create(w.heap(), g)), false);
  ASSERT_TRUE(fresh->map(Iova(0x10000), memory, kPageSize, Access::ReadWrite));
  ASSERT_TRUE(fresh->map(Iova(kHugePageSize), memory + kPageSize, kPageSize, Access::Read));
  expect_refused(fresh, Errno::Einval);
}

// Shared by devices behind two units, one of which does not mark what is written.
TEST_F(RestoreTest, TableThatOneUnitCannotTrackIsNoReplacement) {
  w.hw_b.marks_dirty = false;
  jump();
  auto who = w.owner();
  ASSERT_TRUE(w.group(a0).claim_held(who, kSession, kToken));
  auto fresh = *w.iommu->domain_alloc(w.device(a0), true);
  ASSERT_TRUE(fresh->map(Iova(0x10000), first.memory, kPageSize, Access::ReadWrite));
  ASSERT_TRUE(fresh->map(Iova(kHugePageSize), first.memory + kPageSize, kPageSize, Access::Read));
  EXPECT_EQ(w.group(a0).replace(*who, fresh).error(), Errno::Einval);
  EXPECT_TRUE(w.logged("cannot track what is written"));
  EXPECT_TRUE(w.group(a0).domain()->restored());
  EXPECT_EQ(w.hw_a.entries, entries_a);
  EXPECT_EQ(w.hw_b.entries, entries_b);
}

TEST_F(ReplaceTest, TableThatHardwareWalksAlreadyIsRefused) {
  auto fresh = rebuilt(w, a0, memory);
  ASSERT_TRUE(w.group(a2).claim(who));
  ASSERT_TRUE(w.group(a2).attach(*who, fresh));
  const auto entries = w.hw_a.entries;
  EXPECT_EQ(w.group(a0).replace(*who, fresh).error(), Errno::Einval);
  EXPECT_EQ(w.hw_a.entries, entries);
}

TEST_F(ReplaceTest, RestoredDomainsDoNotReplaceOneAnother) {
  ASSERT_TRUE(w.group(a1).claim_held(who, kSession, kToken + 1));
  EXPECT_EQ(w.group(a0).replace(*who, w.group(a1).domain()).error(), Errno::Eopnotsupp);
  auto fresh = rebuilt(w, a2, memory);
  ASSERT_TRUE(w.group(a2).claim(who));
  ASSERT_TRUE(w.group(a2).attach(*who, fresh));
  EXPECT_EQ(w.group(a2).replace(*who, w.group(a1).domain()).error(), Errno::Eopnotsupp);
  EXPECT_EQ(w.group(a2).domain(), fresh);
}

TEST_F(ReplaceTest, PreservedDomainsAreNotReplaced) {
  w.begin();
  ASSERT_TRUE(w.live->preserve_domain(*w.group(a0).domain(), kSession));
  EXPECT_EQ(w.group(a0).replace(*who, rebuilt(w, a0, memory)).error(), Errno::Ebusy);
  EXPECT_EQ(w.group(a0).domain()->table().top(), top);
}

TEST_F(ReplaceTest, LargerLeavesWithEqualResultsAreAccepted) {
  // Small leaves before the jump, one large one after it: what counts is where a device arrives.
  IommuWorld one;
  auto owner = one.owner();
  auto d = one.domain();
  one.attach(a0, owner, d);
  const Phys huge = *one.frames().alloc(9);
  ASSERT_TRUE(one.kho().preserve(huge, 9));
  for (u64 at = 0; at < kHugePageSize; at += kPageSize) {
    ASSERT_TRUE(d->map(Iova(kHugePageSize + at), huge + at, kPageSize, Access::ReadWrite));
  }
  one.begin();
  const u32 index = *one.live->preserve_domain(*d, kSession);
  ASSERT_TRUE(one.live->preserve_device(one.device(a0), *owner, kSession, kToken));
  static_cast<void>(owner.release());
  static_cast<void>(d.release());
  one.jump();
  owner = one.owner();
  ASSERT_TRUE(one.group(a0).claim_held(owner, kSession, kToken));
  auto fresh = one.domain();
  ASSERT_TRUE(fresh->map(Iova(kHugePageSize), huge, kHugePageSize, Access::ReadWrite));
  ASSERT_TRUE(one.group(a0).replace(*owner, fresh));
  EXPECT_EQ(fresh->leaf_at(Iova(kHugePageSize + 0x5000))->length, kHugePageSize);
  const Ref<PagingDomain> old = *one.live->reclaim_domain(index, kSession);
  EXPECT_EQ(old->attached_devices(), 0u);
}

TEST_F(ReplaceTest, OldTablesAreFreedOnlyAfterTheFlush) {
  Phys chunk;
  for (auto [base, order] : tables) {
    if (base != top) chunk = base;
  }
  u64 flushes = 0;
  const auto watch = [&](const std::string& what) {
    if (!what.starts_with("flush_domain")) return;
    ++flushes;
    EXPECT_TRUE(w.frames().in_use(chunk, kPageSize));
  };
  w.hw_a.on_call = w.hw_b.on_call = watch;
  ASSERT_TRUE(w.group(a0).replace(*who, rebuilt(w, a0, memory)));
  EXPECT_EQ(flushes, 2u);
  EXPECT_TRUE(w.frames().in_use(chunk, kPageSize)) << "the records still name the old domain";
  w.live->finish(w.data);
  EXPECT_FALSE(w.frames().in_use(chunk, kPageSize));
  EXPECT_TRUE(w.frames().in_use(top, kPageSize)) << "the top page went to the new one";
}

TEST_F(ReplaceTest, FlushThatFailsLeaksTheOldTablesAndQuarantinesThatUnit) {
  auto fresh = rebuilt(w, a0, memory);
  w.hw_b.fail_after["flush_domain"] = 0;
  EXPECT_EQ(w.group(a0).replace(*who, fresh).error(), Errno::Eio);
  expect_quarantined({b0});
  EXPECT_EQ(w.group(a0).domain(), fresh) << "unit A goes on with the new table";
  EXPECT_EQ(w.hw_a.entries, entries_a);
  w.live->finish(w.data);
  w.group(a0).release(*who);
  fresh = nullptr;
  expect_tables_with_nobody();
}

TEST_F(ReplaceTest, FinishedUpdateLeavesNothingThatNamesItsRecords) {
  ASSERT_TRUE(w.group(a0).replace(*who, rebuilt(w, a0, memory)));
  EXPECT_TRUE(w.live->retrieve(w.data));
  EXPECT_EQ(w.live->retrieve(w.data + kPageSize).error(), Errno::Einval);
  w.live->finish(w.data + kPageSize);
  EXPECT_NE(w.live->unit_record(kUnitA), nullptr) << "another update's end is not this one's";
  std::vector<Phys> pages{Phys(w.data)};
  Image image(w.handover.machine, w.data);
  for (const Image::Part& p : image.parts()) {
    if (p.what == Image::Part::What::Block) pages.push_back(w.handover.machine.phys(p.bytes.data()));
  }
  EXPECT_EQ(pages.size(), 5u);
  w.live->finish(w.data);
  for (Phys page : pages) {
    EXPECT_FALSE(w.frames().in_use(page, kPageSize));
    memset(w.handover.machine.virt(page), 0xee, kPageSize);
  }
  w.live->finish(w.data);  // once is enough
  EXPECT_EQ(w.live->unit_record(kUnitA), nullptr);
  ASSERT_TRUE(w.group(a1).claim_held(who, kSession, kToken + 1));
  ASSERT_TRUE(w.group(b0).claim_held(who, kSession, kToken));
  for (SourceId f : {a0, a1, b0}) w.group(f).release(*who);
  EXPECT_TRUE(w.hw_a.entries.empty() && w.hw_b.entries.empty());
}

}  // namespace
}  // namespace perdure::testing
