// System calls as they are: not through the C library, whose functions are what this library takes the place of, and
// without errno, which is the program's.
#pragma once
#include "core/base/types.h"

namespace perdure::agent {

inline s64 raw(s64 number, u64 a = 0, u64 b = 0, u64 c = 0, u64 d = 0, u64 e = 0, u64 f = 0) {
  s64 result = 0;
  register u64 r10 asm("r10") = d;
  register u64 r8 asm("r8") = e;
  register u64 r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

template <class T>
u64 address(T* of) {
  return reinterpret_cast<u64>(of);
}

}  // namespace perdure::agent
