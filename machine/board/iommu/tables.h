// In-memory structures that the unit walks (hardware.md §3).
#pragma once
#include "core/base/bits.h"

namespace perdure::board::table {

inline constexpr u64 kInterruptWindow = 0xFEE0'0000;
inline constexpr u64 kInterruptWindowBytes = 0x0010'0000;

// Address bits at or above the host address width, in fields that hold one.
constexpr u64 beyond_width(u64 raw, unsigned haw) {
  return haw >= 52 ? raw & Field<63, 52>::kMask : raw & ~((u64{1} << haw) - 1);
}

// Of a root entry's qw0; in scalable mode of both qwords, each for half of the bus.
namespace root {
using Present = Bit<0>;
using Pointer = Field<63, 12>;
using Reserved = Field<11, 1>;
inline constexpr u64 kBytes = 16;
}  // namespace root

namespace context {  // legacy
using Present = Bit<0>;
using Fpd = Bit<1>;
using Tt = Field<3, 2>;
using Reserved0 = Field<11, 4>;
using Pointer = Field<63, 12>;
using Aw = Field<2, 0>;
using Reserved1 = Bit<7>;
using Did = Field<23, 8>;
using Reserved1High = Field<63, 24>;
inline constexpr u64 kBytes = 16;
inline constexpr u64 kTtUntranslated = 0;
inline constexpr u64 kTtDeviceTlb = 1;
inline constexpr u64 kTtPassThrough = 2;
}  // namespace context

namespace scalable_context {
using Present = Bit<0>;
using Fpd = Bit<1>;
using Dte = Bit<2>;
using Pre = Bit<4>;
using Reserved0 = Field<8, 5>;
using Pdts = Field<11, 9>;
using Pointer = Field<63, 12>;
using RidPasid = Field<19, 0>;
using Reserved1 = Field<63, 21>;
inline constexpr u64 kBytes = 32;
}  // namespace scalable_context

namespace pasid_directory {
using Present = Bit<0>;
using Fpd = Bit<1>;
using Reserved = Field<11, 2>;
using Pointer = Field<63, 12>;
}  // namespace pasid_directory

namespace pasid {
using Present = Bit<0>;
using Fpd = Bit<1>;
using Aw = Field<4, 2>;
using Pgtt = Field<8, 6>;
using Ssade = Bit<9>;
using Reserved0 = Field<11, 10>;
using Pointer = Field<63, 12>;
using Did = Field<15, 0>;
using Reserved1 = Field<22, 16>;
using Pwsnp = Bit<23>;
using Pgsnp = Bit<24>;
using Ere = Bit<1>;        // of qw2, as all that follow
using Fspm = Field<3, 2>;  // 0: four levels, 1: five
using Eafe = Bit<7>;
using Reserved2 = Field<11, 8>;
using FirstPointer = Field<63, 12>;
inline constexpr u64 kBytes = 64;
inline constexpr u64 kPgttFirstStage = 1;
inline constexpr u64 kPgttSecondStage = 2;
inline constexpr u64 kPgttNested = 3;
inline constexpr u64 kPgttPassThrough = 4;
}  // namespace pasid

namespace second_stage {
using Read = Bit<0>;
using Write = Bit<1>;
using PageSize = Bit<7>;
using Accessed = Bit<8>;
using Dirty = Bit<9>;
using Snoop = Bit<11>;
using Pointer = Field<51, 12>;
inline constexpr unsigned kBitsPerLevel = 9;

constexpr bool present(u64 entry) {
  return (entry & (Read::kMask | Write::kMask)) != 0;
}
// Bytes that one entry of `level` covers; level 1 holds 4 KiB pages.
constexpr unsigned level_shift(unsigned level) {
  return kPageShift + kBitsPerLevel * (level - 1);
}
}  // namespace second_stage

// x86 long mode (§3.4). Levels are as deep as those of second-stage tables.
namespace first_stage {
using Present = Bit<0>;
using Write = Bit<1>;
using User = Bit<2>;
using Accessed = Bit<5>;
using Dirty = Bit<6>;
using PageSize = Bit<7>;  // levels 2 and 3; PAT in level 1
using Pointer = Field<51, 12>;
using LargePat = Bit<12>;  // of a large page; the address begins above

// All bits from the top one of the address on are equal.
constexpr bool canonical(u64 iova, unsigned levels) {
  const u64 upper = iova >> (second_stage::level_shift(levels + 1u) - 1);
  return upper == 0 || upper == ~u64{0} >> (second_stage::level_shift(levels + 1u) - 1);
}
}  // namespace first_stage

// Entry of the interrupt remapping table.
namespace interrupt {
using Present = Bit<0>;
using Fpd = Bit<1>;
using Logical = Bit<2>;
using RedirectionHint = Bit<3>;
using Level = Bit<4>;
using DeliveryMode = Field<7, 5>;
using Posted = Bit<15>;  // not offered here: reserved
using Vector = Field<23, 16>;
using Destination = Field<63, 32>;
using XapicDestination = Field<47, 40>;
struct ReservedLow {
  static constexpr u64 kMask = Field<14, 12>::kMask | Field<31, 24>::kMask;
};
using Sid = Field<15, 0>;
using Sq = Field<17, 16>;
using Svt = Field<19, 18>;
using ReservedHigh = Field<63, 20>;
inline constexpr u64 kSvtNone = 0;
inline constexpr u64 kSvtSource = 1;
inline constexpr u64 kSvtBuses = 2;
inline constexpr u64 kSvtReserved = 3;
inline constexpr u64 kBytes = 16;
}  // namespace interrupt

}  // namespace perdure::board::table

