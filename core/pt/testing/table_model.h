// What a table should hold: one entry a leaf, computed without looking at the engine.
#pragma once
#include <vector>

#include "core/pt/io_page_table.h"
#include "core/pt/testing/translation.h"

namespace perdure::pt::testing {

class TableModel {
 public:
  explicit TableModel(const Geometry& geometry) : g_(geometry) {}

  bool overlaps(u64 iova, u64 length) const {
    for (const auto& [start, leaf] : leaves_) {
      if (ranges_overlap(start, leaf.length, iova, length)) return true;
    }
    return false;
  }
  // The range must be free.
  void map(u64 iova, u64 phys, u64 length, unsigned access) {
    while (length != 0) {
      u64 size = kPageSize;
      for (u64 s : {kHugePageSize, kGiantPageSize}) {
        if ((g_.leaf_sizes & s) != 0 && iova % s == 0 && phys % s == 0 && length >= s) size = s;
      }
      leaves_[iova] = {size, phys, access};
      iova += size;
      phys += size;
      length -= size;
    }
  }
  u64 unmap(u64 iova, u64 length) {
    u64 bytes = 0;
    for (auto at = leaves_.begin(); at != leaves_.end();) {
      if (ranges_overlap(at->first, at->second.length, iova, length)) {
        bytes += at->second.length;
        at = leaves_.erase(at);
      } else {
        ++at;
      }
    }
    return bytes;
  }
  const std::map<u64, Stretch>& leaves() const { return leaves_; }
  Translation translation() const {
    Translation t;
    for (const auto& [iova, leaf] : leaves_) t.append(iova, leaf);
    return t;
  }
  // Table pages beside the top that the leaves need.
  u64 tables() const {
    std::set<std::pair<unsigned, u64>> needed;
    for (const auto& [iova, leaf] : leaves_) {
      unsigned level = leaf.length == kPageSize ? 1 : leaf.length == kHugePageSize ? 2 : 3;
      for (; level < g_.levels; ++level) needed.insert({level, iova >> (12 + 9 * level)});
    }
    return needed.size();
  }

 private:
  Geometry g_;
  std::map<u64, Stretch> leaves_;
};

}  // namespace perdure::pt::testing
