// The CPU stops for good after every single store that hardware may look at and every register access of an update:
// whatever is in memory and registers then is what devices go on with, for ever. None of these states may lose, corrupt
// or misdirect a transfer, none may break a rule of the hardware, and a kernel that is started next, with nothing
// handed over, must be able to block everything from there.
#include <csetjmp>

#include "tests/sweep.h"

namespace perdure::tool {
namespace {

class KillSweep : public testing::TestWithParam<Tables> {
 protected:
  using Step = void (*)(SweepRun&);

  // Runs it up to and including the deed of this number, after which nothing of this kernel happens any more: no undo,
  // no destructor. False when it ended before.
  static bool killed_after(SweepRun& run, u64 deed, Step step) {
    static std::jmp_buf the_end;
    run.rig.steps().stop_after(deed, [] { std::longjmp(the_end, 1); });
    if (setjmp(the_end) == 0) {
      step(run);
      return false;
    }
    run.rig.die();
    return true;
  }

  // Everything that was killed in the middle of `step`, once after each deed.
  static void sweep(const std::string& what, Step before, Step step) {
    const RigConfig config = sweep_machine(scenarios::Take::Replace, GetParam());
    const auto [from, to] = SweepRun::count(&process::BoardSteps::deeds, before, step, config);
    Tally tally("stores and register accesses of a kernel that " + what + ", " + tables_name(GetParam()));
    for (u64 point : sweep_points(from, to, GetParam())) {
      SCOPED_TRACE(again_at(point));
      SweepRun run(config);
      before(run);
      ASSERT_TRUE(killed_after(run, point, step));
      EXPECT_EQ(run.judge(), std::set<usize>{}) << "devices go on as if nothing had happened";
      // Somebody starts a kernel that knows nothing: it finds translation on, and stops everything.
      ASSERT_DONE_BY(run, run.rig.power_on("a"));
      EXPECT_EQ(run.stopped().size(), 3U);
      EXPECT_TRUE(run.translating()) << "blocked, not let loose";
      tally.count("were the last ones");
    }
  }
};

TEST_P(KillSweep, WhilePreservingAndFreezing) {
  sweep(
      "preserves and freezes", [](SweepRun& run) { run.stream(); },
      [](SweepRun& run) {
        (void)run.rig.preserve();
        (void)run.rig.kernel().kexec_load("b");
        run.rig.machine().fail_jump(Errno::Enoexec);
        (void)run.rig.kernel().kexec();
      });
}

TEST_P(KillSweep, WhileBooting) {
  sweep("takes over", [](SweepRun& run) { run.leave(); }, [](SweepRun& run) { (void)run.rig.arrive(); });
}

TEST_P(KillSweep, WhileAProgramReturns) {
  sweep(
      "serves a returning program", [](SweepRun& run) { run.arrive(); },
      [](SweepRun& run) { (void)run.rig.start_program(1); });
}

INSTANTIATE_TEST_SUITE_P(Modes, KillSweep, testing::ValuesIn(kSweptTables),
                         [](const auto& of) { return of.param == Tables::Legacy ? "Legacy" : "Scalable"; });

}  // namespace
}  // namespace perdure::tool
