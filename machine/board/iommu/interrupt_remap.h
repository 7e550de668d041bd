// Interrupt remapping (hardware.md §1 IRTA, §3.5, §7): a device's message becomes what an entry of a table says, or is
// blocked. With the cache of entries, and what software owes it.
#pragma once
#include <unordered_map>

#include "machine/board/iommu/checker.h"
#include "machine/board/iommu/config.h"
#include "machine/board/iommu/seeded_random.h"
#include "machine/board/iommu/snapshot.h"
#include "machine/board/iommu/table_reader.h"

namespace perdure::board {

// What becomes of a device's message.
struct InterruptOutcome {
  bool passes = false;
  u64 address = 0;  // of the message that goes on, in compatibility format
  u32 data = 0;
  u8 fault = 0;        // not 0: blocked for this reason
  bool quiet = false;  // not recorded (FPD)
  u16 index = 0;       // of the entry, for the fault record
};

// Not thread-safe: guarded by the unit's lock.
class InterruptRemap {
 public:
  InterruptRemap(const IommuModelConfig& config, TableReader& reader, Checker& checker)
      : config_(config), reader_(reader), checker_(checker), policy_(config.policy), random_(config.seed + 1) {}

  // `enabled`, `compatible`: GSTS.IRES and CFIS. Writes below 0xFEE0'0000 + 1 MiB only.
  InterruptOutcome resolve(u16 source, u64 address, u32 data, bool enabled, bool compatible);

  // SIRTP. `enabled`: GSTS.IRES.
  void set_table(u64 irta, bool enabled);
  u64 table() const { return table_; }
  void flush_all();
  // 2^order entries from `index`, whose low bits are not compared.
  void flush(u16 index, unsigned order);
  // A batch of invalidations ends here.
  void wait_taken();

  void drop_all() { entries_.clear(); }
  void set_policy(CachePolicy policy, u64 seed) {
    policy_ = policy;
    random_ = SeededRandom(seed + 1);
  }

  usize cached() const { return entries_.size(); }
  u64 remapped() const { return remapped_; }
  u64 blocked() const { return blocked_; }

  void save(SnapshotWriter& out) const;
  void restore(SnapshotReader& in);

 private:
  struct Entry {
    u64 low = 0;
    u64 high = 0;
  };
  InterruptOutcome look_up(u16 source, u64 address, u32 data);
  // False: the table cannot be read.
  bool fetch(u16 source, u16 index, Entry& entry);
  u32 entries() const;
  bool reserved_bits(const Entry& entry) const;
  static bool from_right_source(const Entry& entry, u16 source);

  const IommuModelConfig& config_;
  TableReader& reader_;
  Checker& checker_;
  CachePolicy policy_;
  SeededRandom random_;

  u64 table_ = 0;            // IRTA as latched
  bool owes_flush_ = false;  // the table was changed while it was in use, and the cache was not emptied since
  std::unordered_map<u16, Entry> entries_;
  u64 remapped_ = 0;
  u64 blocked_ = 0;
};

}  // namespace perdure::board
