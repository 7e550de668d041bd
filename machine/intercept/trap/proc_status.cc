#include "machine/intercept/trap/proc_status.h"

#include <cstdlib>
#include <fstream>

namespace perdure::intercept {

std::optional<std::string> proc_status(pid_t process, const std::string& name) {
  std::ifstream file("/proc/" + std::to_string(process) + "/status");
  const std::string start = name + ":\t";
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(start)) return line.substr(start.size());
  }
  return std::nullopt;
}

std::optional<pid_t> tracer_of(pid_t process) {
  const auto text = proc_status(process, "TracerPid");
  if (!text) return std::nullopt;
  return static_cast<pid_t>(std::atoi(text->c_str()));
}

}  // namespace perdure::intercept
