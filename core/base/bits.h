// Typed bit fields of registers and in-memory structures: a field is a constexpr object that knows its
// place; `Field<63, 12>` is written the way the specifications print it (high:low).
#pragma once
#include "core/base/types.h"

namespace perdure {

template <unsigned High, unsigned Low, class Word = u64>
struct Field {
  static_assert(High >= Low && High < sizeof(Word) * 8);
  static constexpr unsigned kWidth = High - Low + 1;
  static constexpr Word kMax = kWidth == sizeof(Word) * 8 ? ~Word{0} : static_cast<Word>((Word{1} << kWidth) - 1);
  static constexpr Word kMask = static_cast<Word>(kMax << Low);

  static constexpr Word get(Word raw) { return static_cast<Word>((raw & kMask) >> Low); }
  // The field's bits, in place; bits of `value` beyond the field are cut off.
  static constexpr Word make(Word value) { return static_cast<Word>((value << Low) & kMask); }
  static constexpr Word set(Word raw, Word value) { return static_cast<Word>((raw & ~kMask) | make(value)); }
  // For fields that hold the high bits of an address: the address with its low bits zero.
  static constexpr Word in_place(Word raw) { return raw & kMask; }
};

template <unsigned Position, class Word = u64>
struct Bit : Field<Position, Position, Word> {
  static constexpr bool test(Word raw) { return (raw & Bit::kMask) != 0; }
  static constexpr Word value() { return Bit::kMask; }
};

// Bits that are set. Without the processor's instruction std::popcount calls the compiler's library, which a
// freestanding image has not.
constexpr unsigned popcount(u64 v) {
  v -= (v >> 1) & 0x5555555555555555;
  v = (v & 0x3333333333333333) + ((v >> 2) & 0x3333333333333333);
  return static_cast<unsigned>((((v + (v >> 4)) & 0x0f0f0f0f0f0f0f0f) * 0x0101010101010101) >> 56);
}

}  // namespace perdure
