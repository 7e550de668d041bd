// What programs write to sysfs: orders to the driver of devices that programs drive, and to functions of the bus.
#pragma once
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/kernel/kernel.h"

namespace perdure::process {

class Drivers {
 public:
  explicit Drivers(Kernel& kernel) : kernel_(kernel) {}

  // As write() to an attribute that this is the path of, without links. Eacces: there is none such that can be written.
  Result<void> write(std::string_view path, std::string_view text);
  // The only driver that may have the function; nothing: any.
  std::optional<std::string> override_of(SourceId function) const;

 private:
  struct Id {
    u32 vendor = 0;
    u32 device = 0;
    bool operator==(const Id&) const = default;
  };
  Result<void> of_driver(std::string_view attribute, std::string_view text);
  Result<void> of_function(SourceId function, std::string_view attribute, std::string_view text);
  Result<void> set_override(SourceId function, std::string_view name);
  // vfio-pci's.
  bool may_have(SourceId function) const;
  Result<void> add_id(Id id);
  Result<void> remove_id(Id id);

  Kernel& kernel_;
  mutable std::mutex mutex_;
  std::map<SourceId, std::string> overrides_;
  std::vector<Id> ids_;
};

}  // namespace perdure::process
