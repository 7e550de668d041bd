// Times in words.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "core/base/types.h"

namespace perdure::tool {

// "250 us", "1.5 ms"
std::string duration(u64 ns);
// "500ms", "2 s", "150us", "1000000ns"; a number alone is milliseconds.
std::optional<u64> duration_of(std::string_view text);

}  // namespace perdure::tool
