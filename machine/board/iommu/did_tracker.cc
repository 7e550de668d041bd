#include "machine/board/iommu/did_tracker.h"

namespace perdure::board {

bool DidTracker::may_share(const Use& a, const Use& b) {
  if ((a.stage == Stage::Second) != (b.stage == Stage::Second)) return false;
  if (a.stage == Stage::First && b.stage == Stage::First && a.pasid != b.pasid) return true;
  return a.stage != b.stage || a.table == b.table;
}

void DidTracker::seen(u16 source, u32 pasid, const Binding& binding, u64 entry_phys) {
  const Use use{binding.did, pasid, binding.stage, binding.table};
  auto [mine, added] = uses_.try_emplace(source, use);
  if (!added && mine->second == use) return;  // judged before
  mine->second = use;
  for (const auto& [other, other_use] : uses_) {
    if (other != source && other_use.did == use.did && !may_share(use, other_use)) {
      checker_.note(ViolationKind::DidShared, entry_phys, use.did, source);
      return;
    }
  }
}

void DidTracker::drop_domain(u16 did, const u32* pasid) {
  std::erase_if(uses_,
                [&](const auto& e) { return e.second.did == did && (pasid == nullptr || e.second.pasid == *pasid); });
}

void DidTracker::drop_source(u16 source, u8 function_mask, const u16* did) {
  const u16 mask = TranslationCaches::source_mask(function_mask);
  std::erase_if(uses_, [&](const auto& e) {
    return ((e.first ^ source) & mask) == 0 && (did == nullptr || e.second.did == *did);
  });
}

}  // namespace perdure::board
