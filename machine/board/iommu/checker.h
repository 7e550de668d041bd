// Keeps the list of violations.
#pragma once
#include <array>
#include <vector>

#include "machine/board/iommu/phys_memory.h"
#include "machine/board/iommu/violation.h"

namespace perdure::board {

// Not thread-safe: guarded by the unit's lock.
class Checker {
 public:
  static constexpr usize kKept = 1024;

  explicit Checker(IommuEnvironment& environment) : environment_(environment) {}

  void note(ViolationKind kind, u64 where, u64 detail = 0, u16 source = 0);
  const std::vector<Violation>& list() const { return list_; }
  u64 count() const { return total_; }
  u64 count(ViolationKind kind) const { return counts_[static_cast<usize>(kind)]; }
  void clear();

 private:
  IommuEnvironment& environment_;
  std::vector<Violation> list_;
  std::array<u64, static_cast<usize>(ViolationKind::Count)> counts_{};
  u64 total_ = 0;
};

}  // namespace perdure::board
