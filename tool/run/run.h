// `perdure run`: a program with /dev/iommu, /dev/vfio and /dev/liveupdate of a machine.
#pragma once
#include <string>
#include <vector>

#include "core/base/types.h"

namespace perdure::tool {

struct RunOptions {
  std::string machine;  // by name
  std::string socket;   // or by its kernel's socket; neither: a machine of its own
  std::string config;   // what that is made of: a file (docs/machine.md)
  std::string log;
  u32 restarts = 0;
  std::string mmio = "auto";   // or "trap", "off"
  std::string agent = "auto";  // or "only", "off"
  bool files = true;           // sysfs, too
  std::vector<std::string> program;
};

// The program's exit status, or 128 + the signal that ended it; 125: it could not be served, 126, 127: not be executed.
int run_run(const RunOptions& options);

}  // namespace perdure::tool
