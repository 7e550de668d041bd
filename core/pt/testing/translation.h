// What a page table means, apart from how it says so: stretches of IOVA with their output and permission.
#pragma once
#include <map>
#include <ostream>
#include <set>

#include "core/file/file.h"

namespace perdure::pt::testing {

struct Stretch {
  u64 length = 0;
  u64 phys = 0;
  unsigned access = 0;  // 1 read, 2 write
  bool operator==(const Stretch&) const = default;
};

class Translation {
 public:
  // Behind everything added before.
  void append(u64 iova, const Stretch& s) {
    if (!stretches_.empty()) {
      auto& [start, last] = *stretches_.rbegin();
      if (start + last.length == iova && last.phys + last.length == s.phys && last.access == s.access) {
        last.length += s.length;
        return;
      }
    }
    stretches_.emplace_hint(stretches_.end(), iova, s);
  }
  // Output and permission at one address; no permission: not mapped.
  Stretch at(u64 iova) const {
    auto next = stretches_.upper_bound(iova);
    if (next == stretches_.begin()) return {};
    const auto& [start, s] = *std::prev(next);
    if (iova - start >= s.length) return {};
    return {1, s.phys + (iova - start), s.access};
  }
  bool operator==(const Translation&) const = default;
  bool empty() const { return stretches_.empty(); }
  const std::map<u64, Stretch>& stretches() const { return stretches_; }

  // True when every address translates as in `before` or as in `after`: then those that agree did not change.
  static bool between(const Translation& now, const Translation& before, const Translation& after) {
    std::set<u64> borders;
    for (const Translation* t : {&now, &before, &after}) {
      for (const auto& [start, s] : t->stretches_) borders.insert({start, start + s.length});
    }
    for (u64 at : borders) {
      const Stretch here = now.at(at);
      if (here != before.at(at) && here != after.at(at)) return false;
    }
    return true;
  }

  friend std::ostream& operator<<(std::ostream& out, const Translation& t) {
    for (const auto& [start, s] : t.stretches_) {
      out << std::hex << "[" << start << "+" << s.length << " -> " << s.phys << " " << s.access << "] ";
    }
    return out;
  }

 private:
  std::map<u64, Stretch> stretches_;
};

}  // namespace perdure::pt::testing
