// Every allocation of an update fails once. Before the jump the update is refused, everything is as before, and devices
// have not noticed; after it the call can be made again, or what it was about stays held: devices go on in any case.
#include "tests/sweep.h"

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

// In the first kernel, and in a second one with restored page tables, replaced and kept.
void preserve_to_freeze(const RigConfig& config, bool second_kernel) {
  SweepRun run(config);
  InProcessRig& rig = run.rig;
  second_kernel ? run.come_back() : run.stream();
  const char* const next = second_kernel ? "a" : "b";

  // One round that succeeds and is taken back, so that whatever is kept for good (nodes of the handover tree) is there.
  ASSERT_DONE(rig.preserve());
  rig.program().unpreserve();
  ASSERT_DONE(rig.kernel().kexec_load(next));
  const State before = state_of(rig);

  u64 points = 0;
  for (;; ++points) {
    SCOPED_TRACE("allocation " + std::to_string(points + 1));
    const u64 first = rig.steps().allocations;
    rig.steps().fail_at = first + points + 1;
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
    ASSERT_EQ(after.heap, before.heap) << "leak";
    ASSERT_EQ(after.frames, before.frames) << "frames lost";
    ASSERT_EQ(after.preserved_keys, before.preserved_keys) << "keys left";
  }
  std::printf("points: %llu allocations failed, each rolled back\n", static_cast<unsigned long long>(points));
  EXPECT_GT(points, 20U);
  ASSERT_DONE(rig.verify());
  EXPECT_EQ(run.judge(), std::set<usize>{});

  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.kexec(next));
  ASSERT_DONE(rig.start_program(second_kernel ? 2 : 1));
  EXPECT_EQ(run.judge(), std::set<usize>{});
  EXPECT_EQ(problems_of(rig), "");
}

TEST(AllocationSweep, FromPreserveToFreezeEverythingRollsBack) {
  preserve_to_freeze(sweep_machine(), false);
}

// PASID directories and tables besides.
TEST(AllocationSweep, FromPreserveToFreezeInScalableMode) {
  preserve_to_freeze(sweep_machine(scenarios::Take::Replace, Tables::SecondStage), false);
}

TEST(AllocationSweep, FromPreserveToFreezeWithRestoredPageTables) {
  for (const scenarios::Take take : kTakes) {
    SCOPED_TRACE("page tables " + take_name(take));
    preserve_to_freeze(sweep_machine(take), true);
  }
}

// A program that makes a call again when there was no memory for it. What it retrieves is lost after one failure, as in
// Linux (kho-luo §6, row 6).
class Patient final : public process::LocalProgram {
 public:
  using LocalProgram::LocalProgram;
  Result<s32> open(std::string_view path) override {
    return again([&] { return LocalProgram::open(path); });
  }
  Result<u64> ioctl(s32 fd, u32 cmd, void* arg) override {
    return again([&] { return LocalProgram::ioctl(fd, cmd, arg); });
  }

 private:
  template <class Call>
  auto again(Call call) -> decltype(call()) {
    auto result = call();
    return !result && result.error() == Errno::Enomem ? call() : result;
  }
};

// A kernel without memory for its own parts gives up, and devices run on through tables that nobody touches. Without
// memory for a unit, a domain or a device it comes up, and at most that unit or that domain is blocked.
void boot_of_the_new_kernel(Tables tables) {
  const RigConfig config = sweep_machine(scenarios::Take::Replace, tables);
  const auto [from, to] = SweepRun::count(
      &process::BoardSteps::allocations, [](SweepRun& run) { run.leave(); },
      [](SweepRun& run) { ASSERT_DONE_BY(run, run.rig.arrive()); }, config);
  Tally tally("allocations of a boot failed, " + tables_name(tables));
  for (u64 point : sweep_points(from, to, tables)) {
    SCOPED_TRACE(again_at(point));
    SweepRun run(config);
    run.leave();
    run.rig.steps().fail_at = point;
    const auto booted = run.rig.arrive();
    const std::set<usize> stopped = run.judge();
    if (!booted) {
      EXPECT_EQ(booted.error(), Errno::Enomem);
      EXPECT_TRUE(run.said("cannot run here")) << "a kernel that gives up says so";
      EXPECT_EQ(stopped, std::set<usize>{});
      tally.count("kernel gave up");
      continue;
    }
    EXPECT_TRUE(stopped.empty() || stopped == run.behind_unit(0) || stopped == run.behind_unit(1) ||
                stopped == run.of_domain(0) || stopped == run.of_domain(1))
        << testing::PrintToString(stopped);
    tally.count(stopped.empty() ? "nothing lost" : "unit or domain blocked");
  }
}

