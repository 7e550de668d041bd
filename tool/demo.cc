#include "tool/demo.h"

#include <fmt/color.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "machine/board/config_file.h"
#include "tool/progress.h"
#include "tool/report.h"
#include "tool/rig.h"
#include "tool/streams_on.h"

namespace perdure::tool {

namespace {

using board::Phase;

constexpr u64 kGapNs = 5'000'000;

class Demo {
 public:
  explicit Demo(const DemoOptions& options)
      : options_(options), progress_(options.json), config_(configure(options, left_)), rig_(make(options, config_)) {}

  DemoReport run() {
    const auto began = std::chrono::steady_clock::now();
    report_.seed = config_.board.seed;
    report_.what = fmt::format("{} in {}, {} of guest memory in leaves of 1 GiB, 2 MiB and 4 KiB; {}",
                               counted(config_.plan.devices, "device"), counted(config_.plan.domains, "domain"),
                               bytes(config_.plan.total_memory()),
                               options_.in_process ? fmt::format("one process, stepped from seed {}", report_.seed)
                                                   : "board, kernel and program are processes of their own");
    for (const std::string& name : left_) report_.what += fmt::format("\nnot part of it: {}", name);
    if (!hops()) {
      // What happened before the first hop, or instead of it.
      if (report_.hops.empty()) report_.hops.push_back({});
    }
    for (std::string& p : rig_->take_problems()) report_.hops.back().problems.push_back(std::move(p));
    report_.elapsed_ns = static_cast<u64>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - began).count());
    return std::move(report_);
  }

 private:
  static RigConfig configure(const DemoOptions& options, std::vector<std::string>& left) {
    RigConfig config = options.board.empty() ? demo_machine(options.memory, options.seed)
                                             : streams_on(board::read_board(options.board), options.memory, left);
    config.verbose = options.verbose;
    // A board says by itself which tables its units can walk.
    if (options.board.empty() || options.tables != "legacy") {
      set_tables(config, options.tables == "scalable"      ? Tables::SecondStage
                         : options.tables == "first-stage" ? Tables::FirstStage
                                                           : Tables::Legacy);
    }
    config.wire = options.wire;
    config.plan.irq_every = 16;
    if (!options.in_process) {
      config.plan.rate = options.rate;
      config.plan.small_leaves = std::min(align_down(options.memory / 64, kHugePageSize), kGiantPageSize);
      return config;
    }
    config.plan.rest_ns = 100'000;
    config.plan.slots = 1400;
    config.plan.rate = 200'000;
    config.plan.small_leaves = u64{8} << 20;
    config.board.step_ns = 200;
    for (board::UnitConfig& unit : config.board.units) {
      if (options.caches == "sticky") unit.model.policy = board::CachePolicy::Sticky;
      if (options.caches == "evict") unit.model.policy = board::CachePolicy::EvictAlways;
      if (options.caches == "random") unit.model.policy = board::CachePolicy::Random;
    }
    return config;
  }
  static std::unique_ptr<Rig> make(const DemoOptions& options, const RigConfig& config) {
    return options.in_process ? in_process_rig(config) : hosted_rig(config);
  }

  // True when all hops were made.
  bool hops() {
    progress_.step("power on: kernel a");
    if (!good("power on", rig_->power_on("a"))) return false;
    progress_.step("first program: memory, mappings, devices");
    if (!good("the first program", rig_->start_program(0))) return false;
    for (unsigned hop = 1; hop <= options_.hops; ++hop) {
      report_.hops.push_back({});
      if (!one_hop(hop)) return false;
    }
    return true;
  }

  bool one_hop(unsigned number) {
    const std::string next = !options_.kernel.empty() ? options_.kernel : number % 2 == 1 ? "b" : "a";
    current().number = number;
    current().from = rig_->release();
    current().to = next.find('/') == std::string::npos ? "perdure-" + next : next;
    // What set-up did (the reset that comes with BIND) is not the update.
    rig_->board().enter_phase(Phase::Before);

    progress_.step(fmt::format("hop {}: devices stream", number));
    rig_->run_for(stretch());
    if (!good("before the update", rig_->verify())) return false;
    rig_->board().enter_phase(Phase::During);
    if (!options_.cold) {
      progress_.step(fmt::format("hop {}: preserve", number));
      if (!good("preserve", rig_->preserve())) return false;
    }
    if (options_.breakage == "te-gap") rig_->board().break_translation_for(kGapNs);
    if (options_.breakage == "table-page") {
      rig_->forget_table_page(config_.device(0));
    }
    progress_.step(fmt::format("hop {}: kexec to kernel {}", number, next));
    if (!good("kexec", rig_->kexec(next))) return false;
    current().poison = rig_->poison();
    current().timeline = rig_->timeline();
    bool back = true;
    if (!options_.cold) {
      progress_.step(fmt::format("hop {}: the program comes back", number));
      back = good("the program after the jump", rig_->start_program(number));
    }
    rig_->board().enter_phase(Phase::After);
    progress_.step(fmt::format("hop {}: devices stream on", number));
    rig_->run_for(stretch());
    if (back && !options_.cold) good("after the update", rig_->verify());
    progress_.step(fmt::format("hop {}: audit", number));
    current().audit = rig_->board().audit();
    take_violations();
    return back && !options_.cold;
  }

  u64 stretch() const {
    if (options_.stretch_ms != 0) return u64{options_.stretch_ms} * 1'000'000;
    return options_.in_process ? 20'000'000 : 400'000'000;
  }
  HopReport& current() { return report_.hops.back(); }

  void take_violations() {
    std::vector<std::string> all = rig_->board().violations();
    for (usize i = violations_; i < all.size(); ++i) current().violations.push_back(all[i]);
    violations_ = all.size();
  }

  bool good(std::string_view what, const Result<void>& result) {
    if (result) return true;
    rig_->add_problem(fmt::format("{}: {}", what, errno_name(result.error())));
    return false;
  }

  DemoOptions options_;
  Progress progress_;
  std::vector<std::string> left_;  // devices that are no part of the update
  RigConfig config_;
  std::unique_ptr<Rig> rig_;
  DemoReport report_;
  usize violations_ = 0;
};

}  // namespace

int run_demo(const DemoOptions& options) {
  const DemoReport report = Demo(options).run();
  if (options.json) {
    fmt::print("{}\n", to_json(report).dump(2));
  } else {
    fmt::print("{}", render(report, isatty(STDOUT_FILENO) == 1));
  }
  return report.clean() ? 0 : 1;
}

}  // namespace perdure::tool
