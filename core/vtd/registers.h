// Registers of an Intel VT-d unit: the access width is part of a register's type, since a 64-bit access to a 32-bit
// register is an error on real hardware and ends QEMU. Places and meanings: hardware.md §1, §2.
#pragma once
#include "core/base/bits.h"

namespace perdure::vtd {

struct Reg32 {
  u32 offset = 0;
};
struct Reg64 {
  u32 offset = 0;
};

// --- fields -------------------------------------------------------------------------------------------------

// Capability register (§2).
struct Cap {
  using Nd = Field<2, 0>;  // domain ids have 4 + 2 * ND bits
  using Rwbf = Bit<4>;     // write buffer must be flushed by software
  using Plmr = Bit<5>;
  using Phmr = Bit<6>;
  using Cm = Bit<7>;            // not-present entries may be cached
  using Sagaw = Field<12, 8>;   // bit 1: 39 bits, 3 levels; bit 2: 48, 4; bit 3: 57, 5
  using Mgaw = Field<21, 16>;   // widest I/O virtual address, minus 1
  using Fro = Field<33, 24>;    // fault records' place, in units of 16 bytes
  using Sslps = Field<37, 34>;  // bit 0: 2 MiB leaves; bit 1: 1 GiB
  using Psi = Bit<39>;
  using Nfr = Field<47, 40>;   // fault records, minus 1
  using Mamv = Field<53, 48>;  // largest address mask of a page-selective invalidation
  using Dwd = Bit<54>;
  using Drd = Bit<55>;
  using Fs1gp = Bit<56>;   // first-stage leaves of 1 GiB
  using Fs5lp = Bit<60>;   // first-stage tables of five levels
  using Esrtps = Bit<63>;  // setting the root pointer drops all caches
};

// Extended capability register (§2).
struct Ecap {
  using C = Bit<0>;   // table walks snoop the CPU's caches (legacy mode)
  using Qi = Bit<1>;  // queued invalidation
  using Dt = Bit<2>;
  using Ir = Bit<3>;         // interrupt remapping
  using Pt = Bit<6>;         // pass-through entries
  using Iro = Field<17, 8>;  // IVA and IOTLB registers' place, in units of 16 bytes
  using Prs = Bit<29>;
  using Smts = Bit<43>;    // scalable mode
  using Ssads = Bit<45>;   // ... which mark what was accessed and written
  using Ssts = Bit<46>;    // ... with second-stage tables
  using Fsts = Bit<47>;    // ... with first-stage tables
  using Smpwcs = Bit<48>;  // ... whose walks snoop when PWSNP asks for it
};

// Global command and status: the same places in both (§1, "GCMD/GSTS protocol").
struct Global {
  using Te = Bit<31, u32>;     // translation
  using Srtp = Bit<30, u32>;   // set root pointer; status: RTPS
  using Wbf = Bit<27, u32>;    // write buffer flush
  using Qie = Bit<26, u32>;    // invalidation queue
  using Ire = Bit<25, u32>;    // interrupt remapping
  using Sirtp = Bit<24, u32>;  // set interrupt table pointer; status: IRTPS
  using Cfi = Bit<23, u32>;    // messages in compatibility format pass
  // What a command has to restate: everything but the one-shot positions 30, 29, 27 and 24.
  static constexpr u32 kPersistent = 0x96ff'ffff;
  // Enable bits proper: TE, EAFL, QIE, IRE, CFI.
  static constexpr u32 kEnables = 1u << 31 | 1u << 28 | 1u << 26 | 1u << 25 | 1u << 23;
};

struct Rtaddr {
  using Base = Field<63, 12>;
  using Ttm = Field<11, 10>;  // 0 legacy, 1 scalable, 3 abort
};

// Register-based context-cache invalidation: only while the queue is off.
struct Ccmd {
  using Icc = Bit<63>;
  using Cirg = Field<62, 61>;
  static constexpr u64 kGlobal = 1;
};
struct Iotlb {
  using Ivt = Bit<63>;
  using Iirg = Field<61, 60>;
  using DrainReads = Bit<49>;
  using DrainWrites = Bit<48>;
  static constexpr u64 kGlobal = 1;
};

struct Fsts {
  using Pfo = Bit<0, u32>;  // W1C: records were lost
  using Ppf = Bit<1, u32>;
  using Iqe = Bit<4, u32>;  // W1C: the queue stopped at a bad descriptor
  using Ice = Bit<5, u32>;  // W1C
  using Ite = Bit<6, u32>;  // W1C: a device TLB did not answer; waits were dropped
  using Fri = Field<15, 8, u32>;
};

// FECTL, IECTL, PECTL.
struct EventControl {
  using Mask = Bit<31, u32>;
  using Pending = Bit<30, u32>;
};

// ICS.
struct Ics {
  using Iwc = Bit<0, u32>;  // W1C: a wait that asks for an event is done; goes with the pending bit of IECTL
};

struct Pmen {
  using Epm = Bit<31, u32>;
  using Prs = Bit<0, u32>;
};

// Invalidation queue head and tail: byte offsets, so the layout is the same for both descriptor widths.
struct IqIndex {
  using Offset = Field<18, 4>;
};
struct Iqa {
  using Base = Field<63, 12>;
  using Dw = Bit<11>;      // 32-byte descriptors
  using Qs = Field<2, 0>;  // 2^QS pages
};
struct Iqercd {
  using Iqei = Field<3, 0>;
  using IteSid = Field<47, 32>;
};

// A fault record's two halves (§1, "FRCD").
struct FrcdLow {
  using Page = Field<63, 12>;
};
struct FrcdHigh {
  using Sid = Field<15, 0>;
  using T2 = Bit<28>;
  using PasidPresent = Bit<31>;
  using Reason = Field<39, 32>;
  using Pasid = Field<59, 40>;
  using T1 = Bit<62>;
  using Fault = Bit<63>;
};

// --- registers ----------------------------------------------------------------------------------------------

namespace reg {
inline constexpr Reg32 kVersion{0x00};
inline constexpr Reg64 kCap{0x08};
inline constexpr Reg64 kEcap{0x10};
inline constexpr Reg32 kGlobalCommand{0x18};
inline constexpr Reg32 kGlobalStatus{0x1c};
inline constexpr Reg64 kRootTable{0x20};
inline constexpr Reg64 kContextCommand{0x28};
inline constexpr Reg32 kFaultStatus{0x34};
inline constexpr Reg32 kFaultControl{0x38};
inline constexpr Reg32 kFaultData{0x3c};
inline constexpr Reg32 kFaultAddress{0x40};
inline constexpr Reg32 kFaultUpperAddress{0x44};
inline constexpr Reg32 kProtectedMemory{0x64};
inline constexpr Reg64 kQueueHead{0x80};
inline constexpr Reg64 kQueueTail{0x88};
inline constexpr Reg64 kQueueAddress{0x90};
inline constexpr Reg32 kCompletionStatus{0x9c};
inline constexpr Reg32 kCompletionControl{0xa0};
inline constexpr Reg32 kCompletionData{0xa4};
inline constexpr Reg32 kCompletionAddress{0xa8};
inline constexpr Reg32 kCompletionUpperAddress{0xac};
inline constexpr Reg64 kQueueError{0xb0};
inline constexpr Reg64 kInterruptTable{0xb8};
inline constexpr Reg32 kPageRequestControl{0xe0};

// Places that the capabilities tell.
constexpr Reg64 iotlb(u64 ecap) {
  return {static_cast<u32>(Ecap::Iro::get(ecap) * 16 + 8)};
}
constexpr Reg64 fault_low(u64 cap, unsigned record) {
  return {static_cast<u32>(Cap::Fro::get(cap) * 16 + record * 16)};
}
constexpr Reg64 fault_high(u64 cap, unsigned record) {
  return {fault_low(cap, record).offset + 8};
}
// The double word with F, which clears the record when it is written alone.
constexpr Reg32 fault_clear(u64 cap, unsigned record) {
  return {fault_low(cap, record).offset + 12};
}
constexpr unsigned fault_records(u64 cap) {
  return static_cast<unsigned>(Cap::Nfr::get(cap)) + 1;
}
// Both stand behind the registers that have a place of their own, and within the window.
constexpr bool places_plausible(u64 cap, u64 ecap, u64 register_bytes) {
  constexpr u64 kFirst = 0xf0;
  const auto fits = [&](u64 at, u64 bytes) { return at >= kFirst && at + bytes <= register_bytes; };
  return fits(fault_low(cap, 0).offset, u64{fault_records(cap)} * 16) && fits(iotlb(ecap).offset - 8, 16);
}
}  // namespace reg

// Bytes of registers that every unit has, up to the page request block.
inline constexpr u64 kRegisterPage = 4096;

}  // namespace perdure::vtd
