// Which transfers are under way, by epoch: an invalidation with drain closes the epoch and is complete when all
// transfers of earlier epochs are over.
#pragma once
#include <deque>

#include "machine/board/iommu/translation.h"

namespace perdure::board {

// Not thread-safe: guarded by the unit's lock.
class InFlightTable {
 public:
  InFlightTable() : epochs_(1) {}

  // The epoch to hand to end().
  u64 begin(Access access) {
    ++epochs_.back().count[index(access)];
    return first_ + epochs_.size() - 1;
  }
  void end(u64 epoch, Access access) {
    --epochs_[epoch - first_].count[index(access)];
    while (epochs_.size() > 1 && epochs_.front().empty()) {
      epochs_.pop_front();
      ++first_;
    }
  }
  // Transfers from here on belong to the returned epoch.
  u64 close() {
    if (!epochs_.back().empty()) epochs_.emplace_back();
    return first_ + epochs_.size() - 1;
  }
  // No transfer of this kind from before `epoch` is under way.
  bool drained(u64 epoch, Access access) const {
    for (usize i = 0; i < epochs_.size() && first_ + i < epoch; ++i) {
      if (epochs_[i].count[index(access)] != 0) return false;
    }
    return true;
  }

 private:
  struct Epoch {
    u64 count[2] = {0, 0};
    bool empty() const { return count[0] == 0 && count[1] == 0; }
  };
  static usize index(Access access) { return access == Access::Write ? 1 : 0; }

  u64 first_ = 1;  // number of epochs_.front()
  std::deque<Epoch> epochs_;
};

}  // namespace perdure::board
