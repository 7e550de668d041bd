// The geometry that all formats share: a table is a page of 512 entries, level 1 holds leaves of 4 KiB. A slot is an
// entry's place together with the stretch of IOVA that it serves.
#pragma once
#include "core/base/types.h"

namespace perdure::pt {

inline constexpr unsigned kIndexBits = 9;
inline constexpr unsigned kEntries = 1u << kIndexBits;
static_assert(kEntries * sizeof(u64) == kPageSize);

constexpr unsigned slot_shift(unsigned level) {
  return kPageShift + kIndexBits * (level - 1);
}
constexpr u64 slot_size(unsigned level) {
  return u64{1} << slot_shift(level);
}
static_assert(slot_size(1) == kPageSize && slot_size(2) == kHugePageSize && slot_size(3) == kGiantPageSize);

// Of the slot that serves `iova` in its table of `level`.
constexpr unsigned index(u64 iova, unsigned level) {
  return static_cast<unsigned>(iova >> slot_shift(level)) & (kEntries - 1);
}
constexpr u64 slot_first(u64 iova, unsigned level) {
  return iova & ~(slot_size(level) - 1);
}
constexpr u64 slot_last(u64 iova, unsigned level) {
  return iova | (slot_size(level) - 1);
}
// Where the part of [at, last] that lies in the slot of `at` ends, inclusive.
constexpr u64 slot_end(u64 at, u64 last, unsigned level) {
  return slot_last(at, level) < last ? slot_last(at, level) : last;
}

// True when [start, start + length) lies in [0, limit]; length > 0.
constexpr bool fits(u64 start, u64 length, u64 limit) {
  return start <= limit && length - 1 <= limit - start;
}

}  // namespace perdure::pt
