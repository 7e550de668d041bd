// What `perdure demo` says at the end: a timeline of the update and a verdict for each device, for people or as JSON.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "core/base/types.h"
#include "machine/board/poison.h"
#include "machine/board/results.h"
#include "tool/machine/duration.h"

namespace perdure::tool {

struct TimedPhase {
  std::string name;
  u64 begin_ns = 0;
  u64 end_ns = 0;
};

// What a device itself can say of its DMA, and a driver read from it: on hardware that others wrote, where no ledger
// watches.
struct DeviceEvidence {
  std::string device;
  bool ok = false;
  bool lost = false;                                 // quarantined; ok: it stands still, as it must
  std::vector<std::pair<std::string, s64>> numbers;  // since the device was started
  std::string what;                                  // what is wrong
};

struct QuarantinedDevice {
  std::string bdf;
  bool stopped = false;  // proven
  std::string what;
};

struct HopReport {
  unsigned number = 0;  // counted from 1
  std::string from;     // releases of the two kernels
  std::string to;
  std::vector<TimedPhase> timeline;
  board::AuditReport audit;  // one for each hop: before, during, after
  std::vector<DeviceEvidence> evidence;
  // There is none of this hop: it counts up since devices were started, and a later hop has it.
  bool evidence_is_later = false;
  std::vector<QuarantinedDevice> quarantined;
  board::PoisonStats poison;
  std::vector<std::string> violations;  // of hardware's rules
  std::vector<std::string> problems;    // what programs and kernels said went wrong

  bool clean() const;
  u64 blackout_ns() const;  // from the begin of freeze to the end of the last phase
};

// Something that must hold of the whole run, and who says whether it did.
struct RunCheck {
  std::string what;
  bool ok = false;
  std::string detail;
};

struct DemoReport {
  std::string what;  // one line: the machine and the scenario
  std::vector<HopReport> hops;
  std::vector<RunCheck> checks;
  u64 elapsed_ns = 0;
  u64 seed = 0;
  bool clean() const;
};

std::string render(const DemoReport& report, bool colour);
nlohmann::json to_json(const DemoReport& report);

std::string bytes(u64 n);
// "1 hop", "2 hops".
std::string counted(u64 n, std::string_view what);

}  // namespace perdure::tool
