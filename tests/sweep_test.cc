// Every allocation from the first preserve to the freeze fails once: each time the update is refused, everything is as
// before, and devices have not noticed. In the end the update goes through.
#include <cstdio>

#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

using board::Phase;

struct State {
  FrameAllocator::Totals frames;
  u64 heap = 0;
  u64 preserved_keys = 0;
  bool operator==(const State&) const = default;
};

State state_of(InProcessRig& rig) {
  rig.kernel().heap().trim();
  return {rig.kernel().frames().totals(), rig.kernel().heap().bytes_in_use(),
          board::read_handover(rig.board().memory(), rig.kernel().kho().outgoing_fdt().value).keys};
}

TEST(AllocationSweep, FromPreserveToFreezeEverythingRollsBack) {
  InProcessRig rig(small_machine({.devices = 4}));
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.run_for(1'000'000);

  // One round that succeeds and is taken back, so that whatever is kept for good (nodes of the handover tree) is there.
  ASSERT_DONE(rig.preserve());
  rig.program().unpreserve();
  ASSERT_DONE(rig.kernel().kexec_load("b"));
  const State before = state_of(rig);

  rig.board().enter_phase(Phase::During);
  u64 points = 0;
  for (;; ++points) {
    rig.steps().fail_at = rig.steps().allocations + points + 1;
    const u64 first = rig.steps().allocations;
    const auto preserved = rig.preserve();
    // Freezing may allocate nothing that can fail for lack of memory once everything is preserved; the sweep goes on
    // over it all the same. The jump itself is made to fail, so that this kernel can be looked at.
    rig.machine().fail_jump(Errno::Enoexec);
    const auto left = preserved ? rig.kernel().kexec() : preserved;
    const bool hit = rig.steps().allocations >= rig.steps().fail_at;
    rig.steps().fail_at = 0;
    ASSERT_FALSE(left.has_value());
    rig.program().unpreserve();
    rig.take_problems();
    if (!hit) {
      EXPECT_EQ(left.error(), Errno::Enoexec) << "no allocation failed any more, so only the jump did";
      EXPECT_GT(rig.steps().allocations - first, 0U);
      break;
    }
    const State after = state_of(rig);
    ASSERT_EQ(after.heap, before.heap) << "leak after allocation " << points + 1 << " failed";
    ASSERT_EQ(after.frames, before.frames) << "frames lost after allocation " << points + 1 << " failed";
    ASSERT_EQ(after.preserved_keys, before.preserved_keys) << "keys left after allocation " << points + 1 << " failed";
  }
  std::printf("points: %llu allocations failed, each rolled back\n", static_cast<unsigned long long>(points));
  EXPECT_GT(points, 20U);
  ASSERT_DONE(rig.verify());
  expect_clean(rig, Phase::During);

  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.kexec("b"));
  ASSERT_DONE(rig.start_program(1));
  rig.run_for(1'000'000);
  expect_clean(rig, Phase::During);
  EXPECT_EQ(problems_of(rig), "");
}

// The jump fails after the freeze: everything thaws, and the next try succeeds.
TEST(FailedJump, AfterFreezeUnfreezes) {
  InProcessRig rig(small_machine({.devices = 4}));
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.run_for(1'000'000);
  rig.board().enter_phase(Phase::During);
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.kernel().kexec_load("b"));
  rig.machine().fail_jump(Errno::Enoexec);
  EXPECT_EQ(rig.kernel().kexec().error(), Errno::Enoexec);
  // Programs are served again: the session can be taken back, and made anew.
  rig.program().unpreserve();
  rig.run_for(1'000'000);
  ASSERT_DONE(rig.verify());
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.kexec("b"));
  ASSERT_DONE(rig.start_program(1));
  rig.run_for(1'000'000);
  expect_clean(rig, Phase::During);
  EXPECT_EQ(problems_of(rig), "");
}

}  // namespace
}  // namespace perdure::tool
