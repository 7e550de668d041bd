// L1 of kho-luo §2.3: programs are inside while they use a session; the reboot path waits for them and shuts
// the gate, for good if the machine jumps.
#pragma once
#include "core/base/lock.h"
#include "core/base/result.h"

namespace perdure::luo {

class Gate {
 public:
  // Waits while a freeze is under way. Ekilled once frozen: this kernel is over for the caller.
  Result<void> enter() EXCLUDES(lock_) {
    for (;;) {
      {
        MutexGuard guard(lock_);
        if (state_ == State::Frozen) return fail(Errno::Ekilled);
        if (state_ == State::Open) {
          ++inside_;
          return {};
        }
      }
      perdure_relax();
    }
  }
  void leave() EXCLUDES(lock_) {
    MutexGuard guard(lock_);
    PERDURE_ASSERT(inside_ > 0);
    --inside_;
  }
  // Waits until nobody is inside. Ebusy: somebody else is freezing, or has frozen.
  Result<void> shut() EXCLUDES(lock_) {
    {
      MutexGuard guard(lock_);
      if (state_ != State::Open) return fail(Errno::Ebusy);
      state_ = State::Shutting;
    }
    for (;;) {
      {
        MutexGuard guard(lock_);
        if (inside_ == 0) return {};
      }
      perdure_relax();
    }
  }
  void freeze() EXCLUDES(lock_) { set(State::Frozen); }
  void open() EXCLUDES(lock_) { set(State::Open); }
  bool frozen() const EXCLUDES(lock_) {
    MutexGuard guard(lock_);
    return state_ == State::Frozen;
  }

  class Pass {
   public:
    static Result<Pass> enter(Gate& gate) {
      TRY(gate.enter());
      return Pass(gate);
    }
    Pass(Pass&& o) noexcept : gate_(std::exchange(o.gate_, nullptr)) {}
    Pass& operator=(Pass&&) = delete;
    ~Pass() {
      if (gate_ != nullptr) gate_->leave();
    }

   private:
    explicit Pass(Gate& gate) : gate_(&gate) {}
    Gate* gate_;
  };

 private:
  enum class State : u8 { Open, Shutting, Frozen };
  void set(State state) {
    MutexGuard guard(lock_);
    state_ = state;
  }
  mutable Mutex lock_{LockRank::Leaf};
  State state_ GUARDED_BY(lock_) = State::Open;
  u32 inside_ GUARDED_BY(lock_) = 0;
};

}  // namespace perdure::luo
