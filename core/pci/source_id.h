// A requester on the bus.
#pragma once
#include <compare>

#include "core/base/types.h"

namespace perdure {

// Segment and bus/device/function, as in PCI Express requester ids.
struct SourceId {
  u16 segment = 0;
  u16 bdf = 0;
  static constexpr SourceId of(u16 segment, u8 bus, u8 device, u8 function) {
    return {segment, static_cast<u16>(bus << 8 | (device & 0x1f) << 3 | (function & 7))};
  }
  constexpr u8 bus() const { return static_cast<u8>(bdf >> 8); }
  constexpr u8 devfn() const { return static_cast<u8>(bdf); }
  constexpr u8 device() const { return static_cast<u8>(devfn() >> 3); }
  constexpr u8 function() const { return static_cast<u8>(devfn() & 7); }
  constexpr auto operator<=>(const SourceId&) const = default;
};

}  // namespace perdure
