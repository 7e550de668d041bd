// The invalidation queue: protocol, descriptors, errors, recovery, waits.
#include "machine/board/iommu/iommu_fixture.h"

namespace perdure::board::testing {
namespace {

class Queue : public IommuTest {
 protected:
  static constexpr u32 kIqe = 1 << 4, kIte = 1 << 6;
  u64 head() { return model->read(0x80, 8); }
  u64 error_code() { return model->read(0xB0, 8) & 0xF; }
  void clear_status(u32 bits) { model->write(0x34, 4, bits); }
  // One descriptor alone must stop the queue with `code`.
  void expect_error(unsigned code, u64 q0, u64 q1, const IommuModelConfig& c = {}, bool wide = false) {
    SCOPED_TRACE(::testing::Message() << std::hex << q0 << ", " << q1);
    start(c);
    start_queue(0, wide);
    push(q0, q1);
    ring();
    EXPECT_TRUE(fsts() & kIqe);
    EXPECT_EQ(error_code(), code);
    EXPECT_EQ(head(), 0u);
    EXPECT_EQ(violations(ViolationKind::QueueError), 1u);
    EXPECT_EQ(model->violations().back().detail, code);
  }
};

TEST_F(Queue, WorkedDescriptorsOfTheSpecification) {
  start();
  start_queue();
  EXPECT_TRUE(submit(
      {{0x11, 0}, {0x000300FB00050031, 0}, {0xD2, 0}, {0x900B2, 0x12345043 & ~u64{0x40}}, {0x0000123410000014, 0}}));
  push(0xDEADBEEF00000065, kStatus);
  ring();
  EXPECT_EQ(memory.word32(kStatus), 0xDEADBEEFu);
  EXPECT_EQ(head(), 7u * 16);
  EXPECT_EQ(model->statistics().descriptors, 7u);
  // AM 3 wants an address aligned to eight pages; the worked value is not.
  EXPECT_EQ(violations(ViolationKind::BadFlushAddress), 1u);
  EXPECT_EQ(model->violation_count(), 1u);
}

TEST_F(Queue, GoesRoundAndUsesBothWidths) {
  for (bool wide : {false, true}) {
    IommuModelConfig c;
    c.scalable = wide;
    start(c);
    start_queue(wide ? 1 : 0, wide);
    for (unsigned i = 0; i < 600; ++i) ASSERT_TRUE(submit({{0x11, 0}})) << i;
    EXPECT_EQ(head(), 1200u * (wide ? 32 : 16) % (wide ? 8192 : 4096));
    expect_clean();
  }
}

TEST_F(Queue, HeadEqualsTailDoesNothing) {
  start();
  start_queue();
  model->write(0x88, 8, 0);
  EXPECT_EQ(fsts(), 0u);
  EXPECT_EQ(model->statistics().descriptors, 0u);
}

TEST_F(Queue, TailWrittenInHalves) {
  start();
  start_queue();
  push(0x100000025, kStatus);
  model->write(0x8C, 4, 0);
  EXPECT_EQ(memory.word32(kStatus), 0u);
  model->write(0x88, 4, 16);
  EXPECT_EQ(memory.word32(kStatus), 1u);
  model->write(0x8C, 4, 0);
  EXPECT_EQ(model->read(0x88, 8), 16u);
  EXPECT_EQ(fsts(), 0u);
}

// --- errors -----------------------------------------------------------------------------------------------------

TEST_F(Queue, BadTail) {
  start();
  start_queue();
  model->write(0x88, 8, 4096);
  EXPECT_TRUE(fsts() & kIqe);
  EXPECT_EQ(error_code(), 1u);
  IommuModelConfig c;
  c.scalable = true;
  start(c);
  start_queue(0, true);
  model->write(0x88, 8, 0x10);  // half a descriptor
  EXPECT_EQ(error_code(), 1u);
}

TEST_F(Queue, FetchError) {
  start();
  model->write(0x90, 8, 0x4000'0000);
  gcmd(kQie, true);
  EXPECT_EQ(violations(ViolationKind::IqaNotRam), 1u);
  model->write(0x88, 8, 16);
  EXPECT_TRUE(fsts() & kIqe);
  EXPECT_EQ(error_code(), 2u);
}

TEST_F(Queue, BadTypes) {
  expect_error(3, 0, 0);
  expect_error(3, 0xA, 0);
  expect_error(3, 0x211, 0);                     // extension bit of the type
  expect_error(3, 3 | u64{0x10} << 32, 0x1000);  // device TLB without ECAP.DT
  expect_error(3, 7 | 3 << 4, 0);                // PASID cache without scalable mode
  IommuModelConfig c;
  c.interrupt_remap = false;
  expect_error(3, 4, 0, c);
}

TEST_F(Queue, ReservedFields) {
  for (u64 q0 : {u64{0x01}, u64{0x51}, u64{0x1011}, u64{1} << 50 | 0x11}) expect_error(4, q0, 0);
  expect_error(4, 0x11, 1);
  for (u64 q0 : {u64{0x02}, u64{0x112}, u64{0x1012}, u64{1} << 32 | 0x12}) expect_error(4, q0, 0);
  expect_error(4, 0x32, 0x80);
  expect_error(4, 0x32, 19);  // AM beyond MAMV
  expect_error(4, 0x24, 0);
  expect_error(4, 0x14, 1);
  expect_error(4, 0x125, kStatus);
  expect_error(4, 0x25, kStatus | 2);
}

TEST_F(Queue, WideDescriptorsNeedScalableMode) {
  expect_error(5, 0x11, 0, {}, true);
  IommuModelConfig c;
  c.scalable = true;
  expect_error(5, 7 | 3 << 4, 0, c, false);  // PASID cache in a narrow queue
}

TEST_F(Queue, UpperHalfOfAWideDescriptorIsReserved) {
  IommuModelConfig c;
  c.scalable = true;
  start(c);
  start_queue(0, true);
  push(0x11, 0);
  memory.set(kQueue + 24, 1);
  ring();
  EXPECT_EQ(error_code(), 4u);
}

TEST_F(Queue, RecoveryByReplacingTheDescriptor) {
  start();
  start_queue();
  push(0x11, 0);
  push(0xF, 0);  // no such type
  push(0x700000025, kStatus);
  ring();
  EXPECT_TRUE(fsts() & kIqe);
  EXPECT_EQ(head(), 16u);
  EXPECT_EQ(memory.word32(kStatus), 0u);
  memory.set(kQueue + 16, 0x700000025);
  memory.set(kQueue + 24, kStatus);
  clear_status(kIqe);
  EXPECT_EQ(memory.word32(kStatus), 7u);
  EXPECT_EQ(head(), 48u);
  EXPECT_EQ(fsts(), 0u);
  EXPECT_EQ(error_code(), 0u);
}

TEST_F(Queue, ClearingWithoutRepairStopsAgain) {
  start();
  start_queue();
  push(0xF, 0);
  ring();
  clear_status(kIqe);
  EXPECT_TRUE(fsts() & kIqe);
  EXPECT_EQ(violations(ViolationKind::QueueError), 2u);
}

TEST_F(Queue, QemuWantsTheTailAgain) {
  IommuModelConfig c;
  c.quirks = IommuQuirks::qemu_7_2();
  start(c);
  start_queue();
  push(0xF, 0);
  ring();
  memory.set(kQueue, 0x700000025);
  memory.set(kQueue + 8, kStatus);
  clear_status(kIqe);
  EXPECT_EQ(memory.word32(kStatus), 0u);
  ring();
  EXPECT_EQ(memory.word32(kStatus), 7u);
}

TEST_F(Queue, InjectedErrorIsNoViolation) {
  start();
  start_queue();
  model->inject_queue_error(4);
  EXPECT_FALSE(submit({}));
  EXPECT_TRUE(fsts() & kIqe);
  EXPECT_EQ(error_code(), 4u);
  expect_clean();
  clear_status(kIqe);
  EXPECT_EQ(memory.word32(kStatus), 1u);
}

TEST_F(Queue, PoisonedQueueStops) {
  start();
  start_queue();
  push(kPoisonWord, kPoisonWord);
  ring();
  EXPECT_TRUE(fsts() & kIqe);
  EXPECT_EQ(violations(ViolationKind::Poison), 2u);
}

// --- device TLB ---------------------------------------------------------------------------------------------------

TEST_F(Queue, DeviceTlbSizes) {
  IommuModelConfig c;
  c.device_tlb = true;
  start(c);
  start_queue();
  const u64 d = 3 | u64{kDevice} << 32;
  EXPECT_TRUE(submit({{d, 0x5000}, {d, 0x4001}, {d, 0x9001}, {d, 0x7FFF'FFFF'FFFF'F001}}));
  using D = FakeEnvironment::DeviceTlb;
  EXPECT_EQ(environment.device_tlb,
            (std::vector<D>{
                {kDevice, 0x5000, 0x1000}, {kDevice, 0x4000, 0x2000}, {kDevice, 0x8000, 0x4000}, {kDevice, 0, 0}}));
  expect_clean();
}

TEST_F(Queue, DeviceTlbTimeoutAbortsTheWait) {
  IommuModelConfig c;
  c.device_tlb = true;
  start(c);
  start_queue();
  model->inject_device_tlb_timeout(kSibling);
  const u64 to_device = 3 | u64{kDevice} << 32;
  const u64 to_sibling = 3 | u64{kSibling} << 32;
  EXPECT_TRUE(submit({{to_device, 0x1000}}));
  EXPECT_FALSE(submit({{to_sibling, 0x1000}}));
  EXPECT_TRUE(fsts() & kIte);
  EXPECT_EQ((model->read(0xB0, 8) >> 32) & 0xFFFF, u64{kSibling});
  EXPECT_FALSE(submit({}));  // nothing is fetched meanwhile
  clear_status(kIte);
  EXPECT_EQ(memory.word32(kStatus), 3u);
  EXPECT_TRUE(submit({{to_sibling, 0x1000}}));
}

// --- enabling and disabling -----------------------------------------------------------------------------------------

TEST_F(Queue, TailMustBeZeroAtEnable) {
  start();
  start_queue();
  submit({});
  gcmd(kQie, false);
  EXPECT_EQ(head(), 0u);
  EXPECT_EQ(model->read(0x88, 8), 16u);  // survives
  memory.set(kQueue, 0);
  gcmd(kQie, true);
  EXPECT_EQ(violations(ViolationKind::IqtAtEnable), 1u);
  EXPECT_TRUE(fsts() & kIqe);  // and runs into what is not there
}

TEST_F(Queue, AddressIsFixedWhileEnabled) {
  start();
  start_queue();
  model->write(0x90, 8, kQueue + 0x1000);
  EXPECT_EQ(violations(ViolationKind::IqaWhileEnabled), 1u);
  EXPECT_EQ(model->read(0x90, 8), kQueue);
  EXPECT_TRUE(submit({}));
}

TEST_F(Queue, DisableBehindAWaitIsClean) {
  start();
  start_queue();
  EXPECT_TRUE(submit({{0x11, 0}}));
  gcmd(kQie, false);
  EXPECT_EQ(gsts() & kQie, 0u);
  start_queue();
  gcmd(kQie, false);  // nothing was ever queued this time
  EXPECT_EQ(gsts() & kQie, 0u);
  expect_clean();
}

TEST_F(Queue, DisableBehindSomethingElse) {
  start();
  start_queue();
  push(0x11, 0);
  ring();
  gcmd(kQie, false);
  EXPECT_EQ(violations(ViolationKind::QiDisableAfterWork), 1u);
  EXPECT_EQ(gsts() & kQie, 0u);
}

TEST_F(Queue, DisableWhenStoppedIsTheWayOut) {
  start();
  start_queue();
  push(0x11, 0);
  push(0xF, 0);
  push(0x100000025, kStatus);
  ring();
  EXPECT_TRUE(fsts() & kIqe);
  gcmd(kQie, false);
  EXPECT_EQ(gsts() & kQie, 0u);
  EXPECT_EQ(model->violation_count(), 1u);  // the error itself
  clear_status(kIqe);
  start_queue();
  EXPECT_TRUE(submit({}));
}

TEST_F(Queue, DisableWhileBusy) {
  IommuModelConfig c;
  c.delay = {5, 5};
  c.step_on_access = false;
  start(c);
  start_queue();
  push(0x100000025, kStatus);
  ring();
  model->write(0x18, 4, 0);
  for (int i = 0; i < 5; ++i) model->step();
  model->write(0x88, 8, 32);
  for (int i = 0; i < 3; ++i) model->step();
  EXPECT_EQ(violations(ViolationKind::QiDisableBusy), 1u);
}

TEST_F(Queue, QemuRefusesToDisableWithoutAWait) {
  IommuModelConfig c;
  c.quirks = IommuQuirks::qemu_7_2();
  start(c);
  start_queue();
  gcmd(kQie, false);
  EXPECT_TRUE(gsts() & kQie);  // nothing processed since reset
  EXPECT_EQ(violations(ViolationKind::QiDisableAfterWork), 1u);
  push(0x11, 0);
  ring();
  gcmd(kQie, false);
  EXPECT_TRUE(gsts() & kQie);
  EXPECT_TRUE(submit({}));
  gcmd(kQie, false);
  EXPECT_EQ(gsts() & kQie, 0u);
  start_queue();
  gcmd(kQie, false);  // it remembers the wait of before
  EXPECT_EQ(gsts() & kQie, 0u);
}

TEST_F(Queue, QemuHidesTheWidth) {
  for (bool quirk : {false, true}) {
    IommuModelConfig c;
    c.quirks.iqa_dw_unreadable = quirk;
    start(c);
    model->write(0x90, 8, kQueue | 0x801);
    EXPECT_EQ(model->read(0x90, 8), kQueue | (quirk ? 1 : 0x801));
    model->write(0x94, 4, 1);  // the other half keeps what was written, read back or not
    EXPECT_EQ(model->read(0x94, 4), 1u);
    EXPECT_EQ(model->read(0x90, 4) & 0x800, quirk ? 0u : 0x800u);
  }
}

TEST_F(Queue, QemuShowsTheBaseInUse) {
  for (bool quirk : {false, true}) {
    IommuModelConfig c;
    c.quirks.iqa_base_latched = quirk;
    start(c);
    model->write(0x90, 8, kQueue | 1);
    EXPECT_EQ(model->read(0x90, 8), (quirk ? 0 : kQueue) | 1);
    start_queue();
    EXPECT_EQ(model->read(0x90, 8) & ~u64{0xFFF}, kQueue);
    EXPECT_TRUE(submit({}));
    gcmd(kQie, false);
    model->write(0x90, 8, kQueue + 0x1000);
    EXPECT_EQ(model->read(0x90, 8), quirk ? kQueue : kQueue + 0x1000);
  }
}

TEST_F(Queue, ReplacedWhileTranslating) {
  start_translating();
  const u64 top = page();
  set_context(kDevice, top, 5);
  map(top, 0x1000, 0xA000);
  start_queue();
  EXPECT_TRUE(submit({}));
  gcmd(kQie, false);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  start_queue();
  EXPECT_TRUE(flush_iotlb_global());
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  EXPECT_TRUE(model->gaps().empty());
  expect_clean();
}

// --- waits
// ------------------------------------------------------------------------------------------------------------

TEST_F(Queue, WaitStatusOutsideRam) {
  start();
  start_queue();
  push(0x100000025, 0x4000'0000);
  ring();
  EXPECT_EQ(violations(ViolationKind::WaitStatusNotRam), 1u);
}

TEST_F(Queue, WaitStatusInAFreedFrame) {
  start();
  start_queue();
  memory.forbidden_pages.insert(kStatus >> 12);
  EXPECT_TRUE(submit({}));
  EXPECT_EQ(violations(ViolationKind::TableNotUsable), 1u);
}

TEST_F(Queue, StatusAndEventTogether) {
  start();
  start_queue();
  push(0x100000035, kStatus);
  ring();
  EXPECT_EQ(violations(ViolationKind::WaitStatusAndEvent), 1u);
  EXPECT_EQ(memory.word32(kStatus), 1u);
  EXPECT_EQ(model->read(0x9C, 4), 1u);
}

TEST_F(Queue, PageRequestDrainIsReservedInQemu) {
  start();
  start_queue();
  push(0x1000000A5, kStatus);
  ring();
  EXPECT_EQ(memory.word32(kStatus), 1u);
  IommuModelConfig c;
  c.quirks.wait_pd_reserved = true;
  expect_error(4, 0x1000000A5, kStatus, c);
}

TEST_F(Queue, TakesItsTime) {
  IommuModelConfig c;
  c.delay = {3, 3};
  c.step_on_access = false;
  start(c);
  start_queue();
  push(0x11, 0);
  push(0x100000025, kStatus);
  ring();
  unsigned steps = 0;
  while (memory.word32(kStatus) == 0 && steps < 100) {
    model->step();
    ++steps;
  }
  EXPECT_EQ(steps, 12u);  // three operations: flush, wait taken, wait done; four steps each
  EXPECT_FALSE(model->step());
  EXPECT_TRUE(model->idle());
}

TEST_F(Queue, DelaysFollowTheSeed) {
  const auto run = [&](u64 seed) {
    IommuModelConfig c;
    c.delay = {0, 9};
    c.seed = seed;
    c.step_on_access = false;
    memory.set(kStatus, 0);
    start(c);
    start_queue();
    push(0x100000025, kStatus);
    ring();
    unsigned steps = 0;
    for (; memory.word32(kStatus) == 0 && steps < 100; ++steps) model->step();
    return steps;
  };
  const unsigned a = run(1);
  EXPECT_EQ(run(1), a);
  std::set<unsigned> different;
  for (u64 seed = 0; seed < 20; ++seed) different.insert(run(seed));
  EXPECT_GT(different.size(), 3u);
}

TEST_F(Queue, AccessesAreSteps) {
  IommuModelConfig c;
  c.delay = {2, 2};
  start(c);
  start_queue();
  push(0x100000025, kStatus);
  ring();
  unsigned polls = 0;
  for (; memory.word32(kStatus) == 0 && polls < 100; ++polls) model->read(0x34, 4);
  EXPECT_LT(polls, 100u);
}

}  // namespace
}  // namespace perdure::board::testing
