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

}  // namespace perdure
