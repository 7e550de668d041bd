// Updates in which not every program comes back in every kernel: a session that nobody retrieves is handed on with its
// devices, which go on all the while (design §7, who dies when).
#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

using board::Phase;
using scenarios::Streams;
using scenarios::StreamsPlan;
using scenarios::Take;

constexpr u64 kStretch = 1'000'000;

// One more program in the rig's present kernel, with devices of its own.
class SecondProgram final : private scenarios::Witness {
 public:
  SecondProgram(InProcessRig& rig, const RigConfig& config, const StreamsPlan& plan)
      : rig_(rig), config_(config), sys_(rig.kernel(), rig.machine(), rig.board()), streams_({sys_, *this}, plan) {}
  Streams& operator*() { return streams_; }
  Streams* operator->() { return &streams_; }
  // Its kernel is gone.
  void kill() { sys_.kill(); }

 private:
  void intend(const scenarios::Intended& i) override {
    const board::Intent intent{i.iova, i.length, i.memory_id, i.offset, board::IntentAccess::ReadWrite};
    EXPECT_TRUE(rig_.board().declare(config_.board.devices[i.device].bdf, intent));
  }
  void problem(std::string_view what, Errno why) override {
    rig_.add_problem(std::string(what) + " (second program): " + std::string(errno_name(why)));
  }
  InProcessRig& rig_;
  const RigConfig& config_;
  process::LocalProgram sys_;
  Streams streams_;
};

class ForwardSweep : public testing::Test {
 protected:
  // Devices 0 and 1 share a domain of the first program; 2 and 3 are the second one's, with a domain each.
  void split() {
    second_plan = config.plan;
    config.plan.devices = 2;
    config.plan.domains = 1;
    second_plan.first_device = 2;
    second_plan.devices = 2;
    second_plan.domains = 2;
    second_plan.domain_of[0] = 0;
    second_plan.domain_of[1] = 1;
    second_plan.memory[0] = second_plan.memory[1] = config.plan.memory[1];
  }
  // A program in kernel A, with everything preserved.
  static Result<void> preserve_in_the_first(InProcessRig& rig) {
    TRY(rig.power_on("a"));
    TRY(rig.start_program(0));
    rig.run_for(kStretch);
    rig.board().enter_phase(Phase::During);
    return rig.preserve();
  }
  void expect_running(InProcessRig& rig, int line = __builtin_LINE()) {
    SCOPED_TRACE("line " + std::to_string(line));
    rig.run_for(kStretch);
    expect_clean(rig, Phase::During);
    EXPECT_EQ(rig.poison().image_problem, "");
    EXPECT_EQ(problems_of(rig), "");
  }

  RigConfig config = small_machine({.devices = 4});
  StreamsPlan second_plan;
};

class Forward : public ForwardSweep, public testing::WithParamInterface<Take> {
 protected:
  Forward() { config.plan.take = GetParam(); }
};

INSTANTIATE_TEST_SUITE_P(Takes, Forward, testing::Values(Take::Replace, Take::Keep, Take::Adopt),
                         [](const testing::TestParamInfo<Take>& of) {
                           return of.param == Take::Replace ? "Replace" : of.param == Take::Keep ? "Keep" : "Adopt";
                         });

// Versions alternate, so that both kernels hand on what the other one wrote.
TEST_P(Forward, NobodyComesBackForThreeKernels) {
  InProcessRig rig(config);
  ASSERT_DONE(preserve_in_the_first(rig));
  for (const char* kernel : {"b", "a", "b", "a"}) {
    SCOPED_TRACE(kernel);
    ASSERT_DONE(rig.kexec(kernel));
    expect_running(rig);
  }
  ASSERT_DONE(rig.start_program(1));
  expect_running(rig);
  ASSERT_DONE(rig.verify());
  // And on as ever.
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.kexec("b"));
  ASSERT_DONE(rig.start_program(2));
  expect_running(rig);
  ASSERT_DONE(rig.verify());
}