TEST(AllocationSweep, BootOfTheNewKernel) {
  boot_of_the_new_kernel(Tables::Legacy);
}
TEST(AllocationSweep, BootOfTheNewKernelInScalableMode) {
  boot_of_the_new_kernel(Tables::SecondStage);
}

// A call that finds no memory changes nothing: made again it succeeds, and nothing is missing in the end. What could
// not be retrieved is lost to its program, but its devices go on, and no further update is made over their heads.
void return_of_the_program(Tables tables) {
  for (const scenarios::Take take : kTakes) {
    const RigConfig config = sweep_machine(take, tables);
    const auto [from, to] = SweepRun::count(
        &process::BoardSteps::allocations, [](SweepRun& run) { run.arrive(); },
        [](SweepRun& run) { ASSERT_DONE_BY(run, run.rig.start_program(1)); }, config);
    Tally tally("allocations of a return failed, page tables " + take_name(take) + ", " + tables_name(tables));
    for (u64 point : sweep_points(from, to, tables)) {
      SCOPED_TRACE(again_at(point) + ", page tables " + take_name(take));
      SweepRun run(config);
      run.arrive();
      run.rig.set_program_maker([](auto&... a) { return std::make_unique<Patient>(a...); });
      run.rig.steps().fail_at = point;
      const auto back = run.rig.start_program(1);
      run.rig.steps().fail_at = 0;
      EXPECT_EQ(run.judge(), std::set<usize>{});
      if (back) {
        run.rig.take_problems();
        ASSERT_DONE_BY(run, run.rig.verify());
        ASSERT_DONE_BY(run, run.rig.preserve());
        ASSERT_DONE_BY(run, run.rig.kexec("a"));
        ASSERT_DONE_BY(run, run.rig.start_program(2));
        EXPECT_EQ(run.judge(), std::set<usize>{});
        EXPECT_EQ(problems_of(run.rig), "");
        tally.count("made again");
        continue;
      }
      EXPECT_EQ(back.error(), Errno::Enomem);
      EXPECT_TRUE(run.said("cannot be retrieved"));
      run.rig.end_program();
      EXPECT_EQ(run.rig.kexec("a").error(), Errno::Ebusy) << "somebody's devices are in the middle of a transfer";
      EXPECT_EQ(run.judge(), std::set<usize>{});
      tally.count("not retrieved, devices held");
    }
  }
}

TEST(AllocationSweep, ReturnOfTheProgram) {
  return_of_the_program(Tables::Legacy);
}
TEST(AllocationSweep, ReturnOfTheProgramInScalableMode) {
  return_of_the_program(Tables::SecondStage);
}

// The jump fails after the freeze: everything thaws, and the next try succeeds.
class FailedJump : public testing::TestWithParam<Tables> {};
INSTANTIATE_TEST_SUITE_P(Modes, FailedJump, testing::Values(Tables::Legacy, Tables::SecondStage, Tables::FirstStage));

TEST_P(FailedJump, AfterFreezeUnfreezes) {
  RigConfig config = small_machine({.devices = 4});
  set_tables(config, GetParam());
  InProcessRig rig(config);
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
