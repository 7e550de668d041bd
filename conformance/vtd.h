// The remapping unit as its description has it (hardware.md §1 to §7), written down a second time: a list that took its
// numbers from the driver or from the board's model would repeat their mistakes.
#pragma once
#include "core/base/types.h"

namespace perdure::conformance::vtd {

constexpr u64 bit(unsigned n) {
  return u64{1} << n;
}

// --- registers: offsets in the window (§1) --------------------------------------------------------------------------
inline constexpr u64 kVersion = 0x00;
inline constexpr u64 kCap = 0x08;
inline constexpr u64 kEcap = 0x10;
inline constexpr u64 kCommand = 0x18;  // GCMD
inline constexpr u64 kStatus = 0x1C;   // GSTS
inline constexpr u64 kRoot = 0x20;     // RTADDR
inline constexpr u64 kContextFlush = 0x28;
inline constexpr u64 kFaultStatus = 0x34;
inline constexpr u64 kFaultControl = 0x38;  // data, address, upper address follow, 4 bytes each
inline constexpr u64 kProtection = 0x64;    // PMEN; base and limit of low memory follow, 4 bytes each
inline constexpr u64 kQueueHead = 0x80;
inline constexpr u64 kQueueTail = 0x88;
inline constexpr u64 kQueueAddress = 0x90;
inline constexpr u64 kDone = 0x9C;         // ICS
inline constexpr u64 kDoneControl = 0xA0;  // laid out as the fault event
inline constexpr u64 kQueueError = 0xB0;   // IQERCD
inline constexpr u64 kInterruptTable = 0xB8;

// GCMD, and GSTS at the same places.
inline constexpr u32 kTranslation = u32{1} << 31;
inline constexpr u32 kSetRoot = u32{1} << 30;
inline constexpr u32 kWriteBuffer = u32{1} << 27;
inline constexpr u32 kQueue = u32{1} << 26;
inline constexpr u32 kRemapping = u32{1} << 25;
inline constexpr u32 kSetInterruptTable = u32{1} << 24;
inline constexpr u32 kCompatible = u32{1} << 23;
inline constexpr u32 kPersistent = 0x96FF'FFFF;  // GSTS without the positions of the one-shot commands

// FSTS
inline constexpr u32 kOverflow = 1;
inline constexpr u32 kPending = 1 << 1;
inline constexpr u32 kQueueStopped = 1 << 4;  // IQE
inline constexpr u32 kDeviceTlbErrors = 3 << 5;
// FECTL, IECTL
inline constexpr u32 kMasked = u32{1} << 31;
inline constexpr u32 kEventPending = u32{1} << 30;

// Granularity of context and IOTLB flushes, as asked for and as reported.
enum class Grain : u8 { Global = 1, Domain = 2, Fine = 3 };  // Fine: a device, or pages

// --- fields of CAP (§2) ---------------------------------------------------------------------------------------------
constexpr unsigned mgaw(u64 cap) {
  return static_cast<unsigned>(cap >> 16 & 0x3F) + 1;
}
constexpr unsigned records(u64 cap) {
  return static_cast<unsigned>(cap >> 40 & 0xFF) + 1;
}

// --- in-memory structures (§3) --------------------------------------------------------------------------------------
inline constexpr u64 kPresent = 1;
inline constexpr u64 kSilent = 2;  // FPD of context, directory and PASID entries
inline constexpr u64 kRead = 1;
inline constexpr u64 kWrite = 2;
inline constexpr u64 kReadWrite = 3;
inline constexpr u64 kPageSize = 1 << 7;
inline constexpr u64 kAccessed = 1 << 8;
inline constexpr u64 kDirty = 1 << 9;
inline constexpr u64 kSnoop = 1 << 11;
inline constexpr u64 kAddress = 0x000F'FFFF'FFFF'F000;
inline constexpr u64 kPassThrough = 2 << 2;  // TT of a legacy context entry
inline constexpr u64 kGrantFirst = 1 << 6;   // PGTT of a PASID entry
inline constexpr u64 kGrantSecond = 2 << 6;
inline constexpr u64 kGrantNested = 3 << 6;
inline constexpr u64 kGrantAll = 4 << 6;
inline constexpr u64 kTrackDirty = 1 << 9;        // SSADE of a PASID entry
inline constexpr u64 kScalableRoot = 1 << 10;     // TTM of RTADDR
inline constexpr u64 kAbortRoot = 3 << 10;        // TTM: abort everything
inline constexpr u64 kSnoopWalks = u64{1} << 23;  // PWSNP, second word of a PASID entry

// --- reasons of faults (§7) -----------------------------------------------------------------------------------------
namespace reason {
inline constexpr u8 kRootNotPresent = 0x1;
inline constexpr u8 kContextNotPresent = 0x2;
inline constexpr u8 kContextInvalid = 0x3;
inline constexpr u8 kBeyondWidth = 0x4;
inline constexpr u8 kNoWrite = 0x5;
inline constexpr u8 kNoRead = 0x6;
inline constexpr u8 kTableUnreadable = 0x7;
inline constexpr u8 kRootUnreadable = 0x8;
inline constexpr u8 kContextUnreadable = 0x9;
inline constexpr u8 kRootReserved = 0xA;
inline constexpr u8 kContextReserved = 0xB;
inline constexpr u8 kTableReserved = 0xC;
inline constexpr u8 kIntoInterrupts = 0xE;
inline constexpr u8 kIndexBeyond = 0x21;
inline constexpr u8 kEntryNotPresent = 0x22;
inline constexpr u8 kEntryReserved = 0x24;
inline constexpr u8 kCompatibilityBlocked = 0x25;
inline constexpr u8 kWrongSource = 0x26;
inline constexpr u8 kScalableRootUnreadable = 0x38;
inline constexpr u8 kScalableRootNotPresent = 0x39;
inline constexpr u8 kScalableRootReserved = 0x3A;
inline constexpr u8 kScalableContextUnreadable = 0x40;
inline constexpr u8 kScalableContextNotPresent = 0x41;
inline constexpr u8 kScalableContextReserved = 0x42;
inline constexpr u8 kRidPasid = 0x48;
inline constexpr u8 kDirectoryUnreadable = 0x50;
inline constexpr u8 kDirectoryNotPresent = 0x51;
inline constexpr u8 kDirectoryReserved = 0x52;
inline constexpr u8 kPasidUnreadable = 0x58;
inline constexpr u8 kPasidNotPresent = 0x59;
inline constexpr u8 kPasidReserved = 0x5A;
inline constexpr u8 kPasidInvalid = 0x5B;
inline constexpr u8 kFirstUnreadable = 0x70;
inline constexpr u8 kFirstNotPresent = 0x71;
inline constexpr u8 kFirstReserved = 0x72;
inline constexpr u8 kFirstPointer = 0x73;
inline constexpr u8 kSecondUnreadable = 0x78;
inline constexpr u8 kSecondPermission = 0x79;
inline constexpr u8 kSecondReserved = 0x7A;
inline constexpr u8 kSecondPointer = 0x7B;
inline constexpr u8 kNotCanonical = 0x80;
inline constexpr u8 kNotForUsers = 0x81;
inline constexpr u8 kBeyondMgaw = 0x83;
inline constexpr u8 kBeyondTable = 0x84;
inline constexpr u8 kFirstNoWrite = 0x85;
inline constexpr u8 kScalableIntoInterrupts = 0x87;
}  // namespace reason

// --- descriptors of the invalidation queue (§5) ---------------------------------------------------------------------
struct Descriptor {
  u64 q0 = 0;
  u64 q1 = 0;
  u64 q2 = 0;
  u64 q3 = 0;
};

constexpr Descriptor context_flush(Grain grain, u16 did = 0, u16 source = 0, unsigned function_mask = 0) {
  return {1 | u64(grain) << 4 | u64{did} << 16 | u64{source} << 32 | u64{function_mask} << 48};
}
// With both drains.
constexpr Descriptor iotlb_flush(Grain grain, u16 did = 0, u64 iova = 0, unsigned order = 0, bool leaves_only = false) {
  return {0xC2 | u64(grain) << 4 | u64{did} << 16, iova | order | (leaves_only ? 0x40u : 0u)};
}
constexpr Descriptor interrupt_flush() {
  return {4};
}
constexpr Descriptor interrupt_flush(u16 index, unsigned order = 0) {
  return {0x14 | u64{order} << 27 | u64{index} << 32};
}
constexpr Descriptor wait_with_status(u64 at, u32 data, u64 flags = 0) {
  return {0x25 | flags | u64{data} << 32, at};
}
constexpr Descriptor wait_with_event() {
  return {0x15};
}
constexpr Descriptor pasid_flush_global() {
  return {7 | 3 << 4};
}
constexpr Descriptor pasid_flush(u16 did, u32 pasid) {
  return {7 | 1 << 4 | u64{did} << 16 | u64{pasid} << 32};
}
constexpr Descriptor pasid_flush_domain(u16 did) {
  return {7 | u64{did} << 16};
}
constexpr Descriptor pasid_iotlb_flush(u16 did, u32 pasid) {
  return {6 | 2 << 4 | u64{did} << 16 | u64{pasid} << 32};
}

constexpr Descriptor pasid_iotlb_flush(u16 did, u32 pasid, u64 iova, unsigned order) {
  return {6 | 3 << 4 | u64{did} << 16 | u64{pasid} << 32, iova | order};
}

// --- remapped interrupts (§3.5) -------------------------------------------------------------------------------------
// The message of a device whose interrupt goes through entry `index`.
constexpr u32 remappable_address(u16 index, bool subhandle = false) {
  return 0xFEE0'0010 | (u32{index} & 0x7FFF) << 5 | (u32{index} >> 15) << 2 | (subhandle ? 8u : 0u);
}
constexpr u64 interrupt_entry(u8 vector, u8 destination, u64 flags = kPresent) {
  return flags | u64{vector} << 16 | u64{destination} << 40;
}

}  // namespace perdure::conformance::vtd
