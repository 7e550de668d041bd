#include "core/vtd/faults.h"

#include "core/vtd/testing/scripted_unit.h"

namespace perdure::vtd {
namespace {

struct Collector final : FaultListener {
  void on_fault(const Fault& fault) override { faults.push_back(fault); }
  std::vector<Fault> faults;
};

struct FaultLogTest : testing::Test {
  void with_records(unsigned n) {
    unit.cap = (unit.cap & ~(u64{0xff} << 40)) | u64{n - 1} << 40;
    unit.records.assign(n, {});
  }
  FaultLog make() { return FaultLog(registers, 0, unit.cap, &collector); }
  test::TestMachine machine;
  test::ScriptedUnit unit{machine};
  RegisterFile registers{machine, Phys(test::ScriptedUnit::kBase), 1'000'000};
  Collector collector;
};

TEST_F(FaultLogTest, ReadsRecordsInOrderOfArrivalAndClearsThem) {
  with_records(4);
  // The ring begins where FRI says.
  unit.record_fault(3, 0x1000, 0x0008, 6, true);
  unit.record_fault(0, 0x2000, 0x0010, 5, false);
  unit.record_fault(1, 0x3000, 0x0018, 2, false);
  FaultLog log = make();
  log.drain();
  ASSERT_EQ(collector.faults.size(), 3u);
  EXPECT_EQ(collector.faults[0].iova, Iova(0x1000));
  EXPECT_EQ(collector.faults[0].source.bdf, 0x0008);
  EXPECT_EQ(collector.faults[0].kind, FaultKind::Read);
  EXPECT_EQ(collector.faults[0].reason, 6);
  EXPECT_EQ(collector.faults[1].kind, FaultKind::Write);
  EXPECT_EQ(collector.faults[2].reason, 2);
  EXPECT_EQ(unit.fsts & 3, 0u);
  EXPECT_EQ(log.reported(), 3u);
}

TEST_F(FaultLogTest, ClearsTheOverflowLastAndCountsIt) {
  unit.record_fault(0, 0x1000, 0x0008, 6, true);
  unit.fsts |= 1;
  FaultLog log = make();
  log.drain();
  EXPECT_EQ(log.overflows(), 1u);
  EXPECT_EQ(unit.fsts & 3, 0u);
  ASSERT_GE(unit.events.size(), 2u);
  EXPECT_EQ(unit.events[0].at, 0x22cu);  // F of record 0
  EXPECT_EQ(unit.events[1].at, 0x34u);   // PFO
}

TEST_F(FaultLogTest, ProgramsTheEventOnlyWhileMasked) {
  FaultLog log = make();
  log.arm();
  std::vector<u64> order;
  for (const auto& e : unit.events) {
    EXPECT_EQ(e.width, Width::W32);
    order.push_back(e.at);
  }
  EXPECT_EQ(order, (std::vector<u64>{0x38, 0x3c, 0x40, 0x44, 0x38}));
  EXPECT_EQ(unit.writes_to(0x38), (std::vector<u64>{0x8000'0000, 0}));
  EXPECT_EQ(unit.other[0x3c], 0x4041u);
  EXPECT_EQ(unit.other[0x40], 0xfee0'1000u);
  EXPECT_EQ(unit.other[0x44], 1u);
  // The interrupt drains.
  unit.record_fault(0, 0x1000, 0x0008, 6, true);
  unit.sink->raise();
  EXPECT_EQ(collector.faults.size(), 1u);
  EXPECT_FALSE(collector.faults[0].inherited);
  log.disarm();
  EXPECT_EQ(unit.other[0x38], 0x8000'0000u);
  EXPECT_EQ(unit.sink, nullptr);
}

TEST_F(FaultLogTest, ReportsWhatWasThereBeforeAsInherited) {
  unit.record_fault(0, 0x1000, 0x0008, 6, true);
  FaultLog log = make();
  log.arm();
  ASSERT_EQ(collector.faults.size(), 1u);
  EXPECT_TRUE(collector.faults[0].inherited);
}

TEST_F(FaultLogTest, WithoutAnInterruptTheEventStaysMasked) {
  unit.grant_interrupts = false;
  FaultLog log = make();
  log.arm();
  EXPECT_EQ(unit.other[0x38], 0x8000'0000u);
  unit.record_fault(0, 0x1000, 0x0008, 6, true);
  log.drain();
  EXPECT_EQ(collector.faults.size(), 1u);
}

TEST_F(FaultLogTest, AFaultDuringTheDrainIsSeenByIt) {
  // The listener is where the next fault and its interrupt come in.
  struct Nested final : FaultListener {
    void on_fault(const Fault&) override {
      ++seen;
      if (seen < 3) {
        unit->record_fault(0, 0x1000, 0x0008, 6, true);
        unit->sink->raise();
      }
    }
    test::ScriptedUnit* unit = nullptr;
    int seen = 0;
  } nested;
  nested.unit = &unit;
  FaultLog log(registers, 0, unit.cap, &nested);
  log.arm();
  unit.record_fault(0, 0x1000, 0x0008, 6, true);
  unit.sink->raise();
  EXPECT_EQ(nested.seen, 3);
}

TEST_F(FaultLogTest, AFaultStormEndsWithTheEventMaskedUntilItIsOver) {
  struct Storm final : FaultListener {
    void on_fault(const Fault&) override {
      if (!on) return;
      unit->record_fault(0, 0x1000, 0x0008, 6, true);
      unit->sink->raise();
    }
    test::ScriptedUnit* unit = nullptr;
    bool on = true;
  } storm;
  storm.unit = &unit;
  FaultLog log(registers, 0, unit.cap, &storm);
  log.arm();
  unit.record_fault(0, 0x1000, 0x0008, 6, true);
  unit.sink->raise();
  EXPECT_TRUE(log.storming());
  EXPECT_EQ(unit.other[0x38], 0x8000'0000u);
  EXPECT_LT(log.reported(), 100u);
  log.drain();
  EXPECT_TRUE(log.storming()) << "still on";
  storm.on = false;
  log.drain();
  EXPECT_FALSE(log.storming());
  EXPECT_EQ(unit.other[0x38], 0u);
  // Not when it is masked for the jump.
  storm.on = true;
  unit.record_fault(0, 0x1000, 0x0008, 6, true);
  unit.sink->raise();
  log.mask();
  storm.on = false;
  log.drain();
  EXPECT_EQ(unit.other[0x38], 0x8000'0000u);
}

TEST_F(FaultLogTest, ADeviceThatAlwaysFaultsDoesNotFillTheLog) {
  FaultLog log = make();
  for (int i = 0; i < 1000; ++i) {
    unit.record_fault(0, 0x1000, 0x0008, 6, true);
    log.drain();
  }
  EXPECT_EQ(log.reported(), 1000u);
  EXPECT_EQ(collector.faults.size(), 1000u);
  EXPECT_LT(machine.lines.size(), 32u);
  EXPECT_NE(machine.lines[0].find("no read permission"), std::string::npos) << machine.lines[0];
}

}  // namespace
}  // namespace perdure::vtd
