#include "core/iommufd/dirty_reader.h"

#include <algorithm>

namespace perdure::iommufd {

namespace {
constexpr u64 kWordBits = 64;

u64 last_of(const pt::Leaf& leaf) {
  return leaf.iova.value + (leaf.length - 1);
}
}  // namespace

DirtyReader::DirtyReader(Heap& heap, Task& task, PagingDomain& domain, const DirtyRequest& request)
    : task_(task), domain_(domain), request_(request), window_(heap) {}

Result<void> DirtyReader::read(Iova last) {
  last_ = std::min(last.value, request_.iova.value + (request_.length - 1));
  TRY(window_.reserve(kWindowBits / kWordBits));
  for (u64 i = 0; i < kWindowBits / kWordBits; ++i) static_cast<void>(window_.push_back(0));
  const Result<void> done = read_windows();
  // Also what was unmarked before something failed: until it is flushed, writes may leave no mark.
  if (unmarked_) TRY(domain_.flush_unmarked(Iova(unmarked_first_), Iova(unmarked_last_)));
  return done;
}

Result<void> DirtyReader::read_windows() {
  for (u64 at = request_.iova.value;;) {
    u64 from = at;
    if (straddler_.last < at || !straddler_.dirty) {
      if (straddler_.last >= last_) return {};
      const Result<u64> found = next_dirty(std::max(at, straddler_.last == 0 ? at : straddler_.last + 1));
      if (!found) return found.error() == Errno::Enoent ? Result<void>() : fail(found.error());
      from = *found;
    }
    TRY(read_window(from));
    if (window_last_ == last_) return {};
    at = window_last_ + 1;
  }
}

// The first address at or after `from` that is in a marked leaf. Enoent.
Result<u64> DirtyReader::next_dirty(u64 from) {
  u64 found = 0;
  const Result<void> none = domain_.each_dirty(Iova(from), last_ - from + 1, [&](const pt::Leaf& leaf) -> Result<bool> {
    found = std::max(leaf.iova.value, from);
    return fail(Errno::Eexist);
  });
  if (none) return fail(Errno::Enoent);
  if (none.error() != Errno::Eexist) return fail(none.error());
  return found;
}

// One window, of which nothing before `from` is marked.
Result<void> DirtyReader::read_window(u64 from) {
  window_bit_ = align_down(bit_of(from), 8);  // where a byte begins
  const u64 bits = std::min(kWindowBits, bit_of(last_) - window_bit_ + 1);
  const u64 end_bit = window_bit_ + bits;  // not in it
  window_last_ = end_bit > bit_of(last_) ? last_ : request_.iova.value + (end_bit * request_.page_size - 1);
  std::fill(window_.begin(), window_.end(), 0);

  const Straddler begun = straddler_;
  u64 fresh = from;  // where leaves begin that nothing was decided about
  if (begun.last >= from) {
    set_bits(from, std::min(begun.last, window_last_));
    fresh = begun.last + 1;
  }
  if (fresh <= window_last_) {
    straddler_ = {};
    TRY(domain_.each_dirty(Iova(fresh), window_last_ - fresh + 1, [&](const pt::Leaf& leaf) -> Result<bool> {
      set_bits(std::max(leaf.iova.value, request_.iova.value), std::min(last_of(leaf), window_last_));
      if (last_of(leaf) > window_last_) straddler_ = {leaf.iova.value, last_of(leaf), true};
      return false;
    }));
    const Result<pt::Leaf> leaf = domain_.leaf_at(Iova(window_last_));
    const bool straddles = leaf && last_of(*leaf) > window_last_;
    if (straddles && straddler_.last == 0) straddler_ = {leaf->iova.value, last_of(*leaf), false};
  }
  TRY(store_window());
  return request_.clear ? unmark_window(from, window_last_, begun) : Result<void>();
}

// What the bitmap says by now. A leaf that was marked only after it was looked at is left for the next call.
Result<void> DirtyReader::unmark_window(u64 from, u64 last, const Straddler& begun) {
  return domain_.each_dirty(Iova(from), last - from + 1, [&](const pt::Leaf& leaf) -> Result<bool> {
    if (leaf.iova < request_.iova || last_of(leaf) > last) return false;
    const bool begun_before = begun.last >= from && leaf.iova.value == begun.first;
    if (begun_before ? !begun.dirty : !all_set(leaf.iova.value, last_of(leaf))) return false;
    unmarked_first_ = unmarked_ ? std::min(unmarked_first_, leaf.iova.value) : leaf.iova.value;
    unmarked_last_ = std::max(unmarked_last_, last_of(leaf));
    return unmarked_ = true;
  });
}

void DirtyReader::set_bits(u64 first, u64 last) {
  const u64 to = bit_of(last) - window_bit_;
  for (u64 bit = bit_of(first) - window_bit_; bit <= to;) {
    const u64 into = bit % kWordBits;
    const u64 count = std::min(kWordBits - into, to - bit + 1);
    window_[bit / kWordBits] |= (~u64{0} >> (kWordBits - count)) << into;
    bit += count;
  }
}

bool DirtyReader::all_set(u64 first, u64 last) const {
  const u64 to = bit_of(last) - window_bit_;
  for (u64 bit = bit_of(first) - window_bit_; bit <= to; ++bit) {
    if ((window_[bit / kWordBits] >> (bit % kWordBits) & 1) == 0) return false;
  }
  return true;
}

// Only bytes that get a bit, and those between them, are touched.
Result<void> DirtyReader::store_window() {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(window_.begin(), window_.size()));
  const u64 start = window_bit_ / 8;
  if (range_overflows(request_.bitmap.value, start + bytes.size())) return fail(Errno::Efault);
  const auto any = [](std::byte b) { return b != std::byte{0}; };
  for (usize at = 0; at < bytes.size();) {
    std::byte chunk[512];
    const std::span<const std::byte> part = bytes.subspan(at, std::min(sizeof(chunk), bytes.size() - at));
    at += part.size();
    const auto first = std::find_if(part.begin(), part.end(), any);
    if (first == part.end()) continue;
    const usize skipped = static_cast<usize>(first - part.begin());
    usize end = part.size();
    while (!any(part[end - 1])) --end;
    const std::span<std::byte> mine(chunk, end - skipped);
    const UserAddr place = request_.bitmap + (start + (at - part.size()) + skipped);
    TRY(task_.copy_in(mine, place));
    for (usize i = 0; i < mine.size(); ++i) mine[i] |= part[skipped + i];
    TRY(task_.copy_out(place, std::span<const std::byte>(mine)));
  }
  return {};
}

}  // namespace perdure::iommufd
