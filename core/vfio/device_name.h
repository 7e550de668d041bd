// "0000:01:00.0": what programs call a function by.
#pragma once
#include <string_view>

#include "core/pci/source_id.h"

namespace perdure::vfio {

class DeviceName {
 public:
  explicit DeviceName(SourceId source);
  std::string_view text() const { return {text_, length_}; }

 private:
  char text_[16] = {};
  usize length_ = 0;
};

}  // namespace perdure::vfio
