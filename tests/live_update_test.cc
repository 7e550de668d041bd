// The live update in one process, stepped: preserve, jump, adopt, re-attach, retrieve, reclaim, graft, finish.
#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

using board::CachePolicy;
using board::Phase;
using scenarios::Take;

constexpr u64 kStretch = 2'000'000;  // 2 ms of the machine's time: each ring visits every slot many times

struct Variant {
  CachePolicy caches;
  bool coherent;
  u32 devices;
  Take take;
  Tables tables = Tables::Legacy;
  unsigned levels = 0;  // 0: as the unit likes
};

std::string name_of(const testing::TestParamInfo<Variant>& info) {
  const Variant& v = info.param;
  return std::string(v.caches == CachePolicy::Sticky        ? "Sticky"
                     : v.caches == CachePolicy::EvictAlways ? "EvictAlways"
                                                            : "Random") +
         (v.coherent ? "Coherent" : "NonCoherent") + (v.devices == 1 ? "OneDevice" : "FourDevices") +
         (v.take == Take::Keep    ? "Keep"
          : v.take == Take::Adopt ? "Adopt"
                                  : "Graft") +
         (v.tables == Tables::SecondStage  ? "SecondStage"
          : v.tables == Tables::FirstStage ? "FirstStage"
                                           : "") +
         (v.levels != 0 ? std::to_string(v.levels) + "Levels" : "");
}

class LiveUpdate : public testing::TestWithParam<Variant> {};

