// What a kernel process does with its time beside serving programs: it listens for its bell, and is called every now
// and then.
#pragma once
#include <functional>

#include "core/base/types.h"

namespace perdure::process {

struct BellWatch {
  static constexpr u64 kServiceNs = 100'000'000;

  int socket = -1;                // a message on it: something is to be delivered
  std::function<u64()> now_ns;    // a clock
  std::function<void()> deliver;  // after each message, and once at the start
  std::function<void()> service;  // at least every other kServiceNs, however often the bell rings

  // Returns when the other end of the socket is gone.
  void run() const;
};

}  // namespace perdure::process
