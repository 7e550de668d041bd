// All behaviours, by what they are about.
#pragma once
#include <span>

#include "conformance/behaviour.h"

namespace perdure::conformance {

std::span<const Behaviour> command_behaviours();
std::span<const Behaviour> legacy_behaviours();
std::span<const Behaviour> legacy_fault_behaviours();
std::span<const Behaviour> scalable_behaviours();
std::span<const Behaviour> scalable_fault_behaviours();
std::span<const Behaviour> first_stage_behaviours();
std::span<const Behaviour> report_behaviours();  // how faults are reported
std::span<const Behaviour> register_flush_behaviours();
std::span<const Behaviour> register_context_behaviours();
std::span<const Behaviour> queue_flush_behaviours();
std::span<const Behaviour> queue_context_behaviours();
std::span<const Behaviour> scalable_flush_behaviours();
std::span<const Behaviour> flush_behaviours();  // what one way has alone
std::span<const Behaviour> queue_behaviours();
std::span<const Behaviour> queue_error_behaviours();
std::span<const Behaviour> adoption_behaviours();
std::span<const Behaviour> interrupt_behaviours();

struct Group {
  std::string_view title;
  std::span<const Behaviour> behaviours;
};

inline constexpr unsigned kGroups = 17;
Group group(unsigned n);

template <class Visit>
void each_behaviour(Visit visit) {
  for (unsigned n = 0; n < kGroups; ++n) {
    for (const Behaviour& behaviour : group(n).behaviours) visit(behaviour);
  }
}

}  // namespace perdure::conformance
