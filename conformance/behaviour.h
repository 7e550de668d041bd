// One behaviour of remapping hardware: how to provoke it, what a unit that follows the architecture shows, and what
// QEMU shows where it does not.
#pragma once
#include <string_view>

#include "conformance/seen.h"

namespace perdure::conformance {

class Bench;

// What a unit must offer for a behaviour to exist on it.
enum Need : u64 {
  kNothing = 0,
  kLevels3 = 1 << 0,
  kLevels4 = 1 << 1,
  kLevels5 = 1 << 2,
  kNotAllLevels = 1 << 3,  // some width is not supported
  kHugePages = 1 << 4,
  kGiantPages = 1 << 5,
  kNoCachingMode = 1 << 6,
  kCachingMode = 1 << 7,
  kQueued = 1 << 8,
  kRemaps = 1 << 9,  // interrupts
  kPassesThrough = 1 << 10,
  kSnoops = 1 << 11,
  kCannotSnoop = 1 << 12,
  kPageFlush = 1 << 13,
  kScalable = 1 << 14,  // with second stage
  kFirstStage = 1 << 15,
  kAborts = 1 << 16,
  kManyRecords = 1 << 17,  // of faults
  kOneRecord = 1 << 18,
  kNotCoherent = 1 << 19,
  kWriteBuffers = 1 << 20,
  kTracksDirty = 1 << 21,
  kKeepsAtRoot = 1 << 22,    // SRTP flushes nothing: ESRTPS = 0
  kFlushesAtRoot = 1 << 23,  // ESRTPS = 1
  kLegacyOnly = 1 << 24,     // no scalable mode
  kNarrowTables = 1 << 25,   // 3-level tables translate less than the unit's width
  kThreeRequesters = 1 << 26,
  kNoDeviceTlb = 1 << 27,
  kNoHugePages = 1 << 29,
  kCannotRemap = 1 << 30,
  kSurvives = u64{1} << 31,       // accesses at which QEMU ends itself
  kNarrowDomains = u64{1} << 32,  // domain ids of less than 16 bits
  kProtects = u64{1} << 33,       // a range of low memory
  kKeeps = u64{1} << 34,          // what it has cached, until it is flushed
  kWayBack = 1 << 28,             // from a queue that cannot be read: QEMU 7.2 neither leaves it nor lets it be moved
};

// Whether software in this behaviour breaks a rule: the board's model must then say so, and must not otherwise.
enum class Software : u8 { Right, Wrong };

struct Deviation {
  Seen seen;              // empty: none
  std::string_view what;  // what that means for who tests on it
  bool imitated = false;  // by the board's model with IommuQuirks::qemu_7_2()
  constexpr explicit operator bool() const { return !seen.empty(); }
};

// In two parts, so that what is asked of several ways to flush is written once.
struct Name {
  std::string_view prefix;
  std::string_view rest;

  constexpr Name(std::string_view whole) : rest(whole) {}
  template <usize kSize>
  constexpr Name(const char (&whole)[kSize]) : rest(whole, kSize - 1) {}
  constexpr Name(std::string_view first, std::string_view last) : prefix(first), rest(last) {}
};

inline Line& operator<<(Line& line, const Name& name) {
  return line << name.prefix << name.rest;
}

struct Behaviour {
  Name name;
  std::string_view source;  // section of hardware.md
  u64 needs = kNothing;
  Software software = Software::Right;
  Seen (*run)(Bench&) = nullptr;
  Seen expected;
  Deviation qemu_7_2{};
  Deviation qemu_10{};  // of 10.0, where it shows neither
};

}  // namespace perdure::conformance