namespace perdure::board {

// Reasons of faults (hardware.md §7).
namespace fault {
inline constexpr u8 kRootNotPresent = 0x1;
inline constexpr u8 kContextNotPresent = 0x2;
inline constexpr u8 kContextInvalid = 0x3;
inline constexpr u8 kAddressBeyond = 0x4;
inline constexpr u8 kNoWrite = 0x5;
inline constexpr u8 kNoRead = 0x6;
inline constexpr u8 kPageTableUnreadable = 0x7;
inline constexpr u8 kRootUnreadable = 0x8;
inline constexpr u8 kContextUnreadable = 0x9;
inline constexpr u8 kRootReserved = 0xA;
inline constexpr u8 kContextReserved = 0xB;
inline constexpr u8 kPageTableReserved = 0xC;
inline constexpr u8 kTypeBlocked = 0xD;
inline constexpr u8 kInterruptWindow = 0xE;

// Interrupt remapping.
inline constexpr u8 kInterruptRequestReserved = 0x20;
inline constexpr u8 kInterruptIndexBeyond = 0x21;
inline constexpr u8 kInterruptNotPresent = 0x22;
inline constexpr u8 kInterruptTableUnreadable = 0x23;
inline constexpr u8 kInterruptReserved = 0x24;
inline constexpr u8 kCompatibilityBlocked = 0x25;
inline constexpr u8 kInterruptSource = 0x26;

// Scalable mode.
inline constexpr u8 kBadTtm = 0x30;
inline constexpr u8 kScalableRootUnreadable = 0x38;
inline constexpr u8 kScalableRootNotPresent = 0x39;
inline constexpr u8 kScalableRootReserved = 0x3A;
inline constexpr u8 kScalableContextUnreadable = 0x40;
inline constexpr u8 kScalableContextNotPresent = 0x41;
inline constexpr u8 kScalableContextReserved = 0x42;
inline constexpr u8 kDteClear = 0x44;
inline constexpr u8 kRidPasid = 0x48;
inline constexpr u8 kDirectoryUnreadable = 0x50;
inline constexpr u8 kDirectoryNotPresent = 0x51;
inline constexpr u8 kDirectoryReserved = 0x52;
inline constexpr u8 kPasidUnreadable = 0x58;
inline constexpr u8 kPasidNotPresent = 0x59;
inline constexpr u8 kPasidReserved = 0x5A;
inline constexpr u8 kPasidInvalid = 0x5B;
inline constexpr u8 kFirstStageUnreadable = 0x70;
inline constexpr u8 kFirstStageNotPresent = 0x71;
inline constexpr u8 kFirstStageReserved = 0x72;
inline constexpr u8 kFirstStagePointer = 0x73;
inline constexpr u8 kSecondStageUnreadable = 0x78;
inline constexpr u8 kSecondStagePermission = 0x79;
inline constexpr u8 kSecondStageReserved = 0x7A;
inline constexpr u8 kSecondStagePointer = 0x7B;
inline constexpr u8 kDirtyImpossible = 0x7C;
inline constexpr u8 kNotCanonical = 0x80;
inline constexpr u8 kNotForUsers = 0x81;
inline constexpr u8 kBeyondMgaw = 0x83;
inline constexpr u8 kBeyondTable = 0x84;
inline constexpr u8 kFirstStageNoWrite = 0x85;
inline constexpr u8 kScalableInterruptWindow = 0x87;
inline constexpr u8 kFirstStageUpdate = 0x91;  // accessed or dirty bit
}  // namespace fault

}  // namespace perdure::board
