#include "machine/board/poison.h"

#include <algorithm>
#include <chrono>

namespace perdure::board {
namespace {

// Frames, not bytes, live or die.
PhysRange frames(const PhysRange& r) {
  const u64 base = align_down(r.base, kPageSize);
  return {base, align_up(r.end(), kPageSize) - base};
}

// What both lists cover.
u64 common_bytes(const std::vector<PhysRange>& a, const std::vector<PhysRange>& b) {
  u64 bytes = 0;
  for (usize i = 0, k = 0; i < a.size() && k < b.size();) {
    const u64 from = std::max(a[i].base, b[k].base);
    const u64 to = std::min(a[i].end(), b[k].end());
    if (from < to) bytes += to - from;
    a[i].end() < b[k].end() ? ++i : ++k;
  }
  return bytes;
}

}  // namespace

PoisonStats poison(PhysicalMemory& memory, const HandoverRequest& request) {
  const auto began = std::chrono::steady_clock::now();
  PoisonStats stats;
  const HandoverImage image = read_handover(memory, request.kho_fdt);
  stats.image_valid = image.valid;
  stats.image_problem = image.problem;
  stats.node_frames = image.nodes.size();

  const std::vector<PhysRange> ram = memory.ram();
  stats.preserved_frames = common_bytes(image.preserved, ram) / kPageSize;

  std::vector<PhysRange> keep = image.preserved;
  keep.insert(keep.end(), memory.reserved().begin(), memory.reserved().end());
  for (u64 node : image.nodes) keep.push_back({node, kPageSize});
  for (const PhysRange& r : request.boot_data) keep.push_back(frames(r));
  for (const PhysRange& r : request.segments) keep.push_back(frames(r));
  keep = merge_ranges(std::move(keep));

  std::vector<PhysRange> materialised;
  memory.each_materialised_ram([&](PhysRange r) { materialised.push_back(r); });
  usize k = 0;
  for (const PhysRange& r : materialised) {
    u64 at = r.base;
    while (at < r.end()) {
      while (k < keep.size() && keep[k].end() <= at) ++k;
      const bool kept = k < keep.size() && keep[k].base <= at;
      const u64 until = kept               ? std::min(r.end(), keep[k].end())
                        : k == keep.size() ? r.end()
                                           : std::min(r.end(), keep[k].base);
      if (kept) {
        stats.kept_frames += (until - at) / kPageSize;
      } else {
        memory.fill({at, until - at}, kPoisonWord);
        stats.poisoned_frames += (until - at) / kPageSize;
      }
      at = until;
    }
  }

  for (const Bank& bank : memory.banks()) {
    const std::vector<PhysRange> range{{bank.base.value, bank.length}};
    if (common_bytes(image.preserved, range) != 0) {
      ++stats.banks_kept;
    } else if (memory.detach(bank.base.value)) {
      ++stats.banks_detached;
    }
  }
  stats.elapsed_ns = static_cast<u64>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - began).count());
  return stats;
}

}  // namespace perdure::board
