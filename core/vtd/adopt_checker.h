// What taking over tables of another kernel has to check in either mode (hardware.md §9.3): every page preserved and
// used once, and what the domain ids stand for.
#pragma once
#include "core/mem/vec.h"
#include "core/vtd/translation_tables.h"
#include "core/vtd/unit_log.h"

namespace perdure::vtd {

class AdoptChecker {
 public:
  AdoptChecker(Heap& heap, Kho& kho, const EntryLimits& limits, const Handover& from)
      : kho_(kho), machine_(heap.machine()), limits_(limits), from_(from), pages_(heap), meanings_(heap) {}

  // Exactly the pages that were checked; each was found restorable, so that this fails only if somebody else
  // restores pages at the same time.
  Result<void> take_over();

 protected:
  // What one domain id stands for in one entry. No format: pass-through.
  struct Meaning {
    u32 did = 0;
    u16 bdf = 0;
    pt::FormatId format = pt::FormatId::None;
    u8 levels = 0;
    u64 top = 0;
    bool track_dirty = false;
  };

  void error(const Line& line) { log(machine_, LogLevel::Error, line); }
  // A page of the tables. `what` must be a literal.
  Result<void> check_page(Phys page, std::string_view what);
  Result<void> add_meaning(const Meaning& meaning) { return meanings_.push_back(meaning); }
  // Empty when `top` may be the top of a page table. All of the table is the domain record's business; here only that
  // the walker's first step is into kept memory.
  std::string_view wrong_with_top(u64 top) const;
  // At the end: no page twice, no id for two things.
  Result<void> check_whole();

  Kho& kho_;
  Machine& machine_;
  const EntryLimits& limits_;
  const Handover& from_;

 private:
  struct Page {
    u64 at = 0;
    std::string_view what;
  };
  static bool may_share(const Meaning& a, const Meaning& b);

  Vec<Page> pages_;
  Vec<Meaning> meanings_;
};

}  // namespace perdure::vtd
