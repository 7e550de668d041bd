// The register file of a VT-d unit (hardware.md §1, §2): offsets from the window, fields of each register.
#pragma once
#include "core/base/bits.h"

namespace perdure::board::reg {

inline constexpr u64 kVer = 0x00;
inline constexpr u64 kCap = 0x08;
inline constexpr u64 kEcap = 0x10;
inline constexpr u64 kGcmd = 0x18;
inline constexpr u64 kGsts = 0x1C;
inline constexpr u64 kRtaddr = 0x20;
inline constexpr u64 kCcmd = 0x28;
inline constexpr u64 kFsts = 0x34;
inline constexpr u64 kFectl = 0x38;  // FEDATA, FEADDR, FEUADDR follow
inline constexpr u64 kPmen = 0x64;
inline constexpr u64 kPlmBase = 0x68;
inline constexpr u64 kPlmLimit = 0x6C;
inline constexpr u64 kPhmBase = 0x70;
inline constexpr u64 kPhmLimit = 0x78;
inline constexpr u64 kIqh = 0x80;
inline constexpr u64 kIqt = 0x88;
inline constexpr u64 kIqa = 0x90;
inline constexpr u64 kIcs = 0x9C;
inline constexpr u64 kIectl = 0xA0;  // IEDATA, IEADDR, IEUADDR follow
inline constexpr u64 kIqercd = 0xB0;
inline constexpr u64 kIrta = 0xB8;

inline constexpr u32 kVersion = 0x10;  // 1.0

// GCMD and GSTS share their positions.
namespace gcmd {
inline constexpr u32 kTe = u32{1} << 31;
inline constexpr u32 kSrtp = u32{1} << 30;
inline constexpr u32 kSfl = u32{1} << 29;
inline constexpr u32 kEafl = u32{1} << 28;
inline constexpr u32 kWbf = u32{1} << 27;
inline constexpr u32 kQie = u32{1} << 26;
inline constexpr u32 kIre = u32{1} << 25;
inline constexpr u32 kSirtp = u32{1} << 24;
inline constexpr u32 kCfi = u32{1} << 23;
inline constexpr u32 kPersistent = kTe | kEafl | kQie | kIre | kCfi;
inline constexpr u32 kOneShot = kSrtp | kSfl | kWbf | kSirtp;
}  // namespace gcmd

namespace rtaddr {
using Base = Field<63, 12>;
using Ttm = Field<11, 10>;
inline constexpr u64 kLegacy = 0;
inline constexpr u64 kScalable = 1;
inline constexpr u64 kAbort = 3;
}  // namespace rtaddr

namespace ccmd {
using Icc = Bit<63>;
using Cirg = Field<62, 61>;
using Caig = Field<60, 59>;
using Fm = Field<33, 32>;
using Sid = Field<31, 16>;
using Did = Field<15, 0>;
}  // namespace ccmd

namespace iotlb {
using Ivt = Bit<63>;
using Iirg = Field<61, 60>;
using Iaig = Field<58, 57>;
using Dr = Bit<49>;
using Dw = Bit<48>;
using Did = Field<47, 32>;
}  // namespace iotlb

namespace iva {
using Addr = Field<63, 12>;
using Ih = Bit<6>;
using Am = Field<5, 0>;
}  // namespace iva

namespace fsts {
inline constexpr u32 kPfo = 1 << 0;
inline constexpr u32 kPpf = 1 << 1;
inline constexpr u32 kIqe = 1 << 4;
inline constexpr u32 kIce = 1 << 5;
inline constexpr u32 kIte = 1 << 6;
using Fri = Field<15, 8, u32>;
}  // namespace fsts

namespace frcd {
// qw1
using Sid = Field<15, 0>;
using Reason = Field<39, 32>;
using Pv = Field<59, 40>;
using T1 = Bit<62>;  // with T2 = 0: set for a read
using F = Bit<63>;
}  // namespace frcd

namespace event {
inline constexpr u32 kIm = u32{1} << 31;
inline constexpr u32 kIp = u32{1} << 30;
}  // namespace event

namespace pmen {
inline constexpr u32 kEpm = u32{1} << 31;
inline constexpr u32 kPrs = 1;
}  // namespace pmen

namespace iqa {
using Base = Field<63, 12>;
using Dw = Bit<11>;
using Qs = Field<2, 0>;
}  // namespace iqa

namespace iqercd {
using Iqei = Field<3, 0>;
using IteSid = Field<47, 32>;
}  // namespace iqercd

namespace irta {
using Base = Field<63, 12>;
using Eime = Bit<11>;
using S = Field<3, 0>;
}  // namespace irta

}  // namespace perdure::board::reg
