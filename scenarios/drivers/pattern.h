// Contents that tell where they belong: of disk blocks, network frames and transfers of the bus masters.
#pragma once
#include "core/base/types.h"

namespace perdure::scenarios {

// The finaliser of splitmix64.
constexpr u64 mix64(u64 x) {
  x += 0x9E37'79B9'7F4A'7C15;
  x = (x ^ x >> 30) * 0xBF58'476D'1CE4'E5B9;
  x = (x ^ x >> 27) * 0x94D0'49BB'1331'11EB;
  return x ^ x >> 31;
}

// Words that follow from one number. Cheap to make, and no two places of one pattern have the same.
class Pattern {
 public:
  explicit constexpr Pattern(u64 key) : first_(mix64(key)) {}
  constexpr u64 word(u64 i) const { return first_ + i * 0x9E37'79B9'7F4A'7C15; }

 private:
  u64 first_;
};

}  // namespace perdure::scenarios
