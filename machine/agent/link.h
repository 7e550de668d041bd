// The way to the supervisor.
#pragma once
#include "core/base/types.h"

namespace perdure::agent {

struct Outcome {
  bool ours = false;  // else the call is to be made as if nobody had looked
  s64 value = 0;      // as system calls return it: errors are negative
};

// Shows a system call to the supervisor, if the filter selects it. Signals wait meanwhile, as for a call that was taken
// up. Leaves errno alone.
Outcome intercept(s64 number, u64 a = 0, u64 b = 0, u64 c = 0, u64 d = 0, u64 e = 0, u64 f = 0);

}  // namespace perdure::agent
