#include "tool/machine/status_tree.h"

#include <sys/wait.h>

namespace perdure::tool {

using nlohmann::json;

namespace {

// What names the elements of a list, in the order of preference.
constexpr const char* kNames[] = {"name", "function", "number", "token", "id", "pid"};

std::string name_of(const json& element) {
  // A page table, of a context of iommufd.
  if (element.contains("context") && element.contains("hwpt")) {
    return element["context"].dump() + "." + element["hwpt"].dump();
  }
  for (const char* key : kNames) {
    const auto found = element.find(key);
    if (found == element.end()) continue;
    return found->is_string() ? found->get<std::string>() : found->dump();
  }
  return {};
}

// Lists of things with different names become maps.
json keyed(const json& value) {
  if (value.is_object()) {
    json all = json::object();
    for (const auto& [key, part] : value.items()) all[key] = keyed(part);
    return all;
  }
  if (!value.is_array()) return value;
  json map = json::object();
  json list = json::array();
  for (const json& element : value) {
    list.push_back(keyed(element));
    const std::string name = element.is_object() ? name_of(element) : std::string();
    if (!name.empty() && !map.contains(name)) map[name] = list.back();
  }
  return !value.empty() && map.size() != value.size() ? list : map;
}

void render(const json& part, const std::string& indent, std::string& text) {
  const auto scalar = [](const json& v) {
    return v.is_string() ? v.get<std::string>() : v.dump(-1, ' ', false, json::error_handler_t::replace);
  };
  if (!part.is_structured()) {
    text += indent + scalar(part) + "\n";
    return;
  }
  usize number = 0;
  for (const auto& [key, value] : part.items()) {
    const std::string name = part.is_array() ? "[" + std::to_string(number++) + "]" : key;
    if (!value.is_structured()) {
      text += indent + name + ": " + scalar(value) + "\n";
    } else if (value.empty()) {
      text += indent + name + ": none\n";
    } else {
      text += indent + name + "\n";
      render(value, indent + "  ", text);
    }
  }
}

}  // namespace

json status_tree(const json& status) {
  json tree = keyed(status);
  // Phases stand in order of time, and may come twice.
  if (status.contains("timeline")) tree["timeline"] = status.at("timeline");
  return tree;
}

const json* find_part(const json& tree, std::string_view path, std::string& parent) {
  while (path.ends_with('/')) path.remove_suffix(1);
  while (path.starts_with('/')) path.remove_prefix(1);
  if (path.empty()) return &tree;
  if (tree.is_array()) {
    const std::string first(path.substr(0, path.find('/')));
    for (usize i = 0; i < tree.size(); ++i) {
      if (first != std::to_string(i)) continue;
      parent += (parent.empty() ? "" : "/") + first;
      return find_part(tree[i], path.substr(first.size()), parent);
    }
    return nullptr;
  }
  if (!tree.is_object()) return nullptr;
  for (usize end = path.size();;) {
    const std::string key(path.substr(0, end));
    if (const auto found = tree.find(key); found != tree.end()) {
      parent += (parent.empty() ? "" : "/") + key;
      return find_part(*found, path.substr(end), parent);
    }
    end = path.substr(0, end).rfind('/');
    if (end == std::string_view::npos) return nullptr;
  }
}

std::string render_tree(const json& part) {
  std::string text;
  render(part, "", text);
  return text;
}

std::string ending(int wait_status) {
  if (WIFSIGNALED(wait_status)) return "was ended by signal " + std::to_string(WTERMSIG(wait_status));
  return "ended with status " + std::to_string(WEXITSTATUS(wait_status));
}

}  // namespace perdure::tool
