// Every register access of an update, one after another, meets silence: a write that does not arrive, a read of what
// was there before, a register that never changes again (a command that is never acknowledged, a queue that never
// answers), all ones from a function or a unit that fell off the bus. Before the jump the update is refused, after it
// the boot goes on; at most what is behind the silent unit or function stops.
#include "tests/sweep.h"

namespace perdure::tool {
namespace {

using process::Silence;

std::string_view name_of(Silence how) {
  switch (how) {
    case Silence::Lost: return "Lost";
    case Silence::Ones: return "Ones";
    case Silence::Stuck: return "Stuck";
    case Silence::Dead: return "Dead";
  }
  return "?";
}

class MmioSweep : public testing::TestWithParam<std::tuple<Silence, Tables>> {
 protected:
  static Silence how() { return std::get<Silence>(GetParam()); }
  static Tables tables() { return std::get<Tables>(GetParam()); }
  static RigConfig machine(scenarios::Take take = scenarios::Take::Replace) { return sweep_machine(take, tables()); }
  static std::string swept() { return std::string(name_of(how())) + ", " + tables_name(tables()); }

  struct Access {
    u64 number;
    Phys at;
  };

  // The register accesses that `what` makes after `before`: of units and of configuration space. What a program does
  // with its device's own registers is its own affair.
  static std::vector<Access> accesses(void (*before)(SweepRun&), void (*what)(SweepRun&),
                                      const RigConfig& config = machine(), u64 lowest = 0) {
    SweepRun run(config);
    before(run);
    std::vector<Access> all;
    run.rig.steps().witness = [&](Phys at, bool) {
      if (at.value >= lowest && is_kernels(run, at)) all.push_back({run.rig.steps().accesses, at});
    };
    what(run);
    // Others' accesses lie between: a stride goes by place, one point to be repeated by number.
    if (const auto one = sweep_point()) {
      std::erase_if(all, [&](const Access& access) { return access.number != *one; });
      return all;
    }
    std::vector<Access> chosen;
    for (u64 place : sweep_points(0, all.size(), tables())) chosen.push_back(all[place - 1]);
    return chosen;
  }
  static bool is_kernels(SweepRun& run, Phys at) {
    const std::vector<board::UnitConfig>& units = run.rig.board().config().units;
    return ranges_overlap(at.value, 1, board::PciBus::kEcamBase, u64{256} << 20) ||
           std::ranges::any_of(units,
                               [&](const board::UnitConfig& u) { return at.page() == u.model.base >> kPageShift; });
  }

  static constexpr u64 kFirstUnit = 0xFED9'0000;
  // What may stop when this address is silent: the devices behind a unit, a function itself, nothing.
  static std::set<usize> scope_of(SweepRun& run, Phys at) {
    const board::BoardConfig& board = run.rig.board().config();
    for (usize i = 0; i < board.units.size(); ++i) {
      if (at.page() == board.units[i].model.base >> kPageShift) return run.behind_unit(i);
    }
    for (usize i = 0; i < board.devices.size(); ++i) {
      if (at.page() == (board::PciBus::kEcamBase >> kPageShift) + board.devices[i].bdf.value) return {i};
    }
    return {};
  }

  // A status register that lies makes every command that is derived from it wrong: no driver can keep the rules then.
  static bool lies(Silence how, Phys at) { return how == Silence::Stuck && at.value % kPageSize == 0x1C; }

