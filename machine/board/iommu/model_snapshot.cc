// The unit's state as bytes: registers, latched pointers, commands under way. Caches are left out: a unit may lose
// them at any time.
#include "machine/board/iommu/model_impl.h"

namespace perdure::board {

namespace {
constexpr u32 kTag = 0x56544431;  // "VTD1"
}

std::vector<std::byte> IommuModel::Impl::save_locked() const {
  SnapshotWriter out(kTag);
  out.put(config_.cap());
  out.put(config_.ecap());
  out.put(config_.haw);
  out.put(status_);
  out.put(gcmd_value_);
  for (u64 v : {rtaddr_, root_.base, root_.ttm, irta_, ccmd_, iva_, iotlb_, phm_base_, phm_limit_}) {
    out.put(v);
  }
  out.put<u8>(root_.latched);
  out.put<u8>(iotlb_flushed_);
  for (u32 v : {pmen_, plm_base_, plm_limit_}) out.put(v);
  for (const Command* c : {&gcmd_, &context_flush_, &iotlb_flush_, &queue_turn_}) {
    out.put<u8>(c->pending);
    out.put(c->countdown);
  }
  out.put(delays_.state());
  faults_.save(out);
  queue_.save(out);
  interrupts_.save(out);
  return out.finish();
}

bool IommuModel::Impl::restore_locked(std::span<const std::byte> bytes) {
  SnapshotReader in(bytes, kTag);
  if (in.get<u64>() != config_.cap() || in.get<u64>() != config_.ecap() || in.get<u8>() != config_.haw) return false;
  status_ = in.get<u32>();
  gcmd_value_ = in.get<u32>();
  for (u64* v : {&rtaddr_, &root_.base, &root_.ttm, &irta_, &ccmd_, &iva_, &iotlb_, &phm_base_, &phm_limit_}) {
    *v = in.get<u64>();
  }
  root_.latched = in.get<u8>() != 0;
  iotlb_flushed_ = in.get<u8>() != 0;
  iotlb_drain_ = {};  // transfers do not outlive the machine they ran on
  for (u32* v : {&pmen_, &plm_base_, &plm_limit_}) *v = in.get<u32>();
  for (Command* c : {&gcmd_, &context_flush_, &iotlb_flush_, &queue_turn_}) {
    c->pending = in.get<u8>() != 0;
    c->countdown = in.get<u32>();
  }
  delays_.set_state(in.get<u64>());
  faults_.restore(in);
  queue_.restore(in);
  interrupts_.restore(in);
  caches_.drop_all();
  dids_.drop_all();
  return in.complete();
}

}  // namespace perdure::board
