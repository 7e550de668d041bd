// In-memory structures of legacy and scalable mode (hardware.md §3.1, §3.2).
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

// --- scalable mode --------------------------------------------------------------------------------------------
// The root entry's two words each lead to the context table of half a bus, both laid out like RootEntry's first.

// Context entry of scalable mode: four words, one per function, 128 to a table.
struct ScalableContextEntry {
  using Present = Bit<0>;
  using DeviceTlb = Bit<2>;
  using WithPasid = Bit<3>;  // requests with a PASID are allowed
  using PageRequests = Bit<4>;
  using DirectorySize = Field<11, 9>;  // 2^(x + 7) directory entries
  using Directory = Field<63, 12>;
  static constexpr u64 kReserved0 = Field<8, 5>::kMask;
  using RidPasid = Field<19, 0>;                           // of word 1: the PASID of requests without one
  using RidPrivileged = Bit<20>;                           // of word 1
  static constexpr u64 kReserved1 = Field<63, 21>::kMask;  // words 2 and 3 are reserved
};
inline constexpr unsigned kScalableContextWords = 4;
inline constexpr unsigned kScalableContexts = 128;
static_assert(kScalableContexts * kScalableContextWords * sizeof(u64) == 4096);

// PASID directory entry: one word, one per 64 PASIDs.
struct PasidDirectoryEntry {
  using Present = Bit<0>;
  using Table = Field<63, 12>;
  static constexpr u64 kReserved = Field<11, 2>::kMask;
};
// With DirectorySize 0; the rest of its page is not looked at.
inline constexpr unsigned kSmallestDirectory = 128;

// PASID table entry: eight words, 64 to a table.
struct PasidEntry {
  using Present = Bit<0>;
  using Width = Field<4, 2>;  // of second-stage tables: levels minus 2
  using Type = Field<8, 6>;   // PGTT
  using TrackDirty = Bit<9>;  // SSADE
  using SecondStage = Field<63, 12>;
  static constexpr u64 kReserved0 = Field<11, 10>::kMask;
  using Did = Field<15, 0>;    // of word 1
  using WalkSnoops = Bit<23>;  // of word 1: PWSNP
  static constexpr u64 kReserved1 = Field<22, 16>::kMask;
  using FirstStageMode = Field<3, 2>;                     // of word 2: FSPM, levels minus 4
  using FirstStage = Field<63, 12>;                       // of word 2
  static constexpr u64 kReserved2 = Field<11, 8>::kMask;  // words 3 to 7 are reserved

  enum TypeValue : u64 { kFirstStage = 1, kSecondStage = 2, kNested = 3, kPassThrough = 4 };
};
inline constexpr unsigned kPasidWords = 8;
inline constexpr unsigned kPasidsPerTable = 64;
static_assert(kPasidsPerTable * kPasidWords * sizeof(u64) == 4096);

// The PASID that stands for requests without one, on every function: Linux's choice, too.
inline constexpr u32 kRidPasid = 0;

}  // namespace perdure::vtd
