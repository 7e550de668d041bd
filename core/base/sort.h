// Heapsort: in place, no recursion, no allocation, never quadratic. Not stable.
#pragma once
#include <span>
#include <utility>

#include "core/base/types.h"

namespace perdure {

template <class T, class Less>
void sort(std::span<T> items, Less less) {
  const auto sift_down = [&](usize root, usize end) {
    for (usize child = 2 * root + 1; child < end; child = 2 * root + 1) {
      if (child + 1 < end && less(items[child], items[child + 1])) ++child;
      if (!less(items[root], items[child])) return;
      std::swap(items[root], items[child]);
      root = child;
    }
  };
  for (usize root = items.size() / 2; root > 0; --root) sift_down(root - 1, items.size());
  for (usize end = items.size(); end > 1; --end) {
    std::swap(items[0], items[end - 1]);
    sift_down(0, end - 1);
  }
}

}  // namespace perdure
