// Interrupt vectors of one kernel: where a message of the board goes.
#pragma once
#include <map>
#include <mutex>

#include "core/base/machine.h"

namespace perdure::process {

class IrqTable {
 public:
  // One processor's local APIC after the other, 4 KiB apart; the board's processors have 256 vectors each.
  static constexpr u64 kAddress = 0xFEE00000;
  static constexpr u64 kProcessors = 16;

  // Enospc. What was freed last is not the first to be given out again: a message may still be on its way.
  Result<MsiTarget> alloc(IrqSink& sink) {
    const std::scoped_lock lock(mutex_);
    for (u32 tried = 0; tried < kProcessors * kUsable; ++tried) {
      const u32 at = last_ = (last_ + 1) % (kProcessors * kUsable);
      const MsiTarget target{kAddress + u64{at / kUsable} * kApicBytes, kFirst + at % kUsable};
      if (sinks_.try_emplace(key(target), &sink).second) return target;
    }
    return fail(Errno::Enospc);
  }
  Result<void> claim(MsiTarget target, IrqSink& sink) {
    if (!valid(target)) return fail(Errno::Einval);
    const std::scoped_lock lock(mutex_);
    if (!sinks_.try_emplace(key(target), &sink).second) return fail(Errno::Eexist);
    return {};
  }
  // No call into the sink is under way when this returns.
  void free(MsiTarget target) {
    const std::scoped_lock lock(mutex_);
    sinks_.erase(key(target));
  }
  // Calls `each` with a function that delivers one message, unless interrupts are disabled.
  template <class Each>
  void deliver(Each each) {
    const std::scoped_lock lock(mutex_);
    if (!enabled_) return;
    each([this](u64 address, u32 data) {
      const auto sink = sinks_.find(key({address, data}));
      if (sink == sinks_.end()) {
        ++spurious_;
      } else {
        sink->second->raise();
      }
    });
  }
  void enable(bool on) {
    const std::scoped_lock lock(mutex_);
    enabled_ = on;
  }
  // Messages to a vector that nobody had.
  u64 spurious() const {
    const std::scoped_lock lock(mutex_);
    return spurious_;
  }

  static bool valid(MsiTarget target) {
    const u64 apic = target.address - kAddress;
    return apic % kApicBytes == 0 && apic / kApicBytes < kProcessors && target.data >= kFirst &&
           target.data < kFirst + kUsable;
  }

 private:
  static constexpr u64 kApicBytes = 4096;
  static constexpr u32 kFirst = 0x21;  // exceptions, and one for who knows what, come before
  static constexpr u32 kUsable = 0xF0 - kFirst;
  static u64 key(MsiTarget target) { return target.address << 32 | target.data; }

  mutable std::mutex mutex_;
  std::map<u64, IrqSink*> sinks_;
  u32 last_ = kProcessors * kUsable - 1;
  bool enabled_ = true;
  u64 spurious_ = 0;
};

}  // namespace perdure::process
