#include "machine/board/iommu/flusher.h"

namespace perdure::board {

void Flusher::context_global(bool scalable) {
  caches_.drop_contexts();
  if (!scalable) dids_.drop_all();  // scalable: the domain id is in the PASID cache
  empty_write_buffer();
}

void Flusher::context_domain(u16 did, bool scalable) {
  if (scalable) return context_global(true);  // contexts have no domain id there
  caches_.drop_contexts_of_domain(did);
  dids_.drop_domain(did);
  empty_write_buffer();
}

void Flusher::context_device(u16 did, u16 source, u8 function_mask, bool scalable) {
  const u16* const only = config_.quirks.device_flush_of_any_did ? nullptr : &did;
  caches_.drop_contexts_of_source(source, function_mask, scalable ? nullptr : only);
  if (!scalable) dids_.drop_source(source, function_mask, only);
  empty_write_buffer();
}

void Flusher::pasid_global() {
  caches_.drop_pasids();
  dids_.drop_all();
  empty_write_buffer();
}

void Flusher::pasid_domain(u16 did, const u32* pasid) {
  caches_.drop_pasids_of_domain(did, pasid);
  dids_.drop_domain(did, pasid);
  empty_write_buffer();
}

Flusher::Drain Flusher::translations_global(bool drain_reads, bool drain_writes) {
  caches_.drop_translations();
  return close(drain_reads, drain_writes);
}

Flusher::Drain Flusher::translations_domain(u16 did, bool drain_reads, bool drain_writes) {
  caches_.drop_translations_of({did});
  return close(drain_reads, drain_writes);
}

Flusher::Drain Flusher::translations_pages(u16 did, u64 iova, unsigned order, bool leaves_only, bool drain_reads,
                                           bool drain_writes, u64 where) {
  if (!config_.psi) return translations_domain(did, drain_reads, drain_writes);
  pages({did}, iova, order, leaves_only, config_.quirks.psi_mask8, where);
  return close(drain_reads, drain_writes);
}

Flusher::Drain Flusher::first_stage_all(u16 did, u32 pasid) {
  caches_.drop_translations_of({did, true, pasid});
  return close(true, true);
}

Flusher::Drain Flusher::first_stage_pages(u16 did, u32 pasid, u64 iova, unsigned order, bool leaves_only, u64 where) {
  if (!config_.psi) return first_stage_all(did, pasid);
  pages({did, true, pasid}, iova, order, leaves_only, false, where);
  return close(true, true);
}

void Flusher::pages(const Tag& tag, u64 iova, unsigned order, bool leaves_only, bool mask8, u64 where) {
  const u64 below = order + kPageShift >= 64 ? ~u64{0} : (u64{1} << (order + kPageShift)) - 1;
  if ((iova & below) != 0) checker_.note(ViolationKind::BadFlushAddress, where, iova);
  caches_.drop_pages(tag, iova, order, leaves_only, mask8);
}

void Flusher::empty_write_buffer() {
  if (config_.rwbf && !config_.caching_mode) caches_.drop_faults();
}

Flusher::Drain Flusher::close(bool reads, bool writes) {
  empty_write_buffer();
  reads = reads && config_.drd;
  writes = writes && config_.dwd;
  if (!reads && !writes) return {};
  const u64 epoch = in_flight_.close();
  return {reads ? epoch : 0, writes ? epoch : 0};
}

}  // namespace perdure::board
