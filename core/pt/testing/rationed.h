// Leaves a table's arena with exactly so many pages to give, while it lives.
#pragma once
#include <vector>

#include "core/pt/testing/table_world.h"

namespace perdure::pt::testing {

class Rationed {
 public:
  Rationed(TableWorld& w, IoPageTable& t, u64 pages) : machine_(w.machine), arena_(t.arena()), steps_(machine_.steps) {
    machine_.steps = &none_;
    while (Result<Phys> page = arena_.alloc_page()) taken_.push_back(*page);
    for (; pages != 0; --pages) {
      if (taken_.empty()) throw std::runtime_error("not that many pages in the arena");
      arena_.free_page(taken_.back());
      taken_.pop_back();
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

// Grows the arena, so that it can be rationed.
inline void stock(IoPageTable& t, u64 pages) {
  std::vector<Phys> taken;
  for (u64 i = 0; i < pages; ++i) {
    Result<Phys> page = t.arena().alloc_page();
    if (!page) throw std::runtime_error("out of memory");
    taken.push_back(*page);
  }
  for (Phys page : taken) t.arena().free_page(page);
}

}  // namespace perdure::pt::testing
