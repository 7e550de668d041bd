// The state of the 1024 frames of one 4 MiB block, three bits a frame, and the searches over them.
//
//   busy head kept
//    0    0    0    free
//    1    1    0    allocated, first frame of its block     1  0  0  the block's other frames
//    1    1    1    kept, first frame of its block          1  0  1  the block's other frames
//    1    1    1    not ours to give out (reserved, beyond the end of RAM)
//
// Where a block ends follows from the next frame that is no "other frame", so a block can be freed or restored only
// with the order that it was made with. Kept and reserved frames are told apart by the allocator's extents.
#pragma once
#include "core/base/types.h"

namespace perdure {

struct FrameBits {
  static constexpr unsigned kOrder = 10;
  static constexpr unsigned kFrames = 1u << kOrder;
  static constexpr unsigned kWords = kFrames / 64;
  static constexpr unsigned kNotFound = ~0u;

  u64 busy[kWords];
  u64 head[kWords];
  u64 kept[kWords];

  // The bits of an aligned run within one word, order < 6.
  static u64 run_mask(unsigned first, unsigned order) { return ((u64{1} << (1u << order)) - 1) << (first % 64); }
  // Calls visit(word index, mask) for each word that holds frames of [first, first + count).
  template <class Visit>
  static void each_word(unsigned first, unsigned count, Visit visit) {
    while (count > 0) {
      const unsigned bit = first % 64;
      const unsigned here = count < 64 - bit ? count : 64 - bit;
      const u64 mask = (~u64{0} >> ((64 - here) & 63)) << bit;
      visit(first / 64, mask);
      first += here;
      count -= here;
    }
  }
  static void set(u64* bits, unsigned first, unsigned count) {
    each_word(first, count, [&](unsigned w, u64 mask) { bits[w] |= mask; });
  }
  static void clear(u64* bits, unsigned first, unsigned count) {
    each_word(first, count, [&](unsigned w, u64 mask) { bits[w] &= ~mask; });
  }
  static bool all(const u64* bits, unsigned first, unsigned count) {
    bool result = true;
    each_word(first, count, [&](unsigned w, u64 mask) { result = result && (bits[w] & mask) == mask; });
    return result;
  }
  static bool none(const u64* bits, unsigned first, unsigned count) {
    bool result = true;
    each_word(first, count, [&](unsigned w, u64 mask) { result = result && (bits[w] & mask) == 0; });
    return result;
  }
  static bool test(const u64* bits, unsigned at) { return ((bits[at / 64] >> (at % 64)) & 1) != 0; }

  // Every frame reserved.
  void fill() {
    for (unsigned w = 0; w < kWords; ++w) busy[w] = head[w] = kept[w] = ~u64{0};
  }
  void set_free(unsigned first, unsigned count) {
    clear(busy, first, count);
    clear(head, first, count);
    clear(kept, first, count);
  }

  // First frame of the lowest free, aligned run of 2^order frames, looked for from word `from` on; kNotFound.
  unsigned find(unsigned order, unsigned from) const {
    if (order > 6) {
      const unsigned words = 1u << (order - 6);
      for (unsigned w = 0; w < kWords; w += words) {
        unsigned k = 0;
        while (k < words && busy[w + k] == 0) ++k;
        if (k == words) return w * 64;
      }
      return kNotFound;
    }
    // Bits at multiples of 2^order.
    constexpr u64 kStarts[] = {0xffffffffffffffff, 0x5555555555555555, 0x1111111111111111, 0x0101010101010101,
                               0x0001000100010001, 0x0000000100000001, 0x0000000000000001};
    for (unsigned w = from; w < kWords; ++w) {
      u64 runs = ~busy[w];
      for (unsigned s = 0; s < order; ++s) runs &= runs >> (1u << s);
      runs &= kStarts[order];
      if (runs != 0) return w * 64 + static_cast<unsigned>(__builtin_ctzll(runs));
    }
    return kNotFound;
  }

  // True when the aligned run of 2^order frames that `at` lies in is free.
  bool is_free(unsigned at, unsigned order) const {
    if (order < 6) return (busy[at / 64] & run_mask(at & ~((1u << order) - 1), order)) == 0;
    const unsigned words = 1u << (order - 6);
    const unsigned first = at / 64 & ~(words - 1);
    for (unsigned w = first; w < first + words; ++w) {
      if (busy[w] != 0) return false;
    }
    return true;
  }

  // True when the 2^order frames at `first` belong to one block, which starts there if `starts`. All of them are kept,
  // or none is. Where the block ends is the caller's to check.
  bool is_block(unsigned first, unsigned order, bool starts, bool is_kept) const {
    if (order < 6) {
      const unsigned w = first / 64;
      const u64 mask = run_mask(first, order);
      return (busy[w] & mask) == mask && (head[w] & mask) == (starts ? mask & -mask : 0) &&
             (kept[w] & mask) == (is_kept ? mask : 0);
    }
    for (unsigned w = first / 64; w < first / 64 + (1u << (order - 6)); ++w) {
      const bool here = starts && w == first / 64;
      if (busy[w] != ~u64{0} || head[w] != (here ? 1 : 0) || kept[w] != (is_kept ? ~u64{0} : 0)) return false;
    }
    return true;
  }

  // True when `at` is a frame of a block that began before it.
  bool continues(unsigned at) const { return test(busy, at) && !test(head, at); }
};

}  // namespace perdure
