// Invalidation: which cached entries go, and which transfers must be over before it is complete.
#pragma once
#include "machine/board/iommu/caches.h"
#include "machine/board/iommu/checker.h"
#include "machine/board/iommu/did_tracker.h"
#include "machine/board/iommu/in_flight_table.h"

namespace perdure::board {

// The unit's caches under the rules by which software drops them; both ways of invalidation, queue and registers, end
// here. Not thread-safe: guarded by the unit's lock.
class Flusher {
 public:
  Flusher(const IommuModelConfig& config, TranslationCaches& caches, DidTracker& dids, InFlightTable& in_flight,
          Checker& checker)
      : config_(config), caches_(caches), dids_(dids), in_flight_(in_flight), checker_(checker) {}

  // What must be over before the flush is complete: transfers of earlier epochs, by kind.
  struct Drain {
    u64 reads = 0;
    u64 writes = 0;
  };

  // `scalable`: the latched translation mode.
  void context_global(bool scalable);
  void context_domain(u16 did, bool scalable);
  void context_device(u16 did, u16 source, u8 function_mask, bool scalable);
  void pasid_global();
  void pasid_domain(u16 did, const u32* pasid);
  Drain translations_global(bool drain_reads, bool drain_writes);
  Drain translations_domain(u16 did, bool drain_reads, bool drain_writes);
  // Falls back to the domain when the unit has no page-selective flush. `where` names the culprit of a bad address.
  Drain translations_pages(u16 did, u64 iova, unsigned order, bool leaves_only, bool drain_reads, bool drain_writes,
                           u64 where);
  // First-stage translations have flushes of their own, which always drain; the ones above leave them alone, except the
  // global one.
  Drain first_stage_all(u16 did, u32 pasid);
  Drain first_stage_pages(u16 did, u32 pasid, u64 iova, unsigned order, bool leaves_only, u64 where);
  // Any invalidation empties the write buffer, too.
  void empty_write_buffer();
  bool drained(const Drain& drain) const {
    return in_flight_.drained(drain.reads, Access::Read) && in_flight_.drained(drain.writes, Access::Write);
  }

 private:
  void pages(const Tag& tag, u64 iova, unsigned order, bool leaves_only, bool mask8, u64 where);
  Drain close(bool reads, bool writes);

  const IommuModelConfig& config_;
  TranslationCaches& caches_;
  DidTracker& dids_;
  InFlightTable& in_flight_;
  Checker& checker_;
};

}  // namespace perdure::board
