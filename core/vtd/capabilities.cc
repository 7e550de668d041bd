#include "core/vtd/capabilities.h"

#include <algorithm>

#include "core/pt/x86_first_stage.h"

namespace perdure::vtd {

u32 Capabilities::did_limit() const {
  // ND 7 is reserved, and entries have room for 16 bits.
  return u32{1} << std::min<u64>(16, 4 + 2 * Cap::Nd::get(cap));
}

bool Capabilities::pages_coherent(TableMode mode) const {
  return mode == TableMode::Scalable ? Ecap::Smpwcs::test(ecap) : Ecap::C::test(ecap);
}

EntryLimits Capabilities::limits(TableMode mode) const {
  EntryLimits limits;
  limits.address_mask = ((u64{1} << host_address_bits) - 1) & ~(kPageSize - 1);
  limits.did_limit = did_limit();
  limits.sagaw = static_cast<u8>(Cap::Sagaw::get(cap));
  limits.pass_through = Ecap::Pt::test(ecap);
  limits.second_stage = second_stage(mode).levels != 0;
  limits.first_stage_levels = first_stage(mode).levels;
  limits.track_dirty = dirty_tracking(mode).levels != 0;
  limits.walk_snoops = mode == TableMode::Scalable && pages_coherent(mode);
  return limits;
}

pt::Geometry Capabilities::second_stage(TableMode mode) const {
  pt::Geometry g;
  if (mode == TableMode::Scalable && !Ecap::Ssts::test(ecap)) return g;
  const unsigned mgaw = static_cast<unsigned>(Cap::Mgaw::get(cap)) + 1;
  for (u8 levels = 3; levels <= 5; ++levels) {
    if ((Cap::Sagaw::get(cap) >> (levels - 2) & 1) == 0) continue;
    g.levels = levels;
    if (12u + 9u * levels >= mgaw) break;
  }
  if (g.levels == 0) return g;
  g.format = pt::FormatId::VtdSecondStage;
  g.iova_bits = static_cast<u8>(std::min(mgaw, 12u + 9u * g.levels));
  g.output_bits = host_address_bits;
  g.leaf_sizes = kPageSize;
  if ((Cap::Sslps::get(cap) & 1) != 0) g.leaf_sizes |= kHugePageSize;
  if ((Cap::Sslps::get(cap) & 2) != 0) g.leaf_sizes |= kGiantPageSize;
  g.coherent = pages_coherent(mode);
  return g;
}

pt::Geometry Capabilities::dirty_tracking(TableMode mode) const {
  const bool marks = mode == TableMode::Scalable && Ecap::Ssads::test(ecap) && pages_coherent(mode);
  return marks ? second_stage(mode) : pt::Geometry();
}

pt::Geometry Capabilities::first_stage(TableMode mode) const {
  pt::Geometry g;
  if (mode != TableMode::Scalable || !Ecap::Fsts::test(ecap)) return g;
  const unsigned mgaw = static_cast<unsigned>(Cap::Mgaw::get(cap)) + 1;
  g.format = pt::FormatId::X86FirstStage;
  g.levels = Cap::Fs5lp::test(cap) ? 5 : 4;
  g.iova_bits = static_cast<u8>(std::min(mgaw, pt::X86FirstStage::max_iova_bits(g.levels)));
  g.output_bits = host_address_bits;
  g.leaf_sizes = kPageSize | kHugePageSize;
  if (Cap::Fs1gp::test(cap)) g.leaf_sizes |= kGiantPageSize;
  g.coherent = pages_coherent(mode);
  return g;
}

pt::Geometry Capabilities::geometry(TableMode mode, StagePolicy stage) const {
  const pt::Geometry first = first_stage(mode);
  const pt::Geometry second = second_stage(mode);
  if (second.levels == 0 || (stage == StagePolicy::FirstStage && first.levels != 0)) return first;
  return second;
}

}  // namespace perdure::vtd
