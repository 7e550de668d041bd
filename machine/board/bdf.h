// A function's place on the bus.
#pragma once
#include <compare>
#include <cstdio>
#include <string>

#include "core/base/types.h"

namespace perdure::board {

struct Bdf {
  u16 value = 0;  // bus << 8 | device << 3 | function, as in requester ids
  u16 segment = 0;

  constexpr Bdf() = default;
  constexpr explicit Bdf(u16 v, u16 in_segment = 0) : value(v), segment(in_segment) {}
  constexpr Bdf(unsigned bus, unsigned device, unsigned function, u16 in_segment = 0)
      : value(static_cast<u16>(bus << 8 | device << 3 | function)), segment(in_segment) {}
  constexpr u8 bus() const { return static_cast<u8>(value >> 8); }
  constexpr u8 devfn() const { return static_cast<u8>(value); }
  constexpr u8 device() const { return static_cast<u8>(devfn() >> 3); }
  constexpr u8 function() const { return static_cast<u8>(value & 7); }
  constexpr bool operator==(const Bdf&) const = default;
  constexpr auto operator<=>(const Bdf& other) const {
    return segment != other.segment ? segment <=> other.segment : value <=> other.value;
  }

  // "0000:01:00.0"
  std::string to_string() const {
    char text[16];
    std::snprintf(text, sizeof(text), "%04x:%02x:%02x.%u", unsigned{segment}, unsigned{bus()}, unsigned{device()},
                  unsigned{function()});
    return text;
  }
};

}  // namespace perdure::board
