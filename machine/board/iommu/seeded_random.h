// A reproducible sequence: the same seed gives the same machine.
#pragma once
#include "core/base/types.h"

namespace perdure::board {

class SeededRandom {
 public:
  explicit SeededRandom(u64 seed) : state_(seed) {}

  u64 next() {  // splitmix64
    state_ += 0x9E37'79B9'7F4A'7C15;
    u64 z = state_;
    z = (z ^ (z >> 30)) * 0xBF58'476D'1CE4'E5B9;
    z = (z ^ (z >> 27)) * 0x94D0'49BB'1331'11EB;
    return z ^ (z >> 31);
  }
  // One of [low, high].
  u32 between(u32 low, u32 high) { return low >= high ? low : low + static_cast<u32>(next() % (u64{high} - low + 1)); }

  u64 state() const { return state_; }
  void set_state(u64 state) { state_ = state; }

 private:
  u64 state_;
};

}  // namespace perdure::board
