// Leaves a table's arena with exactly so many pages to give, while it lives.
#pragma once
#include <vector>

#include "core/pt/testing/table_world.h"

namespace perdure::pt::testing {

class Rationed {
 public:
  Rationed(TableWorld& w, IoPageTable& t, u64 pages) : machine_(w.machine), arena_(t.arena()), steps_(machine_.steps) {
    while (taken_.size() < 2 * pages) {
      Result<Phys> page = arena_.alloc_page();
      if (!page) throw std::runtime_error("out of memory");
      taken_.push_back(*page);
    }
    machine_.steps = &none_;
    while (Result<Phys> page = arena_.alloc_page()) taken_.push_back(*page);
    // Every second one, so that no chunk gets empty and goes.
    for (u64 i = 0; i < pages; ++i) {
      arena_.free_page(taken_[i]);
      taken_.erase(taken_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  Rationed(const Rationed&) = delete;
  Rationed& operator=(const Rationed&) = delete;
  ~Rationed() {
    machine_.steps = steps_;
    for (Phys page : taken_) arena_.free_page(page);
  }

 private:
  struct None final : StepHook {
    void stored(Phys) override {}
    bool may_allocate() override { return false; }
  };
  None none_;
  Machine& machine_;
  TableArena& arena_;
  StepHook* steps_;
  std::vector<Phys> taken_;
};

}  // namespace perdure::pt::testing
