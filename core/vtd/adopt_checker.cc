#include "core/vtd/adopt_checker.h"

#include <algorithm>

namespace perdure::vtd {

Result<void> AdoptChecker::take_over() {
  for (const Page& page : pages_) {
    if (auto done = kho_.restore(Phys(page.at), 0); !done) {
      error(unit_line(from_.unit) << page.what << " at " << Phys(page.at) << " cannot be taken over: " << done.error());
      return fail(Errno::Einval);
    }
  }
  return {};
}

Result<void> AdoptChecker::check_page(Phys page, std::string_view what) {
  if (!page || (page.value & ~limits_.address_mask) != 0 || !machine_.in_window(page, kPageSize)) {
    error(unit_line(from_.unit) << what << " at " << page << " is beyond the host address width");
    return fail(Errno::Einval);
  }
  auto order = kho_.incoming_order(page);
  if (!kho_.incoming_covers(page, kPageSize) || !order || *order != 0) {
    error(unit_line(from_.unit) << what << " at " << page << " is no preserved page");
    return fail(Errno::Einval);
  }
  // The other pages at the end, all at once.
  if (page == from_.queue.status || (!pages_.empty() && page == from_.root) ||
      ranges_overlap(page.value, kPageSize, from_.queue.base.value, kPageSize << from_.queue.order)) {
    error(unit_line(from_.unit) << what << " at " << page << " is used twice: for the root table or the queue, too");
    return fail(Errno::Einval);
  }
  return pages_.push_back({page.value, what});
}

std::string_view AdoptChecker::wrong_with_top(u64 top) const {
  if (top == 0 || (top & ~limits_.address_mask) != 0) return "page table beyond the host address width";
  if (!kho_.incoming_covers(Phys(top), kPageSize)) return "page table that is not preserved";
  return {};
}

// Two entries under one id (hardware.md §4). First-stage translations are told apart by their PASID, which is the same
// everywhere here, and what passes through has none, so those two may share an id as they do on Linux.
bool AdoptChecker::may_share(const Meaning& a, const Meaning& b) {
  // A cached translation of the one serves the other, so they track alike, too.
  if (a.format == b.format && a.levels == b.levels && a.top == b.top) return a.track_dirty == b.track_dirty;
  const auto second = [](const Meaning& m) { return m.format == pt::FormatId::VtdSecondStage; };
  const auto passes = [](const Meaning& m) { return m.format == pt::FormatId::None; };
  return !second(a) && !second(b) && (passes(a) || passes(b));
}

Result<void> AdoptChecker::check_whole() {
  std::sort(pages_.begin(), pages_.end(), [](const Page& a, const Page& b) { return a.at < b.at; });
  for (usize i = 1; i < pages_.size(); ++i) {
    if (pages_[i - 1].at != pages_[i].at) continue;
    error(unit_line(from_.unit) << pages_[i].what << " at " << Phys(pages_[i].at) << " is used twice, also as "
                                << pages_[i - 1].what);
    return fail(Errno::Einval);
  }
  // Of one id first what passes through, then second stage, then first stage: if two entries may not share it, two
  // neighbours may not.
  std::sort(meanings_.begin(), meanings_.end(), [](const Meaning& a, const Meaning& b) {
    if (a.did != b.did) return a.did < b.did;
    if (a.format != b.format) return a.format < b.format;
    if (a.levels != b.levels) return a.levels < b.levels;
    return a.top != b.top ? a.top < b.top : a.track_dirty < b.track_dirty;
  });
  const Meaning* last = nullptr;
  for (const Meaning& m : meanings_) {
    if (last && last->did == m.did && !may_share(*last, m)) {
      error(unit_line(from_.unit) << "domain id " << m.did
                                  << " stands for two page tables, or tracks writes to one by halves: "
                                  << SourceId{from_.segment, last->bdf} << " " << Hex{last->top} << ", "
                                  << SourceId{from_.segment, m.bdf} << " " << Hex{m.top});
      return fail(Errno::Einval);
    }
    last = &m;
  }
  return {};
}

}  // namespace perdure::vtd
