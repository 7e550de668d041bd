// What sysfs shows of the machine's functions, as JSON text: an array with an object for each.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "core/kernel/kernel.h"

namespace perdure::process {

// "0000:01:00.0"
std::string function_name(SourceId source);

// Of a path that ends in "<function>/sriov_numvfs".
std::optional<SourceId> sriov_numvfs_of(std::string_view path);
// What is written to an attribute that is a number: decimal, hexadecimal or octal, with or without a newline. Einval;
// Erange: beyond 16 bits.
Result<u32> sysfs_number(std::string_view text);

std::string devices_json(Kernel& kernel);

}  // namespace perdure::process