  static void expect_within(const std::set<usize>& stopped, const std::set<usize>& scope) {
    EXPECT_TRUE(std::ranges::includes(scope, stopped))
        << testing::PrintToString(stopped) << " stopped; only " << testing::PrintToString(scope) << " may";
  }
};

TEST_P(MmioSweep, BeforeTheJumpTheUpdateIsRefused) {
  Tally tally("register accesses from preserve to the jump: " + swept());
  for (const Access& access : accesses([](SweepRun& run) { run.stream(); },
                                       [](SweepRun& run) {
                                         ASSERT_DONE_BY(run, run.rig.preserve());
                                         ASSERT_DONE_BY(run, run.rig.leave("b"));
                                       })) {
    SCOPED_TRACE(again_at(access.number));
    SweepRun run(machine());
    run.stream();
    run.rig.steps().silence(access.number, how());
    const auto preserved = run.rig.preserve();
    const auto left = preserved ? run.rig.leave("b") : preserved;
    run.rig.steps().heal();
    if (left) {
      ASSERT_DONE_BY(run, run.rig.arrive());
      ASSERT_DONE_BY(run, run.rig.start_program(1));
      EXPECT_EQ(run.judge(), std::set<usize>{});
      tally.count("not noticed");
      continue;
    }
    EXPECT_EQ(left.error(), Errno::Eio);
    // A unit whose queue did not answer once is not trusted again, and what is behind it is stopped. Else nobody
    // notices.
    const bool dead = run.said("the unit is dead");
    const std::set<usize> scope = dead ? scope_of(run, access.at) : std::set<usize>{};
    EXPECT_EQ(run.judge(), scope);
    run.rig.program().unpreserve();
    const auto again = run.rig.preserve();
    if (dead) {
      EXPECT_EQ(again.error(), Errno::Eio);
      tally.count("refused, unit blocked");
    } else {
      ASSERT_DONE_BY(run, again);
      ASSERT_DONE_BY(run, run.rig.kexec("b"));
      ASSERT_DONE_BY(run, run.rig.start_program(1));
      tally.count("refused once");
    }
    EXPECT_EQ(run.judge(), scope);
  }
}

TEST_P(MmioSweep, BootStopsAtMostWhatIsSilent) {
  Tally tally("register accesses of a boot: " + swept());
  for (const Access& access :
       accesses([](SweepRun& run) { run.leave(); }, [](SweepRun& run) { ASSERT_DONE_BY(run, run.rig.arrive()); })) {
    SCOPED_TRACE(again_at(access.number));
    SweepRun run(machine());
    run.leave();
    run.rig.steps().silence(access.number, how());
    ASSERT_DONE_BY(run, run.rig.arrive());
    run.rig.steps().heal();
    const std::set<usize> stopped = run.judge(!lies(how(), access.at));
    expect_within(stopped, scope_of(run, access.at));
    tally.count(stopped.empty() ? "not noticed" : "unit or function blocked");
  }
}

TEST_P(MmioSweep, ReturnStopsAtMostWhatIsSilent) {
  // Page tables that are kept as they are ask nothing of a unit.
  for (const scenarios::Take take : {scenarios::Take::Replace, scenarios::Take::Adopt}) {
    const RigConfig config = machine(take);
    // Configuration space is asked the same questions whatever becomes of page tables, and by programs all the time.
    const u64 lowest = take == scenarios::Take::Replace ? 0 : kFirstUnit;
    Tally tally("register accesses of a return, page tables " + take_name(take) + ": " + swept());
    for (const Access& access :
         accesses([](SweepRun& run) { run.arrive(); },
                  [](SweepRun& run) { ASSERT_DONE_BY(run, run.rig.start_program(1)); }, config, lowest)) {
      SCOPED_TRACE(again_at(access.number) + ", page tables " + take_name(take));
      SweepRun run(config);
      run.arrive();
      run.rig.steps().silence(access.number, how());
      const auto back = run.rig.start_program(1);
      run.rig.steps().heal();
      const std::set<usize> stopped = run.judge();
      expect_within(stopped, scope_of(run, access.at));
      if (back) {
        EXPECT_EQ(stopped, std::set<usize>{});
        tally.count("not noticed");
      } else {
        EXPECT_EQ(back.error(), Errno::Eio);
        EXPECT_FALSE(stopped.empty()) << "an error without a reason";
        tally.count("unit or function blocked");
      }
    }
  }
}

// A unit that is not there any more cannot be blocked: its devices are stopped at the source, the others go on.
TEST(DeadUnit, ItsDevicesAreStoppedAtTheSource) {
  SweepRun run;
  run.leave();
  u64 first = 0;
  const u64 base = run.rig.board().config().units[1].model.base;
  run.rig.steps().witness = [&](Phys at, bool) {
    if (first != 0 || at.page() != base >> kPageShift) return;
    first = run.rig.steps().accesses;
    run.rig.steps().silence(first, Silence::Dead);
  };
  ASSERT_DONE_BY(run, run.rig.arrive());
  ASSERT_NE(first, 0U);
  EXPECT_EQ(run.judge(), run.behind_unit(1));
  EXPECT_TRUE(run.said("no unit answers"));
}

INSTANTIATE_TEST_SUITE_P(Ways, MmioSweep,
                         testing::Combine(testing::Values(Silence::Lost, Silence::Ones, Silence::Stuck, Silence::Dead),
                                          testing::ValuesIn(kSweptTables)),
                         [](const auto& of) {
                           const bool legacy = std::get<Tables>(of.param) == Tables::Legacy;
                           return (legacy ? "" : "Scalable") + std::string(name_of(std::get<Silence>(of.param)));
                         });

}  // namespace
}  // namespace perdure::tool
