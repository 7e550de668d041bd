// A machine small enough to be stepped in a test: one or four streamers, guest memory of a few sparse GiB.
#pragma once
#include <gtest/gtest.h>

#include <string>

#include "tool/in_process_rig.h"

namespace perdure::tool {

struct SmallMachine {
  u64 seed = 1;
  board::CachePolicy caches = board::CachePolicy::Sticky;
  u32 devices = 1;
  bool coherent = true;
};

inline RigConfig small_machine(const SmallMachine& small) {
  RigConfig config = demo_machine(u64{16} << 30, small.seed);
  config.board.ram_bytes = u64{64} << 20;
  config.board.window_log2 = 37;
  config.board.step_ns = 500;
  config.board.units[0].model.policy = small.caches;
  config.board.units[0].model.coherent = small.coherent;
  config.plan.slots = 64;
  config.plan.rate = 500'000;
  config.plan.small_leaves = u64{4} << 20;
  if (small.devices == 1) {
    config.board.devices.resize(1);
    config.plan.devices = 1;
    config.plan.domains = 1;
    config.plan.memory[0] = u64{4} << 30;
  }
  return config;
}

inline std::string problems_of(Rig& rig) {
  std::string all;
  for (const std::string& p : rig.take_problems()) all += "\n  " + p;
  for (const std::string& v : rig.board().violations()) all += "\n  hardware rule broken: " + v;
  return all;
}

// Every device: transfers in the current phase, and nothing wrong with any of them.
inline void expect_clean(Rig& rig, board::Phase phase) {
  const board::AuditReport report = rig.board().audit();
  for (const board::DeviceResult& d : report.devices) {
    const board::PhaseResult& p = d.in(phase);
    EXPECT_GT(p.done, 0U) << d.name;
    EXPECT_TRUE(p.clean()) << d.name << " " << board::phase_name(phase) << ": lost " << p.lost << ", corrupted "
                           << p.corrupted << ", duplicated " << p.duplicated << ", misdirected " << p.misdirected
                           << ", refused " << p.refused() << ", read errors " << p.read_errors << ", resets "
                           << p.resets;
  }
  for (const board::Finding& f : report.findings) ADD_FAILURE() << f.to_string();
}

#define ASSERT_DONE(expression)                                                                           \
  do {                                                                                                    \
    const auto done = (expression);                                                                       \
    ASSERT_TRUE(done.has_value()) << #expression << ": " << errno_name(done.error()) << problems_of(rig); \
  } while (false)

}  // namespace perdure::tool
