// A program may truncate the file behind a bank at any time; touching the pages that went away raises SIGBUS. Inside
// a guarded range the handler puts a page of zeros there instead, and counts. It is the only global state of the
// board: signal handlers belong to the process.
#pragma once
#include "core/base/types.h"

namespace perdure::board {

class BusErrorGuard {
 public:
  static constexpr unsigned kMaxRanges = 64;

  // Guards [start, start + bytes); installs the handler at the first use and chains to what was there before. Returns
  // a slot for the calls below. Throws std::runtime_error when all are taken.
  static unsigned add(void* start, u64 bytes);
  static void remove(unsigned slot);
  // Pages replaced in this range.
  static u64 count(unsigned slot);
};

}  // namespace perdure::board
