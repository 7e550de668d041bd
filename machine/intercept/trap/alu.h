// Integer arithmetic with the flags that it leaves (Intel SDM vol. 1, 3.4.3.1 and each instruction's page).
#pragma once
#include "core/base/types.h"

namespace perdure::intercept {

constexpr u64 mask_of(unsigned bytes) {
  return bytes >= 8 ? ~u64{0} : (u64{1} << (8 * bytes)) - 1;
}
constexpr u64 sign_extend(u64 value, unsigned bytes) {
  const u64 top = u64{1} << (8 * bytes - 1);
  return ((value & mask_of(bytes)) ^ top) - top;
}

// Operands of `bytes` bytes; `flags` is changed in the arithmetic bits alone. The result is cut to the width.
u64 alu_add(u64 a, u64 b, bool carry, unsigned bytes, u64& flags);
u64 alu_subtract(u64 a, u64 b, bool borrow, unsigned bytes, u64& flags);
// Flags of AND, OR, XOR and TEST, whose result this is. The adjust flag, which is undefined, is cleared.
void alu_logic(u64 result, unsigned bytes, u64& flags);
// INC and DEC: the carry stays.
u64 alu_increment(u64 a, unsigned bytes, u64& flags);
u64 alu_decrement(u64 a, unsigned bytes, u64& flags);

}  // namespace perdure::intercept
