// What sysfs shows of the machine's functions, as JSON text: an array with an object for each.
#pragma once
#include <string>

#include "core/kernel/kernel.h"

namespace perdure::process {

// "0000:01:00.0"
std::string function_name(SourceId source);

std::string devices_json(Kernel& kernel);

}  // namespace perdure::process
