// A machine small enough to be stepped in a test: one or four streamers, guest memory of a few sparse GiB.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <string>

#include "tool/in_process_rig.h"

namespace perdure::tool {

struct SmallMachine {
  u64 seed = 1;
  board::CachePolicy caches = board::CachePolicy::Sticky;
  u32 devices = 1;
  bool coherent = true;
};

// Tables of so many levels are all that the units walk, and the whole width of their addresses is used. After
// set_tables(): first-stage tables have four or five, and the upper half of their addresses is not used.
inline void set_levels(RigConfig& config, unsigned levels) {
  config.plan.iova_bits = 12 + 9 * levels;
  for (board::UnitConfig& unit : config.board.units) {
    unit.model.sagaw = static_cast<u8>(1U << (levels - 2));
    unit.model.mgaw = static_cast<u8>(12 + 9 * levels);
    unit.model.first_stage_5 = levels == 5;
    if (unit.model.first_stage && levels >= 4) config.plan.iova_bits = 12 + 9 * levels - 1;
  }
}

inline void set_coherent(RigConfig& config, bool coherent) {
  for (board::UnitConfig& unit : config.board.units) unit.model.coherent = unit.model.scalable_coherent = coherent;
}

// As many streamers as domains are named, each in that domain.
inline void set_devices(RigConfig& config, std::initializer_list<u32> domains) {
  config.plan.devices = 0;
  config.plan.domains = 0;
  for (u32 domain : domains) {
    config.plan.domain_of[config.plan.devices++] = domain;
    config.plan.domains = std::max(config.plan.domains, domain + 1);
  }
  for (u32 d = 0; d < config.plan.domains; ++d) config.plan.memory[d] = u64{4} << 30;
  config.board.devices.resize(config.plan.devices);
}

// Another unit like the first, which has this device alone; the first keeps the rest.
inline void add_unit_for(RigConfig& config, u32 device) {
  board::UnitConfig other = config.board.units[0];
  other.model.base += u64{config.board.units.size()} * kPageSize;
  other.model.seed += config.board.units.size();
  other.include_all = false;
  other.endpoints = {config.board.devices[device].bdf};
  config.board.units.insert(config.board.units.begin(), other);  // explicit scopes come first
}

inline RigConfig small_machine(const SmallMachine& small) {
  RigConfig config = demo_machine(u64{16} << 30, small.seed);
  config.board.ram_bytes = u64{64} << 20;
  config.board.window_log2 = 37;
  config.board.step_ns = 500;
  config.board.units[0].model.policy = small.caches;
  config.board.units[0].model.seed = small.seed;
  set_coherent(config, small.coherent);
  config.plan.slots = 64;
  config.plan.rate = 500'000;
  config.plan.small_leaves = u64{4} << 20;
  if (small.devices == 1) set_devices(config, {0});
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

// From now on every device of the machine is judged as one that an update leaves at work (machine/board/pci_watch.h);
// what breaks the rule is among the violations.
inline void watch_devices(Rig& rig, board::PciWatch::Stage stage) {
  board::PciBus& pci = rig.board().pci();
  for (usize i = 0; i < pci.size(); ++i) pci.watch().watch(pci.at(i), stage);
}
inline void release_devices(Rig& rig) {
  board::PciBus& pci = rig.board().pci();
  for (usize i = 0; i < pci.size(); ++i) pci.watch().release(pci.at(i));
}

#define ASSERT_DONE(expression)                                                                           \
  do {                                                                                                    \
    const auto done = (expression);                                                                       \
    ASSERT_TRUE(done.has_value()) << #expression << ": " << errno_name(done.error()) << problems_of(rig); \
  } while (false)

}  // namespace perdure::tool
