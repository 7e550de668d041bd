// The oracle for functions that a live update leaves at work: what software writes to them, and to the bridges that
// carry their requests, is judged against a list of what is allowed. Everything that is not on the list breaks the
// rule, also a write that changes nothing.
//
//   stage             the function itself                                       bridges above it
//   AtWork            nothing: no configuration, no register                    nothing
//   InProgramsHands   COMMAND, Device Control but for a reset, MSI, MSI-X       nothing
//                     and its table, registers
//
// From the freeze on a function is AtWork; from the BIND of the retrieved descriptor on its program may write through
// vfio and connect interrupts; after the finish it is like any other.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "machine/board/device.h"

namespace perdure::board {

struct WatchedWrite {
  u64 when_ns = 0;
  const Device* target = nullptr;    // what was written to
  const Device* function = nullptr;  // for whose sake it is watched: itself, or below it
  bool config = true;                // else a register behind a BAR
  unsigned bar = 0;
  u64 offset = 0;
  u8 width = 0;
  u64 value = 0;
  bool allowed = false;

  std::string to_string() const;
};

class PciWatch {
 public:
  enum class Stage : u8 { AtWork, InProgramsHands };

  // From now on; again: in another stage.
  void watch(const Device& function, Stage stage);
  void release(const Device& function);

  // By the bus, with no device's lock held.
  void config_written(u64 now_ns, const Device& target, u16 offset, unsigned width, u32 value);
  void register_written(u64 now_ns, const Device& target, unsigned bar, u64 offset, unsigned width, u64 value);

  // Every write to what was watched: the allowed ones, then those that break the rule; of each at most kKept are kept.
  static constexpr usize kKept = 4096;
  std::vector<WatchedWrite> writes() const;
  std::vector<std::string> violations() const;
  u64 violation_count() const;
  void clear();

 private:
  void judge(WatchedWrite write);
  static bool program_may(const WatchedWrite& write);

  mutable DeviceMutex lock_;
  std::map<const Device*, Stage> watched_ GUARDED_BY(lock_);
  std::vector<WatchedWrite> allowed_ GUARDED_BY(lock_);
  std::vector<WatchedWrite> broken_ GUARDED_BY(lock_);
  u64 broken_count_ GUARDED_BY(lock_) = 0;
};

}  // namespace perdure::board
