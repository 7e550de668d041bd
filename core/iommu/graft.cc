#include "core/iommu/graft.h"

#include <algorithm>

namespace perdure {

Result<u64> check_same_results(const pt::IoPageTable& live, const pt::IoPageTable& fresh, Iova& at) {
  u64 bytes = 0;
  pt::Leaf cached;  // leaf of `fresh` that was looked at last; neighbouring small leaves of `live` often share it
  const u8 bits = live.geometry().iova_bits;
  const u64 span = bits >= 64 ? ~u64{0} : u64{1} << bits;
  TRY(live.each_leaf(Iova(0), span, [&](const pt::Leaf& old) -> Result<void> {
    for (u64 done = 0; done < old.length;) {
      at = old.iova + done;
      if (at < cached.iova || at - cached.iova >= cached.length) {
        auto found = fresh.leaf_at(at);
        if (!found) return fail(found.error() == Errno::Enoent ? Errno::Einval : found.error());
        cached = *found;
      }
      const u64 into = at - cached.iova;
      if (cached.phys + into != old.phys + done) return fail(Errno::Einval);
      if (!includes(cached.access, old.access)) return fail(Errno::Einval);
      done += std::min(old.length - done, cached.length - into);
    }
    bytes += old.length;
    return {};
  }));
  return bytes;
}

}  // namespace perdure
