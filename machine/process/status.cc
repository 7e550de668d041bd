#include "machine/process/status.h"

#include <nlohmann/json.hpp>

namespace perdure::process {

std::string status_json(Kernel& kernel) {
  using nlohmann::json;
  const FrameAllocator::Totals totals = kernel.frames().totals();
  json status = {{"release", std::string(kernel.config().release)},
                 {"hop", kernel.boot_info().hop},
                 {"memory",
                  {{"frames", totals.frames},
                   {"free", totals.free},
                   {"kept", totals.kept},
                   {"heap_bytes", kernel.heap().bytes_in_use()}}},
                 {"timeline", json::array()}};
  for (const PhaseTime& p : kernel.timeline().phases()) {
    status["timeline"].push_back(
        {{"phase", std::string(phase_name(p.phase))}, {"begin_ns", p.begin_ns}, {"end_ns", p.end_ns}});
  }
  return status.dump();
}

}  // namespace perdure::process
