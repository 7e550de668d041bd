#include "machine/board/iommu/did_tracker.h"

namespace perdure::board {

void DidTracker::seen(u16 source, u32 pasid, const Binding& binding, u64 entry_phys) {
  const Tag tag{binding.did, pasid, binding.table};
  auto [mine, added] = tags_.try_emplace(source, tag);
  if (!added && mine->second == tag) return;  // judged before
  mine->second = tag;
  for (const auto& [other, other_tag] : tags_) {
    if (other != source && other_tag.did == tag.did && other_tag.table != tag.table) {
      checker_.note(ViolationKind::DidShared, entry_phys, tag.did, source);
      return;
    }
  }
}

void DidTracker::drop_domain(u16 did, const u32* pasid) {
  std::erase_if(tags_,
                [&](const auto& e) { return e.second.did == did && (pasid == nullptr || e.second.pasid == *pasid); });
}

void DidTracker::drop_source(u16 source, u8 function_mask, const u16* did) {
  const u16 mask = TranslationCaches::source_mask(function_mask);
  std::erase_if(tags_, [&](const auto& e) {
    return ((e.first ^ source) & mask) == 0 && (did == nullptr || e.second.did == *did);
  });
}

}  // namespace perdure::board
