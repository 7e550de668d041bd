// What should be in memory: for one device, where its program wants each IOVA to lead (the intent), and the last record
// of each slot. Guarded by the device's lock; not part of the hardware, so no reset touches it.
#pragma once
#include <map>
#include <optional>
#include <vector>

#include "machine/board/record.h"
#include "machine/board/results.h"
#include "machine/board/state_file.h"

namespace perdure::board {

enum class IntentAccess : u8 { Read = 1, Write = 2, ReadWrite = 3 };

struct Intent {
  u64 iova = 0;
  u64 length = 0;
  u64 host_id = 0;  // file (physical_memory.h, host_file_id)
  u64 offset = 0;   // of `iova` in the file
  IntentAccess access = IntentAccess::ReadWrite;
  bool operator==(const Intent&) const = default;
};

// Where one byte should be, and for how many bytes that holds.
struct Place {
  u64 host_id = 0;
  u64 offset = 0;
  u64 length = 0;
  IntentAccess access = IntentAccess::ReadWrite;
};

struct SlotEntry {
  u64 sequence = 0;  // 0: never written
  u64 checksum = 0;
  u64 iova = 0;
  u64 phys = 0;  // where it went
};

struct RingLedger {
  u32 generation = 0;
  std::vector<SlotEntry> slots;
};

class DeviceLedger {
 public:
  // --- intent --------------------------------------------------------------------------------------------------------
  // Einval: empty, unaligned to 64 bytes, or wrapping. What overlaps is replaced.
  bool declare(const Intent& intent);
  void withdraw(u64 iova, u64 length);
  std::optional<Place> place_of(u64 iova) const;
  // True when the place was the intended one at some time.
  bool ever_intended(u64 iova, u64 host_id, u64 offset) const;
  const std::map<u64, Intent>& intents() const { return intents_; }
  const std::vector<Intent>& former_intents() const { return former_; }
  // After a machine was loaded from files: the files of its banks are others.
  void rename_hosts(const std::map<u64, u64>& to_new);

  // --- transfers -----------------------------------------------------------------------------------------------------
  // A ring starts over with other slots: what it wrote before is no longer checked.
  void ring_configured(u8 ring, u32 generation, u32 slots);
  void wrote(u8 ring, u32 slot, const SlotEntry& entry) { rings_[ring].slots[slot] = entry; }
  const std::map<u8, RingLedger>& rings() const { return rings_; }
  const SlotEntry* slot(u8 ring, u32 generation, u32 slot) const;

  // --- counting ------------------------------------------------------------------------------------------------------
  Phase phase() const { return phase_; }
  PhaseResult& now() { return results_[static_cast<usize>(phase_)]; }
  const PhaseResult& result(Phase p) const { return results_[static_cast<usize>(p)]; }
  PhaseResult& result(Phase p) { return results_[static_cast<usize>(p)]; }
  void enter_phase(Phase next, u64 now_ns);
  void done(u64 now_ns);
  void not_done(Cause cause, u64 n = 1) { now().not_done[static_cast<usize>(cause)] += n; }
  // Gaps count only while the device has something to do.
  void set_running(bool running, u64 now_ns);
  // The interval that is still open.
  void close_gap(u64 now_ns);

  void save(StateWriter& out) const;
  void load(StateReader& in);

 private:
  void cut(u64 iova, u64 length);
  std::map<u64, Intent> intents_;  // by IOVA, disjoint
  std::vector<Intent> former_;
  std::map<u8, RingLedger> rings_;
  Phase phase_ = Phase::Before;
  std::array<PhaseResult, kPhases> results_{};
  bool running_ = false;
  u64 last_done_ns_ = 0;
};

}  // namespace perdure::board
