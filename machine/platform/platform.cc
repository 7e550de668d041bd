#include "core/base/platform.h"

#include <sched.h>

#include <cstdio>
#include <cstdlib>

perdure::ThreadContext* perdure_thread_context() {
  thread_local perdure::ThreadContext context;
  return &context;
}

void perdure_relax() {
  sched_yield();
}

void perdure_panic(const char* what, const char* file, unsigned line) {
  std::fprintf(stderr, "perdure: panic: %s (%s:%u)\n", what, file, line);
  std::abort();
}
