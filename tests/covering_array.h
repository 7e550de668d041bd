// Points of a product of axes, so few that every two values of different axes still meet in one of them.
#pragma once
#include <algorithm>
#include <set>
#include <tuple>
#include <vector>

#include "core/base/types.h"

namespace perdure::test {

using Point = std::vector<u32>;  // by axis: which of its values

// Every point of the product, the last axis first to change. `sizes`: values of each axis, none 0.
inline std::vector<Point> whole_product(const std::vector<u32>& sizes) {
  std::vector<Point> all;
  Point at(sizes.size(), 0);
  for (;;) {
    all.push_back(at);
    usize axis = sizes.size();
    while (axis > 0 && ++at[axis - 1] == sizes[axis - 1]) at[--axis] = 0;
    if (axis == 0) return all;
  }
}

// (axis, value, later axis, value)
using Pair = std::tuple<usize, u32, usize, u32>;

inline std::set<Pair> pairs_of(const std::vector<Point>& points) {
  std::set<Pair> pairs;
  for (const Point& p : points) {
    for (usize a = 0; a < p.size(); ++a) {
      for (usize b = a + 1; b < p.size(); ++b) pairs.insert({a, p[a], b, p[b]});
    }
  }
  return pairs;
}

// Greedy: always the point that brings most pairs nobody brought yet, the first of equals. The same array whenever the
// axes are the same.
inline std::vector<Point> covering_array(const std::vector<u32>& sizes) {
  const std::vector<Point> product = whole_product(sizes);
  std::set<Pair> missing = pairs_of(product);
  std::vector<Point> chosen;
  while (!missing.empty()) {
    const Point* best = nullptr;
    usize most = 0;
    for (const Point& p : product) {
      const std::set<Pair> brings = pairs_of({p});
      const auto fresh =
          static_cast<usize>(std::ranges::count_if(brings, [&](const Pair& pair) { return missing.contains(pair); }));
      if (fresh > most) {
        most = fresh;
        best = &p;
      }
    }
    for (const Pair& pair : pairs_of({*best})) missing.erase(pair);
    chosen.push_back(*best);
  }
  return chosen;
}

}  // namespace perdure::test
