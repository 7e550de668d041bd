#include "core/iommu/graft.h"

#include <algorithm>

namespace perdure {

Result<u64> check_same_results(const pt::IoPageTable& live, const pt::IoPageTable& fresh, Iova& at) {
  u64 bytes = 0;
  const u64 span = u64{1} << live.geometry().iova_bits;
  TRY(live.each_run(Iova(0), span, [&](const pt::Leaf& old) -> Result<void> {
    const Iova end = old.iova + old.length;
    at = old.iova;
    TRY(fresh.each_run(old.iova, old.length, [&](const pt::Leaf& run) -> Result<void> {
      // It may begin before the range and end behind it; what is left out in between is a hole.
      if (run.iova > at) return fail(Errno::Einval);
      if (run.phys + (at - run.iova) != old.phys + (at - old.iova)) return fail(Errno::Einval);
      if (!includes(run.access, old.access)) return fail(Errno::Einval);
      at = std::min(run.iova + run.length, end);
      return {};
    }));
    if (at != end) return fail(Errno::Einval);
    bytes += old.length;
    return {};
  }));
  return bytes;
}

}  // namespace perdure
