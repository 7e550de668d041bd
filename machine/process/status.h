// The kernel's state as JSON text: releases, number of the update, sessions with their files and how far they are, who
// has which device, how much would cross the next jump, timeline, memory totals.
#pragma once
#include <string>

#include "core/kernel/kernel.h"

namespace perdure::process {

std::string status_json(Kernel& kernel);

}  // namespace perdure::process
