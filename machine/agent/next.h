// The C library's own functions, which this library's stand before.
#pragma once
#include <dlfcn.h>

#include <atomic>
#include <cerrno>

#include "core/base/types.h"

namespace perdure::agent {

template <class F>
F* next(std::atomic<void*>& cache, const char* name) {
  void* found = cache.load(std::memory_order_relaxed);
  if (found == nullptr) {
    found = dlsym(RTLD_NEXT, name);
    cache.store(found, std::memory_order_relaxed);
  }
  return reinterpret_cast<F*>(found);
}

// As the C library returns what a system call returned.
inline s64 result(s64 value) {
  constexpr s64 kLastErrno = 4095;
  if (value >= 0 || value < -kLastErrno) return value;
  errno = static_cast<int>(-value);
  return -1;
}

}  // namespace perdure::agent

// PERDURE_NEXT(int(int), close)(fd)
#define PERDURE_NEXT(type, name)                        \
  ([] {                                                 \
    static constinit std::atomic<void*> cache{nullptr}; \
    return ::perdure::agent::next<type>(cache, #name);  \
  }())
// What programs find in place of the C library's.
#define PERDURE_TAKES_PLACE extern "C" [[gnu::visibility("default")]]