// One session is retrieved in the second kernel and preserved again, the other one is not; both come back in the third.
TEST_P(Forward, OneProgramComesBackAndAnotherDoesNot) {
  split();
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  {
    SecondProgram second(rig, config, second_plan);
    ASSERT_DONE(second->begin(0));
    rig.run_for(kStretch);
    rig.board().enter_phase(Phase::During);
    ASSERT_DONE(second->preserve());
    ASSERT_DONE(rig.preserve());
    ASSERT_DONE(rig.kexec("b"));
    second.kill();
  }
  expect_running(rig);
  for (u32 hop = 1; hop <= 2; ++hop) {
    SCOPED_TRACE(hop);
    ASSERT_DONE(rig.start_program(hop));
    expect_running(rig);
    ASSERT_DONE(rig.verify());
    ASSERT_DONE(rig.preserve());
    ASSERT_DONE(rig.kexec(hop == 1 ? "a" : "b"));
    expect_running(rig);
  }
  {
    // The one that stayed away first.
    SecondProgram second(rig, config, second_plan);
    ASSERT_DONE(second->begin(1));
    ASSERT_DONE(rig.start_program(3));
    expect_running(rig);
    ASSERT_DONE(second->verify());
    ASSERT_DONE(rig.verify());
    // Now the other way round: the first one stays away.
    ASSERT_DONE(second->preserve());
    ASSERT_DONE(rig.preserve());
    ASSERT_DONE(rig.kexec("a"));
    second.kill();
  }
  {
    SecondProgram second(rig, config, second_plan);
    ASSERT_DONE(second->begin(2));
    ASSERT_DONE(second->preserve());
    ASSERT_DONE(rig.kexec("b"));
    second.kill();
  }
  expect_running(rig);
  ASSERT_DONE(rig.start_program(4));
  SecondProgram second(rig, config, second_plan);
  ASSERT_DONE(second->begin(3));
  expect_running(rig);
  ASSERT_DONE(second->verify());
  ASSERT_DONE(rig.verify());
}

// The jump does not happen after all: what was handed on is taken back, and the program finds its session here.
TEST_P(Forward, IsTakenBackWhenTheJumpFails) {
  InProcessRig rig(config);
  ASSERT_DONE(preserve_in_the_first(rig));
  ASSERT_DONE(rig.kexec("b"));
  for (int round = 0; round < 2; ++round) {
    ASSERT_DONE(rig.kernel().kexec_load("a"));
    rig.machine().fail_jump(Errno::Enoexec);
    EXPECT_EQ(rig.kernel().kexec().error(), Errno::Enoexec);
    rig.take_problems();
    expect_running(rig);
  }
  ASSERT_DONE(rig.start_program(1));
  expect_running(rig);
  ASSERT_DONE(rig.verify());
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.kexec("a"));
  ASSERT_DONE(rig.start_program(2));
  expect_running(rig);
}

// Every allocation while a session is handed on fails once: the update is refused, nothing leaks, devices go on.
TEST_F(ForwardSweep, EveryFailingAllocationIsUndone) {
  InProcessRig rig(config);
  ASSERT_DONE(preserve_in_the_first(rig));
  ASSERT_DONE(rig.kexec("b"));
  const auto try_it = [&] {
    rig.machine().fail_jump(Errno::Enoexec);
    const Errno error = rig.kernel().kexec().error();
    rig.take_problems();
    return error;
  };
  ASSERT_DONE(rig.kernel().kexec_load("a"));
  ASSERT_EQ(try_it(), Errno::Enoexec);  // so that what stays for reuse is there
  rig.kernel().heap().trim();
  const auto frames = rig.kernel().frames().totals();
  const u64 heap = rig.kernel().heap().bytes_in_use();
  u64 points = 0;
  for (;; ++points) {
    rig.steps().fail_at = rig.steps().allocations + points + 1;
    const Errno error = try_it();
    const bool hit = rig.steps().allocations >= rig.steps().fail_at;
    rig.steps().fail_at = 0;
    rig.kernel().heap().trim();
    ASSERT_EQ(rig.kernel().frames().totals(), frames) << points;
    ASSERT_EQ(rig.kernel().heap().bytes_in_use(), heap) << points;
    if (!hit) {
      EXPECT_EQ(error, Errno::Enoexec);
      break;
    }
  }
  EXPECT_GT(points, 10U);
  expect_running(rig);
  ASSERT_DONE(rig.kexec("a"));
  ASSERT_DONE(rig.start_program(1));
  expect_running(rig);
  ASSERT_DONE(rig.verify());
}

}  // namespace
}  // namespace perdure::tool
