// The axes that a live update is independent of. A new value is one line, a new axis a list of them.
#pragma once
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include "tests/covering_array.h"
#include "tests/small_machine.h"

namespace perdure::tool {

struct AxisValue {
  std::string_view name;
  void (*set)(RigConfig& config);
};

struct Axis {
  std::string_view name;
  std::vector<AxisValue> values;
};

// Knobs are set in the order of the axes, on the only unit there is; the topology comes behind what it copies.
inline const std::vector<Axis>& matrix_axes() {
  static const std::vector<Axis> axes = {
      {"mode",
       {{"legacy", [](RigConfig& c) { set_tables(c, Tables::Legacy); }},
        {"scalable", [](RigConfig& c) { set_tables(c, Tables::SecondStage); }},
        {"firststage", [](RigConfig& c) { set_tables(c, Tables::FirstStage); }}}},
      {"coherence",
       {{"coherent", [](RigConfig& c) { set_coherent(c, true); }},
        {"noncoherent", [](RigConfig& c) { set_coherent(c, false); }}}},
      {"levels",
       {{"3", [](RigConfig& c) { set_levels(c, 3); }},
        {"4", [](RigConfig& c) { set_levels(c, 4); }},
        {"5", [](RigConfig& c) { set_levels(c, 5); }}}},
      {"caches",
       {{"sticky", [](RigConfig& c) { c.board.units[0].model.policy = board::CachePolicy::Sticky; }},
        {"evict", [](RigConfig& c) { c.board.units[0].model.policy = board::CachePolicy::EvictAlways; }},
        {"random", [](RigConfig& c) { c.board.units[0].model.policy = board::CachePolicy::Random; }}}},
      {"topology",
       {{"one", [](RigConfig& c) { set_devices(c, {0}); }},
        {"shared", [](RigConfig& c) { set_devices(c, {0, 0}); }},
        // The shared domain has a device behind each unit.
        {"units",
         [](RigConfig& c) {
           set_devices(c, {0, 0, 1});
           add_unit_for(c, 0);
         }}}},
      {"take",
       {{"replace", [](RigConfig& c) { c.plan.take = scenarios::Take::Replace; }},
        {"keep", [](RigConfig& c) { c.plan.take = scenarios::Take::Keep; }},
        {"adopt", [](RigConfig& c) { c.plan.take = scenarios::Take::Adopt; }}}},
  };
  return axes;
}

inline std::vector<u32> matrix_sizes() {
  std::vector<u32> sizes;
  for (const Axis& axis : matrix_axes()) sizes.push_back(static_cast<u32>(axis.values.size()));
  return sizes;
}

inline std::string_view value_of(const test::Point& point, std::string_view axis) {
  for (usize i = 0; i < point.size(); ++i) {
    if (matrix_axes()[i].name == axis) return matrix_axes()[i].values[point[i]].name;
  }
  return {};
}

// "legacy,coherent,4,sticky,one,keep": what PERDURE_MATRIX_POINT takes.
inline std::string name_of(const test::Point& point, char separator = ',') {
  std::string name;
  for (usize i = 0; i < point.size(); ++i) {
    if (i != 0) name += separator;
    name += matrix_axes()[i].values[point[i]].name;
  }
  return name;
}

inline RigConfig machine_at(const test::Point& point, u64 seed) {
  RigConfig config = small_machine({.seed = seed, .devices = 4});
  for (usize i = 0; i < point.size(); ++i) matrix_axes()[i].values[point[i]].set(config);
  return config;
}

// PERDURE_MATRIX_POINT: that one. PERDURE_MATRIX=all: the product. Else as many as it takes for all pairs.
inline std::vector<test::Point> matrix_points() {
  const std::vector<test::Point> all = test::whole_product(matrix_sizes());
  if (const char* wanted = std::getenv("PERDURE_MATRIX_POINT")) {
    std::vector<test::Point> one;
    std::ranges::copy_if(all, std::back_inserter(one), [&](const test::Point& p) { return name_of(p) == wanted; });
    return one;
  }
  if (const char* which = std::getenv("PERDURE_MATRIX"); which && std::string_view(which) == "all") return all;
  return test::covering_array(matrix_sizes());
}

}  // namespace perdure::tool
