// The live state of a machine as a tree that can be walked by path: sessions/NAME/files/TOKEN, devices/0000:01:00.0.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/base/types.h"

namespace perdure::tool {

// From a kernel's status (machine/process/status.h): what it lists by name or number is found under it.
nlohmann::json status_tree(const nlohmann::json& status);

// The part that a path names; "" is the whole. Names may hold slashes: the longest that fits is taken. Null when there
// is none; `parent` then becomes the path that there is, as far as it fits.
const nlohmann::json* find_part(const nlohmann::json& tree, std::string_view path, std::string& parent);

// Indented, for people.
std::string render_tree(const nlohmann::json& part);

// "ended with status 1", "was ended by signal 9": of a wait status.
std::string ending(int wait_status);

}  // namespace perdure::tool
