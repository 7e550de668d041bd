// Runs behaviours and judges what they showed.
#pragma once
#include "conformance/bench.h"
#include "conformance/list.h"

namespace perdure::conformance {

// Whose unit it is, so which deviations are expected of it.
enum class Implementation : u8 {
  Architecture,   // none
  Qemu72,         // all those of QEMU 7.2: one that is gone is noticed, too
  ModelOfQemu72,  // those that the board's model imitates
  OtherQemu,      // any of them, or none
};

enum class Verdict : u8 {
  Conforms,
  Differs,  // as documented
  Fails,
  Skipped,  // the unit does not have what it is about
};
std::string_view verdict_name(Verdict verdict);

struct Outcome {
  Verdict verdict = Verdict::Fails;
  Seen seen;
  Seen expected;             // of this implementation
  std::string_view problem;  // a precondition that did not hold, or what is missing
};

// Whether the unit has it; else what it lacks.
std::string_view lacks(const Behaviour& behaviour, u64 offers);
// With the unit brought to rest before.
Outcome run(Bench& bench, const Behaviour& behaviour, Implementation implementation);
Verdict judge(const Behaviour& behaviour, Implementation implementation, const Seen& seen);

// One JSON object: {"event":"behaviour","name":…,"verdict":…,…}
Line as_event(const Behaviour& behaviour, const Outcome& outcome);

}  // namespace perdure::conformance
