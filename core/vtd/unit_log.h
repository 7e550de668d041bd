// Every line of the driver names its unit.
#pragma once
#include "core/base/log.h"
#include "core/pci/source_id.h"

namespace perdure::vtd {

inline Line unit_line(Phys base) {
  Line line;
  line << "vtd " << base << ": ";
  return line;
}

// bus:device.function, as lspci writes it.
inline Line& operator<<(Line& line, SourceId source) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  const auto hex2 = [&](u8 v) { line << kDigits.substr(v >> 4, 1) << kDigits.substr(v & 15, 1); };
  hex2(static_cast<u8>(source.segment >> 8));
  hex2(static_cast<u8>(source.segment));
  line << ":";
  hex2(source.bus());
  line << ":";
  hex2(source.device());
  return line << "." << source.function();
}

}  // namespace perdure::vtd
