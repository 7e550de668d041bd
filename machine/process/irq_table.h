// Interrupt vectors of one kernel: where a message of the board goes.
#pragma once
#include <map>
#include <mutex>

#include "core/base/machine.h"

namespace perdure::process {

class IrqTable {
 public:
  // The local APIC's window; the board delivers what devices write there.
  static constexpr u64 kAddress = 0xFEE00000;

  Result<MsiTarget> alloc(IrqSink& sink) {
    const std::scoped_lock lock(mutex_);
    const u32 vector = ++last_;
    sinks_[vector] = &sink;
    return MsiTarget{kAddress, vector};
  }
  // No call into the sink is under way when this returns.
  void free(MsiTarget target) {
    const std::scoped_lock lock(mutex_);
    sinks_.erase(target.data);
  }
  // False for a vector that nobody has.
  bool deliver(u64 address, u32 data) {
    const std::scoped_lock lock(mutex_);
    const auto sink = sinks_.find(data);
    if (address != kAddress || sink == sinks_.end()) return false;
    sink->second->raise();
    return true;
  }

 private:
  std::mutex mutex_;
  std::map<u32, IrqSink*> sinks_;
  u32 last_ = 0x20;
};

}  // namespace perdure::process
