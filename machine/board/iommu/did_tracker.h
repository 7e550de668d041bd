// Which page table each requester's live entry puts under which domain id. A domain id is a cache tag: two entries with
// the same one must name the same table (hardware.md §4), and of both stages never. First-stage tables are told apart
// by their PASIDs, too, and what passes through is not translated: those may share an id. Kept apart from the caches,
// so that it also works when the policy keeps nothing.
#pragma once
#include <unordered_map>

#include "machine/board/iommu/caches.h"
#include "machine/board/iommu/checker.h"

namespace perdure::board {

// Not thread-safe: guarded by the unit's lock.
class DidTracker {
 public:
  explicit DidTracker(Checker& checker) : checker_(checker) {}

  // The entry of `source` (and `pasid`, in scalable mode) was read, at `entry_phys`, and says `binding`.
  void seen(u16 source, u32 pasid, const Binding& binding, u64 entry_phys);
  // It was read and is not present.
  void gone(u16 source) { uses_.erase(source); }

  // The flushes of the cache that holds the tag (context cache; PASID cache in scalable mode).
  void drop_all() { uses_.clear(); }
  void drop_domain(u16 did, const u32* pasid = nullptr);
  void drop_source(u16 source, u8 function_mask, const u16* did);

 private:
  struct Use {
    u16 did = 0;
    u32 pasid = 0;
    Stage stage = Stage::None;
    PageTableId table;
    bool operator==(const Use&) const = default;
  };
  static bool may_share(const Use& a, const Use& b);

  Checker& checker_;
  std::unordered_map<u16, Use> uses_;
};

}  // namespace perdure::board
