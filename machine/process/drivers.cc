#include "machine/process/drivers.h"

#include <algorithm>
#include <cstdio>

#include "machine/process/devices.h"

namespace perdure::process {

namespace {

constexpr std::string_view kDriver = "vfio-pci";
constexpr std::string_view kOfDriver = "/sys/bus/pci/drivers/vfio-pci/";
constexpr usize kMostText = 4095;  // a page of sysfs, with its end

std::string_view without_newline(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

}  // namespace

Result<void> Drivers::write(std::string_view path, std::string_view text) {
  if (path.starts_with(kOfDriver)) return of_driver(path.substr(kOfDriver.size()), text);
  if (path == "/sys/bus/pci/drivers_probe") {
    const auto function = function_of(without_newline(text));
    if (!function || !kernel_.bus().find(*function)) return fail(Errno::Einval);
    if (may_have(*function)) static_cast<void>(kernel_.bind_driver(*function));
    return {};
  }
  const auto attribute = attribute_of(path);
  if (!attribute) return fail(Errno::Eacces);
  return of_function(attribute->function, attribute->name, text);
}

Result<void> Drivers::of_driver(std::string_view attribute, std::string_view text) {
  if (attribute == "bind" || attribute == "unbind") {
    const auto function = function_of(without_newline(text));
    if (!function) return fail(Errno::Enodev);
    if (attribute == "unbind") return kernel_.unbind_driver(*function);
    return may_have(*function) ? kernel_.bind_driver(*function) : fail(Errno::Enodev);
  }
  Id id;
  if (std::sscanf(std::string(text).c_str(), "%x %x", &id.vendor, &id.device) != 2) return fail(Errno::Einval);
  if (attribute == "new_id") return add_id(id);
  if (attribute == "remove_id") return remove_id(id);
  return fail(Errno::Eacces);
}

Result<void> Drivers::of_function(SourceId function, std::string_view attribute, std::string_view text) {
  if (attribute == "sriov_numvfs") return kernel_.set_virtual_functions(function, TRY(sysfs_number(text)));
  if (attribute == "driver_override") return set_override(function, text);
  return fail(Errno::Eacces);
}

Result<void> Drivers::set_override(SourceId function, std::string_view name) {
  if (!kernel_.bus().find(function)) return fail(Errno::Enoent);
  if (name.size() >= kMostText) return fail(Errno::Einval);
  name = name.substr(0, name.find('\n'));
  const std::scoped_lock lock(mutex_);
  if (name.empty()) {
    overrides_.erase(function);
  } else {
    overrides_[function] = name;
  }
  return {};
}

std::optional<std::string> Drivers::override_of(SourceId function) const {
  const std::scoped_lock lock(mutex_);
  const auto found = overrides_.find(function);
  return found == overrides_.end() ? std::nullopt : std::optional(found->second);
}

// The machine gives it every device, as if it had been started with all their ids.
bool Drivers::may_have(SourceId function) const {
  return override_of(function).value_or(std::string(kDriver)) == kDriver;
}

Result<void> Drivers::add_id(Id id) {
  {
    const std::scoped_lock lock(mutex_);
    if (std::ranges::find(ids_, id) != ids_.end()) return fail(Errno::Eexist);
    ids_.push_back(id);
  }
  // Who has no driver is looked at again.
  pci::Bus& bus = kernel_.bus();
  for (usize i = 0; i < bus.size(); ++i) {
    const pci::Function& function = bus.at(i);
    if (!function.enabled() || Id{function.vendor(), function.device()} != id || !may_have(function.source())) continue;
    static_cast<void>(kernel_.bind_driver(function.source()));
  }
  return {};
}

Result<void> Drivers::remove_id(Id id) {
  const std::scoped_lock lock(mutex_);
  return std::erase(ids_, id) != 0 ? Result<void>() : fail(Errno::Enodev);
}

}  // namespace perdure::process
