// What all sweeps over the scenario share: the smallest machine on which everything can fail alone, its stages, which
// points of a stage are tried, and what must hold at each of them.
#pragma once
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/small_machine.h"

namespace perdure::tool {

inline constexpr u64 kSweepStretch = 1'000'000;  // 1 ms of the machine's time: every ring comes round several times

// Two units; a domain that both share, and one that the second has alone.
inline RigConfig sweep_machine(scenarios::Take take = scenarios::Take::Replace, Tables tables = Tables::Legacy) {
  RigConfig config = small_machine({.devices = 4});
  config.plan.take = take;
  set_devices(config, {0, 0, 1});
  set_tables(config, tables);
  add_unit_for(config, 0);
  config.plan.slots = 8;
  config.plan.small_leaves = 16 * kPageSize;
  // A function reset takes 100 ms of the machine's time: few steps make that, and every ring moves in each.
  config.board.step_ns = 20'000;
  config.plan.rate = 100'000;
  config.unit_timeout_ns = 2'000'000;
  return config;
}

inline constexpr scenarios::Take kTakes[] = {scenarios::Take::Replace, scenarios::Take::Keep, scenarios::Take::Adopt};
// Everything is swept in legacy mode, which has the fewer steps; a sample in scalable mode, whose steps are those of
// other tables and of wider descriptors.
inline constexpr Tables kSweptTables[] = {Tables::Legacy, Tables::SecondStage};
inline std::string tables_name(Tables tables) {
  return tables == Tables::Legacy ? "legacy mode" : "scalable mode";
}
inline std::string take_name(scenarios::Take take) {
  return take == scenarios::Take::Replace ? "replaced" : take == scenarios::Take::Keep ? "kept" : "adopted";
}

// A run of the scenario, by stages; the same steps in the same order whenever the configuration is the same.
class SweepRun {
 public:
  explicit SweepRun(const RigConfig& config = sweep_machine()) : rig(config) {}
  // Nobody looks at an orderly end here.
  ~SweepRun() {
    if (rig.alive()) rig.die();
  }

  // The first kernel is up, its program's devices stream.
  void stream() {
    ASSERT_DONE(rig.power_on("a"));
    ASSERT_DONE(rig.start_program(0));
    rig.run_for(kSweepStretch);
    rig.take_problems();
    rig.board().enter_phase(board::Phase::During);
  }
  // The old kernel is gone; the next thing is the first instruction of the new one.
  void leave() {
    stream();
    ASSERT_DONE(rig.preserve());
    ASSERT_DONE(rig.leave("b"));
  }
  void arrive() {
    leave();
    ASSERT_DONE(rig.arrive());
  }
  void come_back() {
    arrive();
    ASSERT_DONE(rig.start_program(1));
  }

  // Which devices of this machine reach memory no more, by their number in the configuration. The others lost nothing,
  // what devices do reach is right, and hardware found no rule broken.
  std::set<usize> judge(bool rules = true) {
    const board::AuditReport before = rig.board().audit();
    rig.run_for(kSweepStretch);
    const board::AuditReport after = rig.board().audit();
    std::set<usize> stopped;
    for (usize i = 0; i < after.devices.size(); ++i) {
      const board::DeviceResult& d = after.devices[i];
      const board::PhaseResult& p = d.in(board::Phase::During);
      EXPECT_EQ(p.lost + p.corrupted + p.duplicated + p.misdirected + p.read_errors + p.resets, 0U)
          << d.name << ": lost " << p.lost << ", corrupted " << p.corrupted << ", duplicated " << p.duplicated
          << ", misdirected " << p.misdirected << ", read errors " << p.read_errors << ", resets " << p.resets;
      const bool moves = p.done > before.devices[i].in(board::Phase::During).done;
      EXPECT_EQ(moves, p.refused() == 0) << d.name << ": " << p.refused() << " transfers refused";
      if (!moves) stopped.insert(i);
    }
    for (const board::Finding& f : after.findings) ADD_FAILURE() << f.to_string();
    for (const std::string& v : rig.board().violations()) {
      if (rules) ADD_FAILURE() << "hardware rule broken: " << v;
    }
    return stopped;
  }
  // The same without a verdict on what was refused.
  std::set<usize> stopped() {
    const board::AuditReport before = rig.board().audit();
    rig.run_for(kSweepStretch);
    const board::AuditReport after = rig.board().audit();
    std::set<usize> stopped;
    for (usize i = 0; i < after.devices.size(); ++i) {
      const auto done = [&](const board::AuditReport& r) { return r.devices[i].in(board::Phase::During).done; };
      if (done(after) == done(before)) stopped.insert(i);
    }
    return stopped;
  }
  // Is translation on in every unit (GSTS.TES)?
  bool translating() {
    for (usize i = 0; i < rig.board().units(); ++i) {
      if ((rig.board().unit(i).read(0x1C, 4) >> 31 & 1) == 0) return false;
    }
    return true;
  }
  std::set<usize> behind_unit(usize unit) const { return unit == 0 ? std::set<usize>{0} : std::set<usize>{1, 2}; }
  std::set<usize> of_domain(usize domain) const { return domain == 0 ? std::set<usize>{0, 1} : std::set<usize>{2}; }

