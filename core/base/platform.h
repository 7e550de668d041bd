// The named hooks that whoever embeds the core supplies, beside memcpy, memset, memmove and memcmp.
// Everything else is injected through Machine.
#pragma once
#include "core/base/types.h"

namespace perdure {

class Mutex;

// What a thread of control carries for the run-time lock checks: the mutexes it holds, outermost first.
struct ThreadContext {
  static constexpr unsigned kMaxHeld = 16;
  const Mutex* held[kMaxHeld] = {};
  unsigned count = 0;
};

}  // namespace perdure

extern "C" {
// The calling thread's context; never null, lives as long as the thread.
perdure::ThreadContext* perdure_thread_context();
// Called while waiting for something that another thread will do.
void perdure_relax();
// A broken invariant of the core itself. Does not return.
[[noreturn]] void perdure_panic(const char* what, const char* file, unsigned line);
}

// An invariant that only a bug in the core can break; never used on input.
#define PERDURE_ASSERT(condition)                    \
  do {                                               \
    if (!(condition)) [[unlikely]]                   \
      perdure_panic(#condition, __FILE__, __LINE__); \
  } while (false)
