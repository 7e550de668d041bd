// Domain ids of one unit: a bitmap over what CAP.ND allows. The unit's lock serialises its use.
#pragma once
#include "core/iommu/unit.h"
#include "core/mem/vec.h"

namespace perdure::vtd {

class DidSpace {
 public:
  explicit DidSpace(Heap& heap) : words_(heap) {}

  // Ids are < `limit` (a power of two, at least 16). Enomem.
  Result<void> init(u32 limit);
  // The next free id from kFirstDynamicDid on, going round: an id that was just freed is not the first to be used
  // again. Enospc.
  Result<u32> alloc();
  // Erange outside [kFirstDynamicDid, limit), Eexist when taken. 64 bits, because it comes from a record (R01).
  Result<void> reserve(u64 did);
  void free(u32 did);
  bool taken(u64 did) const;
  u32 limit() const { return limit_; }

 private:
  bool valid(u64 did) const { return did >= kFirstDynamicDid && did < limit_; }
  Vec<u64> words_;
  u32 limit_ = 0;
  u32 next_ = kFirstDynamicDid;
};

}  // namespace perdure::vtd
