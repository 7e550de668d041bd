#include "machine/intercept/trap/alu.h"

#include "machine/intercept/trap/cpu_state.h"

namespace perdure::intercept {
namespace {

// Even parity of the lowest byte.
bool even(u64 value) {
  u64 byte = value & 0xFF;
  byte ^= byte >> 4;
  byte ^= byte >> 2;
  byte ^= byte >> 1;
  return (byte & 1) == 0;
}

u64 common(u64 result, unsigned bytes) {
  return (even(result) ? flag::kParity : 0) | (result == 0 ? flag::kZero : 0) |
         ((result >> (8 * bytes - 1) & 1) != 0 ? flag::kSign : 0);
}

void set(u64& flags, u64 arithmetic) {
  flags = (flags & ~flag::kArithmetic) | arithmetic;
}

}  // namespace

u64 alu_add(u64 a, u64 b, bool carry, unsigned bytes, u64& flags) {
  const u64 mask = mask_of(bytes);
  const u64 sign = u64{1} << (8 * bytes - 1);
  a &= mask;
  b &= mask;
  const u64 result = (a + b + (carry ? 1 : 0)) & mask;
  // Of each bit position: what was carried out of it.
  const u64 carries = (a & b) | ((a | b) & ~result);
  set(flags, common(result, bytes) | ((carries & sign) != 0 ? flag::kCarry : 0) |
                 ((carries & 8) != 0 ? flag::kAdjust : 0) |
                 (((a ^ result) & (b ^ result) & sign) != 0 ? flag::kOverflow : 0));
  return result;
}

u64 alu_subtract(u64 a, u64 b, bool borrow, unsigned bytes, u64& flags) {
  const u64 mask = mask_of(bytes);
  const u64 sign = u64{1} << (8 * bytes - 1);
  a &= mask;
  b &= mask;
  const u64 result = (a - b - (borrow ? 1 : 0)) & mask;
  const u64 borrows = (~a & b) | ((~a | b) & result);
  set(flags, common(result, bytes) | ((borrows & sign) != 0 ? flag::kCarry : 0) |
                 ((borrows & 8) != 0 ? flag::kAdjust : 0) |
                 (((a ^ b) & (a ^ result) & sign) != 0 ? flag::kOverflow : 0));
  return result;
}

void alu_logic(u64 result, unsigned bytes, u64& flags) {
  set(flags, common(result & mask_of(bytes), bytes));
}

u64 alu_increment(u64 a, unsigned bytes, u64& flags) {
  const u64 carry = flags & flag::kCarry;
  const u64 result = alu_add(a, 1, false, bytes, flags);
  flags = (flags & ~flag::kCarry) | carry;
  return result;
}

u64 alu_decrement(u64 a, unsigned bytes, u64& flags) {
  const u64 carry = flags & flag::kCarry;
  const u64 result = alu_subtract(a, 1, false, bytes, flags);
  flags = (flags & ~flag::kCarry) | carry;
  return result;
}

}  // namespace perdure::intercept
