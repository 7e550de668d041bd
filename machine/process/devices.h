// What sysfs shows of the machine's functions, as JSON text: an array with an object for each.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "core/kernel/kernel.h"

namespace perdure::process {

// "0000:01:00.0"
std::string function_name(SourceId source);

// And back.
std::optional<SourceId> function_of(std::string_view name);
// Of a path that ends in "<function>/<name>".
struct Attribute {
  SourceId function;
  std::string_view name;
};
std::optional<Attribute> attribute_of(std::string_view path);
// What is written to an attribute that is a number: decimal, hexadecimal or octal, with or without a newline. Einval;
// Erange: beyond 16 bits.
Result<u32> sysfs_number(std::string_view text);

class Drivers;
std::string devices_json(Kernel& kernel, const Drivers& drivers);

}  // namespace perdure::process