  bool said(std::string_view what) {
    std::vector<std::string> problems = rig.take_problems();
    return std::ranges::any_of(problems, [&](const std::string& p) { return p.find(what) != std::string::npos; });
  }

  // What a counter was before and after `what`, in a run in which nothing fails.
  static std::pair<u64, u64> count(std::atomic<u64> process::BoardSteps::* counter, void (*before)(SweepRun&),
                                   void (*what)(SweepRun&), const RigConfig& config = sweep_machine()) {
    SweepRun run(config);
    before(run);
    const u64 from = run.rig.steps().*counter;
    what(run);
    return {from, run.rig.steps().*counter};
  }

  InProcessRig rig;
};

#define ASSERT_DONE_BY(run, expression)                                                                         \
  do {                                                                                                          \
    const auto done = (expression);                                                                             \
    ASSERT_TRUE(done.has_value()) << #expression << ": " << errno_name(done.error()) << problems_of((run).rig); \
  } while (false)

// What a sweep found, for people.
class Tally {
 public:
  explicit Tally(std::string what) : what_(std::move(what)) {}
  Tally(const Tally&) = delete;
  Tally& operator=(const Tally&) = delete;
  void count(const std::string& end) {
    ++points_;
    ++ends_[end];
  }
  ~Tally() {
    std::printf("points: %zu %s", points_, what_.c_str());
    const char* separator = ": ";
    for (const auto& [end, n] : ends_) std::printf("%s%zu %s", std::exchange(separator, ", "), n, end.c_str());
    std::printf("\n");
    EXPECT_GT(points_, 0U) << "nothing was swept";
  }

 private:
  std::string what_;
  usize points_ = 0;
  std::map<std::string, usize> ends_;
};

// The one point that PERDURE_SWEEP_POINT asks for.
inline std::optional<u64> sweep_point() {
  const char* one = std::getenv("PERDURE_SWEEP_POINT");
  return one ? std::optional<u64>(std::strtoull(one, nullptr, 0)) : std::nullopt;
}

// The numbers in (after, to] that this run of the tests tries. In legacy mode all of them where it is quick, every
// some-th under sanitizers; fewer in the others. PERDURE_SWEEP=all: all; PERDURE_SWEEP_POINT: that one.
inline std::vector<u64> sweep_points(u64 after, u64 to, Tables tables = Tables::Legacy) {
#if defined(__SANITIZE_ADDRESS__)
  constexpr bool kSlow = true;
#elif defined(__has_feature)
  constexpr bool kSlow = __has_feature(address_sanitizer);
#else
  constexpr bool kSlow = false;
#endif
  const u64 sample = tables == Tables::Legacy ? (kSlow ? 24 : ~u64{0}) : kSlow ? 8 : 40;
  std::vector<u64> points;
  if (const auto point = sweep_point()) {
    if (*point > after && *point <= to) points.push_back(*point);
    return points;
  }
  const char* which = std::getenv("PERDURE_SWEEP");
  const u64 all = to - after;
  const u64 stride = which && std::string_view(which) == "all" ? 1 : std::max<u64>(1, all / sample);
  // The commit's tests see other points than the last one's when the code between them changed.
  for (u64 p = after + 1 + all % stride; p <= to; p += stride) points.push_back(p);
  return points;
}

inline std::string again_at(u64 point) {
  const testing::TestInfo& test = *testing::UnitTest::GetInstance()->current_test_info();
  return "again: PERDURE_SWEEP_POINT=" + std::to_string(point) + " --gtest_filter=" + test.test_suite_name() + "." +
         test.name();
}

}  // namespace perdure::tool
