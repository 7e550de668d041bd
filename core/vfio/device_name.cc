#include "core/vfio/device_name.h"

namespace perdure::vfio {

DeviceName::DeviceName(SourceId source) {
  const auto put = [this](u32 value, unsigned digits) {
    for (unsigned i = digits; i-- > 0;) text_[length_++] = "0123456789abcdef"[value >> 4 * i & 15];
  };
  put(source.segment, 4);
  text_[length_++] = ':';
  put(source.bus(), 2);
  text_[length_++] = ':';
  put(source.device(), 2);
  text_[length_++] = '.';
  put(source.function(), 1);
}

}  // namespace perdure::vfio
