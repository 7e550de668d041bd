// What the oracle reports: numbers for each device, before, during and after the update (design: "The oracle").
#pragma once
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/types.h"
#include "machine/board/bdf.h"

namespace perdure::board {

enum class Phase : u8 { Before, During, After };
inline constexpr usize kPhases = 3;
constexpr std::string_view phase_name(Phase p) {
  return p == Phase::Before ? "before" : p == Phase::During ? "during" : "after";
}

// Why a transfer that was due did not take place.
enum class Cause : u8 {
  NotScheduled,  // the model did not get the CPU in time: no gap of the machine under test
  Faulted,       // the IOMMU refused it and recorded or counted a translation fault
  Blocked,       // the IOMMU aborts everything of this function, or its address decodes to nothing it may reach
  BusMasterOff,  // of the function, or of a bridge above it
  Unbacked,      // the resolved address is no memory
};
inline constexpr usize kCauses = 5;
constexpr std::string_view cause_name(Cause c) {
  switch (c) {
    case Cause::NotScheduled: return "not scheduled";
    case Cause::Faulted: return "faulted";
    case Cause::Blocked: return "blocked";
    case Cause::BusMasterOff: return "bus master off";
    case Cause::Unbacked: return "no memory";
  }
  return "?";
}

struct PhaseResult {
  u64 done = 0;  // transfers completed
  std::array<u64, kCauses> not_done{};
  // What the auditor found at the end of the phase, in slots.
  u64 slots_checked = 0;
  u64 lost = 0;            // the last record is not there; an older one or nothing is
  u64 corrupted = 0;       // something else is there
  u64 duplicated = 0;      // it is there, and somewhere else, too
  u64 misdirected = 0;     // transfers that resolved to another place than intended, or wrote what was to be read only
  u64 strays = 0;          // records found in memory where none was ever intended
  u64 superseded = 0;      // slots whose memory another ring wrote later: not an error, not checkable
  u64 undeclared = 0;      // transfers without a declared intent: only their own resolved address can be checked
  u64 read_errors = 0;     // records read by a read ring that were stale, foreign or damaged
  u64 interrupts = 0;      // raised
  u64 resets = 0;          // of the function
  u64 longest_gap_ns = 0;  // between completed transfers of a running device; a measure, never a verdict

  u64 not_done_by(Cause c) const { return not_done[static_cast<usize>(c)]; }
  // Transfers that the machine under test kept from happening.
  u64 refused() const {
    u64 n = 0;
    for (usize i = 0; i < kCauses; ++i) n += i == static_cast<usize>(Cause::NotScheduled) ? 0 : not_done[i];
    return n;
  }
  bool clean() const {
    return refused() == 0 && lost == 0 && corrupted == 0 && duplicated == 0 && misdirected == 0 && strays == 0 &&
           read_errors == 0 && resets == 0;
  }
};

struct DeviceResult {
  std::string name;
  Bdf bdf;
  std::array<PhaseResult, kPhases> phases{};
  const PhaseResult& in(Phase p) const { return phases[static_cast<usize>(p)]; }
  PhaseResult& in(Phase p) { return phases[static_cast<usize>(p)]; }
};

// One thing that is wrong, for people: the first 256 of an audit.
struct Finding {
  enum class Kind : u8 { Lost, Corrupted, Duplicated, Misdirected } kind{};
  Bdf bdf;
  u8 ring = 0;
  u32 slot = 0;
  u64 iova = 0;
  u64 expected_phys = 0;  // 0: nowhere
  u64 found_phys = 0;     // 0: nowhere
  u64 sequence = 0;
  std::string to_string() const;
};

struct AuditReport {
  std::vector<DeviceResult> devices;
  std::vector<Finding> findings;
  u64 scanned_bytes = 0;  // searched for stray records

  bool clean(Phase p) const {
    for (const DeviceResult& d : devices) {
      if (!d.in(p).clean()) return false;
    }
    return true;
  }
};

}  // namespace perdure::board
