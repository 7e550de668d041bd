#include "core/base/lock.h"

namespace perdure {

bool Mutex::held_by_me() const {
  const ThreadContext& me = *perdure_thread_context();
  for (unsigned i = 0; i < me.count; ++i) {
    if (me.held[i] == this) return true;
  }
  return false;
}

void Mutex::lock() {
  ThreadContext& me = *perdure_thread_context();
  PERDURE_ASSERT(me.count < ThreadContext::kMaxHeld);
  // Two locks of one rank may not nest either: there is no order between them.
  PERDURE_ASSERT(me.count == 0 || me.held[me.count - 1]->rank_ < rank_);
  u32 expected = 0;
  while (!state_.compare_exchange_weak(expected, 1, std::memory_order_acquire, std::memory_order_relaxed)) {
    perdure_relax();
    expected = 0;
  }
  me.held[me.count++] = this;
}

void Mutex::unlock() {
  ThreadContext& me = *perdure_thread_context();
  // Not always the innermost: guards may end in another order than they began.
  unsigned at = me.count;
  while (at > 0 && me.held[at - 1] != this) --at;
  PERDURE_ASSERT(at > 0);
  for (; at < me.count; ++at) me.held[at - 1] = me.held[at];
  --me.count;
  state_.store(0, std::memory_order_release);
}

void Mutex::assert_held() const {
  PERDURE_ASSERT(held_by_me());
}

}  // namespace perdure
