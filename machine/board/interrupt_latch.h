// What the processors keep of interrupts while no kernel takes them: one pending bit for each vector of each local
// APIC, as its request register does. A second message to a vector that is pending adds nothing.
#pragma once
#include <bitset>

#include "core/base/function_ref.h"
#include "core/base/types.h"
#include "machine/board/state_file.h"

namespace perdure::board {

struct InterruptCounts {
  u64 latched = 0;    // kept for the next kernel, which is handed each once
  u64 coalesced = 0;  // to a vector that was pending already
  u64 dropped = 0;    // to no vector of any processor
};

// Not thread-safe.
class InterruptLatch {
 public:
  static constexpr u64 kProcessors = 16;
  static constexpr u64 kVectors = 256;
  static constexpr u64 kFirstVector = 16;  // those below are refused by the APIC (illegal vector)

  // `address` and `data` of a message in compatibility format.
  void take(u64 address, u32 data);
  // Each pending one, which is not pending any more, in ascending order.
  void hand_over(FunctionRef<void(u64 address, u32 data)> deliver);

  const InterruptCounts& counts() const { return counts_; }
  void drop(u64 n = 1) { counts_.dropped += n; }

  void save(StateWriter& out) const;
  void load(StateReader& in);

 private:
  std::bitset<kProcessors * kVectors> pending_;
  InterruptCounts counts_;
};

}  // namespace perdure::board
