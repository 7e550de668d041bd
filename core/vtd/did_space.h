// Domain ids of one unit: a bitmap over what CAP.ND allows. The unit's lock serialises its use.
#pragma once
#include "core/iommu/unit.h"
#include "core/mem/vec.h"

namespace perdure::vtd {

class DidSpace {
 public:
  explicit DidSpace(Heap& heap) : words_(heap), second_(heap), first_(heap), tracked_(heap) {}

  // Ids are < `limit` (a power of two, at least 16). Enomem.
  Result<void> init(u32 limit);
  // The next free id from kFirstDynamicDid on, going round: an id that was just freed is not the first to be used
  // again. Enospc.
  Result<u32> alloc();
  // Erange outside [kFirstDynamicDid, limit), Eexist when taken. 64 bits, because it comes from a record (R01).
  Result<void> reserve(u64 did);
  void free(u32 did);
  bool taken(u64 did) const;

  // Which page tables an id tags translations of: first-stage and second-stage ones may never have an id in common
  // (hardware.md §4), and are flushed differently. Until free() or the next alloc() of it. Any id below the limit, also
  // one that is not taken: what a former kernel's entries use. Einval: of the other format already, or no such id.
  Result<void> bind(u64 did, pt::FormatId format);
  pt::FormatId bound_to(u64 did) const;

  // Whether entries under an id are to track what is written through them; off until it is set, and after unbinding.
  // An id below the limit.
  void set_tracked(u64 did, bool on);
  bool tracked(u64 did) const { return did < limit_ && test(tracked_, did); }

  u32 limit() const { return limit_; }

 private:
  bool valid(u64 did) const { return did >= kFirstDynamicDid && did < limit_; }
  static bool test(const Vec<u64>& words, u64 did) { return (words[did / 64] >> (did % 64) & 1) != 0; }
  void unbind(u64 did);

  Vec<u64> words_;
  Vec<u64> second_;  // ids of second-stage tables
  Vec<u64> first_;   // ids of first-stage tables
  Vec<u64> tracked_;
  u32 limit_ = 0;
  u32 next_ = kFirstDynamicDid;
};

}  // namespace perdure::vtd
