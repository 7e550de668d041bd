// The kernel's state as JSON text: release, hop, timeline, memory totals.
#pragma once
#include <string>

#include "core/kernel/kernel.h"

namespace perdure::process {

std::string status_json(Kernel& kernel);

}  // namespace perdure::process
