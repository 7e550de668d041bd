#include "core/vtd/did_space.h"

#include <bit>

namespace perdure::vtd {

Result<void> DidSpace::init(u32 limit) {
  const usize words = (limit + 63) / 64;
  for (Vec<u64>* map : {&words_, &second_, &first_, &tracked_}) {
    TRY(map->reserve(words));
    for (usize i = 0; i < words; ++i) TRY(map->push_back(0));
  }
  // Ids beyond the limit and the two that Linux's conventions take never come out of alloc().
  if (limit % 64 != 0) words_[words - 1] = ~u64{0} << (limit % 64);
  words_[0] |= (u64{1} << kFirstDynamicDid) - 1;
  limit_ = limit;
  return {};
}

Result<u32> DidSpace::alloc() {
  const usize count = words_.size();
  const usize first = next_ / 64;
  // The first word twice: from next_ on, and at the end what lies below it.
  for (usize i = 0; i <= count && count != 0; ++i) {
    const usize at = (first + i) % count;
    u64 free = ~words_[at];
    if (i == 0) free &= ~u64{0} << (next_ % 64);
    if (free == 0) continue;
    const u32 did = static_cast<u32>(at * 64) + static_cast<u32>(std::countr_zero(free));
    words_[at] |= u64{1} << (did % 64);
    unbind(did);
    next_ = did + 1 < limit_ ? did + 1 : kFirstDynamicDid;
    return did;
  }
  return fail(Errno::Enospc);
}

Result<void> DidSpace::reserve(u64 did) {
  if (!valid(did)) return fail(Errno::Erange);
  if (taken(did)) return fail(Errno::Eexist);
  words_[did / 64] |= u64{1} << (did % 64);
  return {};
}

void DidSpace::free(u32 did) {
  PERDURE_ASSERT(valid(did) && taken(did));
  words_[did / 64] &= ~(u64{1} << (did % 64));
  unbind(did);
}

bool DidSpace::taken(u64 did) const {
  return valid(did) && test(words_, did);
}

Result<void> DidSpace::bind(u64 did, pt::FormatId format) {
  const bool first = format == pt::FormatId::X86FirstStage;
  if (did >= limit_ || test(first ? second_ : first_, did)) return fail(Errno::Einval);
  (first ? first_ : second_)[did / 64] |= u64{1} << (did % 64);
  return {};
}

pt::FormatId DidSpace::bound_to(u64 did) const {
  if (did >= limit_) return pt::FormatId::None;
  return test(first_, did)    ? pt::FormatId::X86FirstStage
         : test(second_, did) ? pt::FormatId::VtdSecondStage
                              : pt::FormatId::None;
}

void DidSpace::set_tracked(u64 did, bool on) {
  PERDURE_ASSERT(did < limit_);
  const u64 bit = u64{1} << (did % 64);
  tracked_[did / 64] = on ? tracked_[did / 64] | bit : tracked_[did / 64] & ~bit;
}

void DidSpace::unbind(u64 did) {
  for (Vec<u64>* map : {&second_, &first_, &tracked_}) (*map)[did / 64] &= ~(u64{1} << (did % 64));
}

}  // namespace perdure::vtd
