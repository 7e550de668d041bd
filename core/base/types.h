// Integer names and strong address types. An address space is a type: a physical address cannot be
// passed where an I/O virtual address is meant.
#pragma once
#include <compare>
#include <cstddef>
#include <cstdint>

// 64 bits: physical addresses, and what crosses the jump, do not fit into less (R64).
static_assert(sizeof(void*) == 8, "perdure needs a 64-bit machine");

namespace perdure {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
using usize = std::size_t;

inline constexpr unsigned kPageShift = 12;
inline constexpr u64 kPageSize = u64{1} << kPageShift;
inline constexpr u64 kHugePageSize = u64{2} << 20;
inline constexpr u64 kGiantPageSize = u64{1} << 30;

// An address in one address space; `Tag` tells which. Arithmetic with byte counts stays in the space.
template <class Tag>
struct Address {
  u64 value = 0;

  constexpr Address() = default;
  constexpr explicit Address(u64 v) : value(v) {}
  constexpr auto operator<=>(const Address&) const = default;
  constexpr explicit operator bool() const { return value != 0; }

  constexpr Address operator+(u64 bytes) const { return Address{value + bytes}; }
  constexpr Address operator-(u64 bytes) const { return Address{value - bytes}; }
  constexpr u64 operator-(Address other) const { return value - other.value; }
  constexpr Address& operator+=(u64 bytes) {
    value += bytes;
    return *this;
  }
  constexpr u64 page() const { return value >> kPageShift; }
  constexpr bool aligned(u64 to) const { return (value & (to - 1)) == 0; }
};

using Phys = Address<struct PhysTag>;          // host physical
using Iova = Address<struct IovaTag>;          // I/O virtual, what a device puts on the bus
using UserAddr = Address<struct UserAddrTag>;  // virtual, in a program

constexpr u64 align_up(u64 v, u64 to) {
  return (v + to - 1) & ~(to - 1);
}
constexpr u64 align_down(u64 v, u64 to) {
  return v & ~(to - 1);
}
constexpr bool is_pow2(u64 v) {
  return v != 0 && (v & (v - 1)) == 0;
}
// True when [start, start + length) wraps or leaves [0, 2^64).
constexpr bool range_overflows(u64 start, u64 length) {
  return length != 0 && start + (length - 1) < start;
}
constexpr bool ranges_overlap(u64 a, u64 a_len, u64 b, u64 b_len) {
  return a_len != 0 && b_len != 0 && a <= b + (b_len - 1) && b <= a + (a_len - 1);
}

}  // namespace perdure
