// Joins leaves, given in the order of their addresses, into runs that are contiguous on both sides and allow the same.
#pragma once
#include <utility>

#include "core/pt/io_page_table.h"

namespace perdure::pt {

class RunJoiner {
 public:
  explicit RunJoiner(FunctionRef<Result<void>(const Leaf& run)> visit) : visit_(visit) {}

  Result<void> add(const Leaf& leaf) {
    if (run_.length != 0 && run_.iova + run_.length == leaf.iova && run_.phys + run_.length == leaf.phys &&
        run_.access == leaf.access) {
      run_.length += leaf.length;
      return {};
    }
    TRY(end());
    run_ = leaf;
    return {};
  }
  // The caller knows that what follows continues the run.
  void extend(u64 bytes) { run_.length += bytes; }
  // Nothing continues it.
  Result<void> end() {
    Result<void> visited;
    if (run_.length != 0) visited = visit_(std::exchange(run_, {}));
    return visited;
  }

 private:
  FunctionRef<Result<void>(const Leaf& run)> visit_;
  Leaf run_;  // length 0: none
};

}  // namespace perdure::pt
