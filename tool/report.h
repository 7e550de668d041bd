// What `perdure demo` says at the end: a timeline of the update and a verdict for each device, for people or as JSON.
#pragma once
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "core/base/types.h"
#include "machine/board/poison.h"
#include "machine/board/results.h"

namespace perdure::tool {

struct TimedPhase {
  std::string name;
  u64 begin_ns = 0;
  u64 end_ns = 0;
};

struct HopReport {
  unsigned number = 0;  // counted from 1
  std::string from;     // releases of the two kernels
  std::string to;
  std::vector<TimedPhase> timeline;
  board::AuditReport audit;  // one for each hop: before, during, after
  board::PoisonStats poison;
  std::vector<std::string> violations;  // of hardware's rules
  std::vector<std::string> problems;    // what programs and kernels said went wrong

  bool clean() const;
  u64 blackout_ns() const;  // from the begin of freeze to the end of the last phase
};

struct DemoReport {
  std::string what;  // one line: the machine and the scenario
  std::vector<HopReport> hops;
  u64 elapsed_ns = 0;
  u64 seed = 0;
  bool clean() const;
};

std::string render(const DemoReport& report, bool colour);
nlohmann::json to_json(const DemoReport& report);

// 1.23 ms, 45.6 us: three digits.
std::string duration(u64 ns);
std::string bytes(u64 n);

}  // namespace perdure::tool
