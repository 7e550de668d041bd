#include "core/vtd/invalidation_queue.h"

#include "core/vtd/testing/scripted_unit.h"

namespace perdure::vtd {
namespace {

struct QueueTest : testing::TestWithParam<bool> {
  QueueTest() {
    const Extent ram{Phys(0), machine.window};
    EXPECT_TRUE(frames.init({&ram, 1}, {}, {}));
    frames.open();
    memory = *InvalidationQueue::allocate(frames, GetParam());
  }
  ~QueueTest() override { InvalidationQueue::release(frames, memory); }

  test::TestMachine machine;
  test::ScriptedUnit unit{machine};
  FrameAllocator frames{machine};
  RegisterFile registers{machine, Phys(test::ScriptedUnit::kBase), 1'000'000};
  HwWriter writer{machine, true};
  QueueMemory memory;
  InvalidationQueue queue{registers, writer};
};

TEST_P(QueueTest, StartsInTheOrderThatHardwareDemands) {
  unit.gsts = 1u << 31 | 1u << 30;  // a live unit: the rest of GSTS must survive
  unit.iqt = 0x40;                  // stale
  ASSERT_TRUE(queue.start(memory));
  EXPECT_TRUE(queue.alive());
  ASSERT_EQ(unit.events.size(), 3u);
  EXPECT_EQ(unit.events[0].at, 0x88u);
  EXPECT_EQ(unit.events[0].value, 0u);
  EXPECT_EQ(unit.events[1].at, 0x90u);
  EXPECT_EQ(unit.events[1].value, memory.base.value | (GetParam() ? 0x801 : 0));
  EXPECT_EQ(unit.events[2].at, 0x18u);
  EXPECT_EQ(unit.events[2].value, 0x8400'0000u);
  EXPECT_FALSE(unit.te_dropped);
}

TEST_P(QueueTest, GoesRoundManyTimes) {
  ASSERT_TRUE(queue.start(memory));
  for (u32 i = 0; i < 1000; ++i) {
    const Descriptor batch[] = {InvalidateContext(i, 0x10), InvalidateIotlb({true, true}, i)};
    ASSERT_TRUE(queue.submit(batch));
  }
  ASSERT_EQ(unit.descriptors.size(), 2000u);
  EXPECT_EQ(unit.waits, 1000u);
  for (u32 i = 0; i < 1000; ++i) {
    EXPECT_EQ(unit.descriptors[2 * i], InvalidateContext(i, 0x10).word[0]);
    EXPECT_EQ(unit.descriptors[2 * i + 1], InvalidateIotlb({true, true}, i).word[0]);
  }
  ASSERT_TRUE(queue.stop());
  EXPECT_FALSE(queue.alive());
  EXPECT_EQ(unit.gsts & 1u << 26, 0u);
}

TEST_P(QueueTest, DescriptorsAreThereBeforeTheTailMoves) {
  ASSERT_TRUE(queue.start(memory));
  unit.forget();
  ASSERT_TRUE(queue.submit({}));
  ASSERT_FALSE(unit.events.empty());
  EXPECT_EQ(unit.events.back().at, 0x88u);
  for (usize i = 0; i + 1 < unit.events.size(); ++i) {
    EXPECT_EQ(unit.events[i].kind, test::ScriptedUnit::Event::Kind::Memory);
  }
}

TEST_P(QueueTest, AUnitThatDoesNotAnswerIsDeadForGood) {
  ASSERT_TRUE(queue.start(memory));
  unit.queue_dead = true;
  EXPECT_EQ(queue.submit({}).error(), Errno::Eio);
  EXPECT_FALSE(queue.alive());
  unit.queue_dead = false;
  const usize before = unit.events.size();
  EXPECT_EQ(queue.submit({}).error(), Errno::Eio);
  EXPECT_EQ(queue.stop().error(), Errno::Eio);
  EXPECT_EQ(unit.events.size(), before) << "a dead queue is not touched";
  ASSERT_FALSE(machine.lines.empty());
  EXPECT_NE(machine.lines.back().find("does not answer"), std::string::npos);
}

TEST_P(QueueTest, GoesOnAfterARefusedDescriptor) {
  for (const bool tail_write : {false, true}) {
    SCOPED_TRACE(tail_write);
    InvalidationQueue q(registers, writer);
    unit.tail_write_resumes = tail_write;
    std::memset(machine.virt(memory.base), 0, kPageSize << memory.order);
    ASSERT_TRUE(q.start(memory));
    const Descriptor batch[] = {InvalidateContext(2), InvalidateIotlb({true, true}, 2)};
    // Each place in the batch, the wait included.
    for (unsigned at = 0; at < 3; ++at) {
      unit.forget();
      unit.refuse = 1;
      unit.refuse_at = at;
      ASSERT_TRUE(q.submit(batch)) << at;
      EXPECT_TRUE(q.alive());
      EXPECT_EQ(unit.fsts & 0x70, 0u);
      // Submitted whole again: what came before the refused one was done twice.
      EXPECT_EQ(unit.descriptors.size(), at == 2 ? 4u : 3u);
      EXPECT_EQ(unit.descriptors.back(), batch[1].word[0]);
    }
    ASSERT_TRUE(q.stop());
  }
}

TEST_P(QueueTest, ABatchThatIsRefusedAgainAndAgainKillsTheUnit) {
  ASSERT_TRUE(queue.start(memory));
  unit.refuse = 1000;
  EXPECT_EQ(queue.submit(std::vector<Descriptor>{InvalidateContext(2)}).error(), Errno::Eio);
  EXPECT_FALSE(queue.alive());
}

TEST_P(QueueTest, LostWaitsAreSubmittedAgain) {
  ASSERT_TRUE(queue.start(memory));
  unit.drop_waits = 2;
  ASSERT_TRUE(queue.submit(std::vector<Descriptor>{InvalidateContext(2)}));
  EXPECT_EQ(unit.descriptors.size(), 3u);
  EXPECT_EQ(unit.fsts & 0x70, 0u);
}

TEST_P(QueueTest, TakesOverAQueueWhereItStands) {
  ASSERT_TRUE(queue.start(memory));
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(queue.submit({}));
  const u64 tail = unit.iqt;
  InvalidationQueue successor(registers, writer);
  ASSERT_TRUE(successor.take_over(memory));
  ASSERT_TRUE(successor.submit({}));
  EXPECT_EQ(unit.iqt, tail + (GetParam() ? 32 : 16));
  ASSERT_TRUE(successor.stop());
}

TEST_P(QueueTest, RefusesToTakeOverAQueueThatIsNotEmptyOrNotThere) {
  ASSERT_TRUE(queue.start(memory));
  unit.iqt = 0x40;
  InvalidationQueue successor(registers, writer);
  EXPECT_EQ(successor.take_over(memory).error(), Errno::Eio);
  unit.iqt = unit.iqh = kPageSize << memory.order;
  EXPECT_EQ(successor.take_over(memory).error(), Errno::Eio);
  EXPECT_FALSE(successor.alive());
}

TEST_P(QueueTest, AStuckStatusBitTimesOut) {
  unit.stuck = 1u << 26;
  EXPECT_EQ(queue.start(memory).error(), Errno::Etimedout);
  EXPECT_FALSE(queue.alive());
}

TEST_P(QueueTest, WritesDescriptorsBackForAUnitThatDoesNotSnoop) {
  InvalidationQueue q(registers, HwWriter(machine, false));
  ASSERT_TRUE(q.start(memory));
  for (u64 at = 0; at < kPageSize << memory.order; at += 64) {
    EXPECT_TRUE(unit.visible.contains(memory.base.value + at));
  }
  unit.visible.clear();
  ASSERT_TRUE(q.submit({}));
  EXPECT_TRUE(unit.visible.contains(memory.base.value));
}

INSTANTIATE_TEST_SUITE_P(Widths, QueueTest, testing::Bool(), [](const auto& p) { return p.param ? "wide" : "narrow"; });

}  // namespace
}  // namespace perdure::vtd