TEST_P(LiveUpdate, DevicesGoOnThereAndBack) {
  const Variant v = GetParam();
  RigConfig config = small_machine({.caches = v.caches, .devices = v.devices, .coherent = v.coherent});
  config.plan.take = v.take;
  set_tables(config, v.tables);
  if (v.levels != 0) set_levels(config, v.levels);
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  for (u32 hop = 1; hop <= 4; ++hop) {
    SCOPED_TRACE("hop " + std::to_string(hop));
    rig.run_for(kStretch);
    ASSERT_DONE(rig.verify());
    rig.board().enter_phase(Phase::During);
    ASSERT_DONE(rig.preserve());
    watch_devices(rig, board::PciWatch::Stage::AtWork);
    ASSERT_DONE(rig.kexec(hop % 2 == 1 ? "b" : "a"));
    EXPECT_GT(rig.poison().poisoned_frames, 0U);
    EXPECT_EQ(rig.poison().image_problem, "");
    watch_devices(rig, board::PciWatch::Stage::InProgramsHands);
    ASSERT_DONE(rig.start_program(hop));
    release_devices(rig);
    rig.run_for(kStretch);
    expect_clean(rig, Phase::During);
    rig.board().enter_phase(Phase::After);
    rig.run_for(kStretch);
    ASSERT_DONE(rig.verify());
    expect_clean(rig, Phase::After);
    rig.board().enter_phase(Phase::Before);
    EXPECT_EQ(problems_of(rig), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, LiveUpdate,
                         testing::Values(Variant{CachePolicy::Sticky, true, 1, Take::Replace},
                                         Variant{CachePolicy::EvictAlways, true, 1, Take::Replace},
                                         Variant{CachePolicy::Random, true, 4, Take::Replace},
                                         Variant{CachePolicy::Sticky, false, 4, Take::Replace},
                                         Variant{CachePolicy::EvictAlways, false, 4, Take::Replace},
                                         Variant{CachePolicy::Sticky, true, 4, Take::Keep},
                                         Variant{CachePolicy::Sticky, true, 4, Take::Adopt},
                                         Variant{CachePolicy::EvictAlways, true, 1, Take::Adopt},
                                         Variant{CachePolicy::Random, false, 4, Take::Adopt},
                                         Variant{CachePolicy::Sticky, false, 4, Take::Adopt}),
                         name_of);

INSTANTIATE_TEST_SUITE_P(Scalable, LiveUpdate,
                         testing::Values(Variant{CachePolicy::Sticky, true, 4, Take::Replace, Tables::SecondStage},
                                         Variant{CachePolicy::EvictAlways, true, 4, Take::Replace, Tables::SecondStage,
                                                 3},
                                         Variant{CachePolicy::Sticky, false, 4, Take::Adopt, Tables::SecondStage, 5},
                                         Variant{CachePolicy::EvictAlways, false, 1, Take::Keep, Tables::SecondStage},
                                         Variant{CachePolicy::Sticky, true, 4, Take::Replace, Tables::FirstStage},
                                         Variant{CachePolicy::EvictAlways, true, 4, Take::Adopt, Tables::FirstStage, 5},
                                         Variant{CachePolicy::Sticky, false, 4, Take::Replace, Tables::FirstStage, 4},
                                         Variant{CachePolicy::EvictAlways, false, 4, Take::Replace, Tables::FirstStage},
                                         Variant{CachePolicy::Random, false, 4, Take::Adopt, Tables::FirstStage}),
                         name_of);

// Each kernel would bring the unit up in its own way; what it takes over it leaves as it is, and what it makes anew for
// a device that runs on is of the same kind, so that it can take its place.
TEST(TablePolicies, WhatIsTakenOverKeepsItsModeAndItsFormat) {
  const TablePolicy legacy{vtd::TableModePolicy::Legacy};
  const TablePolicy first{vtd::TableModePolicy::Auto, vtd::StagePolicy::FirstStage};
  const TablePolicy second{vtd::TableModePolicy::Auto, vtd::StagePolicy::SecondStage};
  const struct {
    TablePolicy a, b;
    u64 ttm;
    pt::FormatId format;
  } cases[] = {
      {legacy, first, 0, pt::FormatId::VtdSecondStage},
      {first, legacy, 1, pt::FormatId::X86FirstStage},
      {first, second, 1, pt::FormatId::X86FirstStage},
      {second, first, 1, pt::FormatId::VtdSecondStage},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(&c - cases);
    RigConfig config = small_machine({.devices = 4});
    config.board.units[0].model.scalable = config.board.units[0].model.first_stage = true;
    config.tables_a = c.a;
    config.tables_b = c.b;
    InProcessRig rig(config);
    ASSERT_DONE(rig.power_on("a"));
    ASSERT_DONE(rig.start_program(0));
    for (u32 hop = 1; hop <= 2; ++hop) {
      rig.board().enter_phase(Phase::During);
      ASSERT_DONE(rig.preserve());
      ASSERT_DONE(rig.kexec(hop == 1 ? "b" : "a"));
      ASSERT_DONE(rig.start_program(hop));  // replaces what was restored
      rig.run_for(kStretch);
      ASSERT_DONE(rig.verify());
      expect_clean(rig, Phase::During);
      EXPECT_EQ(problems_of(rig), "");
      EXPECT_EQ(rig.board().unit(0).read(0x20, 8) >> 10 & 3, c.ttm);
      rig.kernel().iommu().each_device([&](IommuDevice& device) {
        if (const auto domain = device.group().domain()) {
          EXPECT_EQ(domain->geometry().format, c.format);
        }
      });
    }
  }
}

// A kernel that wants scalable mode and nothing else does not drive a unit without it, and says so.
TEST(TablePolicies, AUnitWithoutTheModeThatIsAskedForIsNotDriven) {
  RigConfig config = small_machine({});
  config.tables_a.mode = vtd::TableModePolicy::Scalable;
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  EXPECT_NE(problems_of(rig).find("scalable"), std::string::npos);
  EXPECT_FALSE(rig.start_program(0));
}

TEST(Oracle, SeesTranslationOffForFiveMilliseconds) {
  InProcessRig rig(small_machine({}));
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.run_for(kStretch);
  rig.board().enter_phase(Phase::During);
  rig.board().break_translation_for(5'000'000);
  rig.run_for(4 * kStretch);
  const board::AuditReport report = rig.board().audit();
  EXPECT_FALSE(report.clean(Phase::During));
}

class OracleOf : public testing::TestWithParam<Tables> {};
INSTANTIATE_TEST_SUITE_P(Modes, OracleOf, testing::Values(Tables::Legacy, Tables::SecondStage, Tables::FirstStage));

// Also when the unit walks what was written back, not what is in the CPU's caches.
TEST_P(OracleOf, SeesOneTablePageThatWasNotPreserved) {
  for (const bool coherent : {true, false}) {
    SCOPED_TRACE(coherent ? "coherent" : "not coherent");
    RigConfig config = small_machine({.caches = CachePolicy::EvictAlways});
    set_tables(config, GetParam());
    set_coherent(config, coherent);
    InProcessRig rig(config);
    ASSERT_DONE(rig.power_on("a"));
    ASSERT_DONE(rig.start_program(0));
    rig.run_for(kStretch);
    rig.board().enter_phase(Phase::During);
    ASSERT_DONE(rig.preserve());
    rig.forget_table_page(rig.board().config().devices[0].bdf);
    (void)rig.kexec("b");
    rig.run_for(kStretch);
    EXPECT_FALSE(rig.board().audit().clean(Phase::During));
  }
}

TEST(PlainKexec, DestroysWhatIsNotPreserved) {
  InProcessRig rig(small_machine({}));
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.run_for(kStretch);
  rig.board().enter_phase(Phase::During);
  ASSERT_DONE(rig.kexec("b"));
  rig.run_for(kStretch);
  const board::AuditReport report = rig.board().audit();
  EXPECT_FALSE(report.clean(Phase::During));
  EXPECT_GT(report.devices[0].in(Phase::During).not_done_by(board::Cause::BusMasterOff), 0U);
}

TEST(Abandon, CallsIntoAKernelThatIsGoneAreKilled) {
  InProcessRig rig(small_machine({}));
  ASSERT_DONE(rig.power_on("a"));
  process::LocalProgram& sys = rig.new_program();
  const auto fd = sys.open("/dev/iommu");
  ASSERT_TRUE(fd);
  ASSERT_DONE(rig.kernel().kexec_load("b"));
  ASSERT_DONE(rig.kernel().kexec());
  EXPECT_EQ(sys.open("/dev/iommu").error(), Errno::Ekilled);
  EXPECT_EQ(sys.ioctl(*fd, 0x3b81, nullptr).error(), Errno::Ekilled);
  EXPECT_EQ(sys.close(*fd).error(), Errno::Ekilled);
}

// All of it in the child: its memory is shared, and a kernel cannot outlive what a forked copy of it did to that.
TEST(Abandon, TheOldKernelsViewOfMemoryIsGone) {
  EXPECT_EXIT(
      {
        InProcessRig rig(small_machine({}));
        if (!rig.power_on("a")) std::exit(3);
        const volatile std::byte* const word = rig.machine().direct_map + (u64{1} << 20);
        if (!rig.kexec("b")) std::exit(4);
        (void)*word;
        std::exit(0);
      },
      // AddressSanitizer makes an exit of the signal.
      [](int status) { return WIFSIGNALED(status) ? WTERMSIG(status) == SIGSEGV : WEXITSTATUS(status) == 1; }, "");
}

// Whichever version of the records the kernel before wrote: nothing of the host that the machine was saved on is in
// them.
class SavedMachine : public testing::TestWithParam<const char*> {};

TEST_P(SavedMachine, LoadedIntoAFreshBoardCompletesTheUpdate) {
  const std::string saves = GetParam();
  const std::string loads = saves == "a" ? "b" : "a";
  const RigConfig config = small_machine({.devices = 4});
  const std::filesystem::path saved = std::filesystem::path(testing::TempDir()) / ("perdure-saved-machine-" + saves);
  std::filesystem::remove_all(saved);
  process::InProcessMachine::Jump jump;
  {
    InProcessRig rig(config);
    ASSERT_DONE(rig.power_on(saves));
    ASSERT_DONE(rig.start_program(0));
    rig.run_for(kStretch);
    rig.board().enter_phase(Phase::During);
    ASSERT_DONE(rig.preserve());
    ASSERT_DONE(rig.leave(loads));
    jump = rig.next();
    rig.board().save(saved);
  }
  InProcessRig rig(config, board::Board::load(saved));
  ASSERT_DONE(rig.arrive(jump));
  ASSERT_DONE(rig.start_program(1));
  rig.run_for(kStretch);
  expect_clean(rig, Phase::During);
  ASSERT_DONE(rig.verify());
  EXPECT_EQ(problems_of(rig), "");
  std::filesystem::remove_all(saved);
}

INSTANTIATE_TEST_SUITE_P(Kernels, SavedMachine, testing::Values("a", "b"));

// Same seed, same run: every number of the audit, every step of the clock.
TEST(Stepped, ARunRepeatsFromItsSeed) {
  const auto run = [](u64 seed) {
    InProcessRig rig(small_machine({.seed = seed, .caches = CachePolicy::Random}));
    EXPECT_TRUE(rig.power_on("a"));
    EXPECT_TRUE(rig.start_program(0));
    rig.run_for(kStretch);
    rig.board().enter_phase(Phase::During);
    EXPECT_TRUE(rig.preserve());
    EXPECT_TRUE(rig.kexec("b"));
    EXPECT_TRUE(rig.start_program(1));
    const board::AuditReport report = rig.board().audit();
    return std::tuple(rig.board().now_ns(), rig.steps().stores.load(), rig.steps().allocations.load(),
                      report.devices[0].in(Phase::During).done);
  };
  EXPECT_EQ(run(7), run(7));
  EXPECT_NE(std::get<0>(run(7)), std::get<0>(run(8)));
}

}  // namespace
}  // namespace perdure::tool
