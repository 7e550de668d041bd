// What a live update was: from and to which kernel, how long each phase took, what the kernels said.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/base/types.h"

namespace perdure::tool {

struct KexecPhase {
  std::string name;
  u64 begin_ns = 0;
  u64 end_ns = 0;
};

struct KexecReport {
  std::string from;
  std::string to;
  u32 hop = 0;
  std::vector<KexecPhase> phases;  // in order of time
  u64 asked_ns = 0;                // from the request to the new kernel's word that it serves, as the board saw it
  std::vector<std::string> log;    // lines of that time

  // From the first phase after the loading of the kernel to the end of the last: while programs wait, or are gone. What
  // lies between two phases belongs to the later one.
  u64 total_ns() const;
  // The phase in which the time ran out.
  std::optional<std::string> broke(u64 budget_ns) const;
};

// Of a kernel's status: its timeline.
std::vector<KexecPhase> phases_of(const nlohmann::json& status);

nlohmann::json to_json(const KexecReport& report);
KexecReport kexec_report(const nlohmann::json& j);
std::string render(const KexecReport& report);

}  // namespace perdure::tool
