// Runs a seccomp filter where the kernel does not: the instructions that machine/intercept/filter.cc uses.
#pragma once
#include <linux/filter.h>
#include <linux/seccomp.h>

#include <span>

#include "core/base/types.h"

namespace perdure::agent {

// What the filter answers. Allowed where it is none, or has an instruction that is not known here.
inline u32 run_filter(std::span<const sock_filter> filter, const seccomp_data& data) {
  u32 value = 0;
  for (usize at = 0; at < filter.size(); ++at) {
    const sock_filter& one = filter[at];
    bool taken = false;
    switch (one.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        if (one.k > sizeof data - sizeof value || one.k % sizeof value != 0) return SECCOMP_RET_ALLOW;
        __builtin_memcpy(&value, reinterpret_cast<const char*>(&data) + one.k, sizeof value);
        continue;
      case BPF_ALU | BPF_AND | BPF_K: value &= one.k; continue;
      case BPF_RET | BPF_K: return one.k;
      case BPF_JMP | BPF_JEQ | BPF_K: taken = value == one.k; break;
      case BPF_JMP | BPF_JGE | BPF_K: taken = value >= one.k; break;
      default: return SECCOMP_RET_ALLOW;
    }
    at += taken ? one.jt : one.jf;
  }
  return SECCOMP_RET_ALLOW;
}

}  // namespace perdure::agent
