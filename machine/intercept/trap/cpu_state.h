// A thread's general registers, however they were read: by ptrace or from a signal frame.
#pragma once
#include "core/base/types.h"

namespace perdure::intercept {

struct CpuState {
  // In the order of their numbers in instructions.
  enum Register : u8 { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi };
  u64 general[16] = {};  // the others: r8 to r15
  u64 rip = 0;
  u64 flags = 0;
  u64 fs_base = 0;
  u64 gs_base = 0;
};

// Bits of the flags register.
namespace flag {
inline constexpr u64 kCarry = 1 << 0;
inline constexpr u64 kParity = 1 << 2;
inline constexpr u64 kAdjust = 1 << 4;
inline constexpr u64 kZero = 1 << 6;
inline constexpr u64 kSign = 1 << 7;
inline constexpr u64 kDirection = 1 << 10;
inline constexpr u64 kOverflow = 1 << 11;
inline constexpr u64 kArithmetic = kCarry | kParity | kAdjust | kZero | kSign | kOverflow;
}  // namespace flag

}  // namespace perdure::intercept
