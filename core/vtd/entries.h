// In-memory structures of legacy mode (hardware.md §3.1).
#pragma once
#include "core/base/bits.h"

namespace perdure::vtd {

// RTADDR's translation table mode.
enum class TableMode : u8 { Legacy = 0, Scalable = 1, Abort = 3 };

// Root entry: two words, one per bus.
struct RootEntry {
  using Present = Bit<0>;
  using Table = Field<63, 12>;
  static constexpr u64 kReserved0 = Field<11, 1>::kMask;
  static constexpr u64 kReserved1 = ~u64{0};
};

// Context entry: two words, one per function.
struct ContextEntry {
  using Present = Bit<0>;
  using FaultDisable = Bit<1>;
  using Type = Field<3, 2>;
  using Top = Field<63, 12>;
  static constexpr u64 kReserved0 = Field<11, 4>::kMask;
  using Width = Field<2, 0>;  // of word 1: table levels minus 2
  using Did = Field<23, 8>;   // of word 1
  static constexpr u64 kReserved1 = Bit<7>::kMask | Field<63, 24>::kMask;

  enum TypeValue : u64 { kTranslate = 0, kTranslateWithAts = 1, kPassThrough = 2 };
};

inline constexpr unsigned kEntriesPerTable = 256;
inline constexpr unsigned kEntryWords = 2;
static_assert(kEntriesPerTable * kEntryWords * sizeof(u64) == 4096);

}  // namespace perdure::vtd
