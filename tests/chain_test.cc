// Many updates in a row on one machine, devices served by threads in real time, kernels alternating.
#include <cstdlib>

#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

using board::Phase;

unsigned hops() {
  const char* wanted = std::getenv("PERDURE_HOPS");
  return wanted ? static_cast<unsigned>(std::atoi(wanted)) : 200;
}

TEST(Chain, NothingIsLostAndNothingLeaks) {
  RigConfig config = small_machine({.devices = 4});
  config.plan.rate = 20'000;
  InProcessRig rig(config);
  rig.steps().step = false;
  rig.board().start();
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.board().enter_phase(Phase::During);
  std::optional<FrameAllocator::Totals> totals;
  std::optional<u64> heap;
  const unsigned n = hops();
  for (u32 hop = 1; hop <= n; ++hop) {
    SCOPED_TRACE("hop " + std::to_string(hop) + "; repeat with PERDURE_HOPS=" + std::to_string(hop));
    rig.run_for(1'000'000);
    ASSERT_DONE(rig.preserve());
    ASSERT_DONE(rig.kexec(hop % 2 == 1 ? "b" : "a"));
    ASSERT_DONE(rig.start_program(hop));
    ASSERT_DONE(rig.verify());
    // The same point of every second life: the two kernels may differ from each other, but not from themselves.
    if (hop % 2 == 0) {
      rig.kernel().heap().trim();
      const FrameAllocator::Totals now = rig.kernel().frames().totals();
      if (totals) {
        ASSERT_EQ(now, *totals);
        ASSERT_EQ(rig.kernel().heap().bytes_in_use(), *heap);
      }
      if (hop >= 4) {
        totals = now;
        heap = rig.kernel().heap().bytes_in_use();
      }
    }
  }
  rig.run_for(5'000'000);
  ASSERT_DONE(rig.verify());
  expect_clean(rig, Phase::During);
  EXPECT_EQ(problems_of(rig), "");
}

}  // namespace
}  // namespace perdure::tool
