// The list of behaviours against the board's model, in every variant of the unit that makes a difference: as the
// architecture has it, and with the deviations of QEMU 7.2 that the model imitates. What the software of a behaviour
// does wrong the model must notice, and nothing else.
#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "conformance/run.h"
#include "tests/conformance_board.h"

namespace perdure::conformance {
namespace {

using board::IommuModelConfig;

struct Variant {
  std::string name;
  IommuModelConfig model;
  Implementation implementation = Implementation::Architecture;
};

std::vector<Variant> variants() {
  std::vector<Variant> all;
  const auto add = [&](const char* name, auto change) {
    Variant v;
    v.name = name;
    change(v);
    all.push_back(std::move(v));
  };
  const auto scalable = [](IommuModelConfig& m) { m.scalable = true; };
  add("Legacy", [](Variant&) {});
  add("Narrow", [](Variant& v) {
    v.model.sagaw = 0b0010;
    v.model.mgaw = 39;
  });
  add("FiveLevels", [](Variant& v) {
    v.model.sagaw = 0b1110;
    v.model.mgaw = 57;
    v.model.nfr = 4;
    v.model.nd = 4;
  });
  add("NotCoherent", [](Variant& v) {
    v.model.coherent = false;
    v.model.snoop_control = false;
  });
  add("CachingMode", [](Variant& v) { v.model.caching_mode = true; });
  add("WriteBuffers", [](Variant& v) { v.model.rwbf = true; });
  add("Bare", [](Variant& v) {
    v.model.queued = v.model.interrupt_remap = v.model.pass_through = v.model.psi = false;
    v.model.sslps = 0;
  });
  add("NoRemapping", [](Variant& v) { v.model.interrupt_remap = false; });
  add("ProtectedMemory", [](Variant& v) { v.model.plmr = v.model.phmr = true; });
  add("RootFlushes", [](Variant& v) { v.model.esrtps = v.model.abort_mode = true; });
  add("Slow", [&](Variant& v) {
    scalable(v.model);
    v.model.delay = {0, 7};
  });
  add("Scalable", [&](Variant& v) { scalable(v.model); });
  add("ScalableNotCoherent", [&](Variant& v) {
    scalable(v.model);
    v.model.scalable_coherent = v.model.coherent = v.model.snoop_control = false;
  });
  add("ScalableCachingMode", [&](Variant& v) {
    scalable(v.model);
    v.model.caching_mode = true;
    v.model.second_stage_dirty = false;
  });
  add("ScalableFirstStage", [&](Variant& v) {
    scalable(v.model);
    v.model.first_stage = v.model.esrtps = true;
    v.model.sagaw = 0b1110;
    v.model.mgaw = 57;
  });
  // A unit may forget what it has cached at any time.
  add("Forgetful", [&](Variant& v) {
    scalable(v.model);
    v.model.policy = board::CachePolicy::EvictAlways;
  });
  add("ForgetfulCachingMode", [](Variant& v) {
    v.model.caching_mode = true;
    v.model.policy = board::CachePolicy::EvictAlways;
  });
  add("Moody", [&](Variant& v) {
    scalable(v.model);
    v.model.policy = board::CachePolicy::Random;
    v.model.seed = 7;
  });
  const auto quirks = [](Variant& v) {
    v.model.quirks = board::IommuQuirks::qemu_7_2();
    v.implementation = Implementation::ModelOfQemu72;
    v.model.coherent = v.model.snoop_control = false;
    v.model.second_stage_dirty = false;
  };
  add("QuirksLegacy", quirks);
  add("QuirksScalable", [&](Variant& v) {
    quirks(v);
    scalable(v.model);
    v.model.snoop_control = true;  // leaves may have SNP, whatever ECAP.SC says
  });
  return all;
}

std::string to_string(const Seen& seen) {
  Line line;
  line << seen;
  return std::string(line.view());
}

std::string to_string(const Name& name) {
  return std::string(name.prefix) + std::string(name.rest);
}

u64 offers_of(const Variant& variant) {
  const u64 forgets = variant.model.policy == board::CachePolicy::Sticky ? kNothing : kKeeps;
  return (offers(variant.model.cap(), variant.model.ecap(), 3) | kWayBack | kSurvives) & ~forgets;
}

bool applies(const Variant& variant, const Behaviour& behaviour) {
  return lacks(behaviour, offers_of(variant)).empty();
}

// A behaviour is a test of each variant that has what it is about.
struct Case {
  Variant variant;
  const Behaviour* behaviour = nullptr;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Variant& variant : variants()) {
    each_behaviour([&](const Behaviour& behaviour) {
      if (applies(variant, behaviour)) all.push_back({variant, &behaviour});
    });
  }
  return all;
}

std::string case_name(const ::testing::TestParamInfo<Case>& c) {
  std::string name = c.param.variant.name + "_" + to_string(c.param.behaviour->name);
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

void PrintTo(const Case& c, std::ostream* out) {
  *out << to_string(c.behaviour->name) << " on " << c.variant.name;
}

class Conformance : public ::testing::TestWithParam<Case> {};

TEST_P(Conformance, Shows) {
  const auto& [variant, behaviour] = GetParam();
  BoardHardware hardware(variant.model);
  Bench bench(hardware);
  const Outcome outcome = run(bench, *behaviour, variant.implementation);
  EXPECT_TRUE(outcome.problem.empty()) << "there was not: " << outcome.problem;
  EXPECT_TRUE(outcome.verdict != Verdict::Fails)
      << "seen: " << to_string(outcome.seen) << "\nexpected: " << to_string(outcome.expected);
  const auto violations = hardware.board().violations();
  if (outcome.verdict == Verdict::Differs) {
    // What is right by the architecture may be wrong where the unit deviates.
  } else if (behaviour->software == Software::Right) {
    for (const std::string& v : violations) ADD_FAILURE() << "the model complains: " << v;
  } else {
    EXPECT_FALSE(violations.empty()) << "the model notices nothing";
  }
  EXPECT_TRUE(bench.rest()) << "the unit cannot be brought to rest";
}

INSTANTIATE_TEST_SUITE_P(Variants, Conformance, ::testing::ValuesIn(cases()), case_name);

TEST(ConformanceListTest, EveryBehaviourIsShownBySomeVariant) {
  each_behaviour([&](const Behaviour& behaviour) {
    bool shown = false;
    for (const Variant& variant : variants()) {
      shown |= variant.implementation == Implementation::Architecture && applies(variant, behaviour);
    }
    EXPECT_TRUE(shown) << to_string(behaviour.name);
  });
}

TEST(ConformanceListTest, NamesAreUniqueAndDeviationsDiffer) {
  std::set<std::string> names;
  each_behaviour([&](const Behaviour& behaviour) {
    const std::string name = to_string(behaviour.name);
    EXPECT_TRUE(names.insert(name).second) << name;
    EXPECT_FALSE(behaviour.source.empty()) << name;
    EXPECT_FALSE(behaviour.expected.empty()) << name;
    if (behaviour.qemu_10) {
      EXPECT_FALSE(behaviour.qemu_10.seen == behaviour.expected || behaviour.qemu_10.seen == behaviour.qemu_7_2.seen);
      EXPECT_FALSE(behaviour.qemu_10.what.empty()) << name;
    }
    if (behaviour.qemu_7_2) {
      EXPECT_FALSE(behaviour.qemu_7_2.seen == behaviour.expected) << name;
      EXPECT_FALSE(behaviour.qemu_7_2.what.empty()) << name;
    }
  });
  EXPECT_GE(names.size(), 60u);
}

// One unit for all of them, one after the other, as on metal; then backwards.
TEST(ConformanceListTest, BehavioursLeaveNothingBehind) {
  IommuModelConfig model;
  model.scalable = true;
  BoardHardware hardware(model);
  Bench bench(hardware);
  std::vector<const Behaviour*> order;
  each_behaviour([&](const Behaviour& behaviour) { order.push_back(&behaviour); });
  for (int pass = 0; pass < 2; ++pass) {
    for (const Behaviour* behaviour : order) {
      bench.reuse_vectors();
      hardware.forget_messages();
      const Outcome outcome = run(bench, *behaviour, Implementation::Architecture);
      EXPECT_NE(outcome.verdict, Verdict::Fails)
          << to_string(behaviour->name) << " pass " << pass << ": seen " << to_string(outcome.seen) << ", expected "
          << to_string(outcome.expected) << " " << outcome.problem;
    }
    std::reverse(order.begin(), order.end());
  }
}

}  // namespace
}  // namespace perdure::conformance
