#include "core/kho/radix_tree.h"

namespace perdure::kho {

bool RadixView::contains(u64 key) const {
  Phys at = root_;
  if (!at) return false;
  for (unsigned level = kRootLevel; level > 0; --level) {
    at = Phys(node(at)[slot_of(key, level)]);
    if (!at) return false;
  }
  const u64 bit = slot_of(key, 0);
  return (node(at)[bit / 64] >> (bit % 64) & 1) != 0;
}

u64 RadixView::find(u64 first, u64 last) const {
  if (!root_) return kNone;
  u64 key = first;
  while (key <= last && key >> kKeyBits == 0) {
    Phys at = root_;
    unsigned level = kRootLevel;
    for (; level > 0; --level) {
      const Phys below = Phys(node(at)[slot_of(key, level)]);
      if (!below) break;
      at = below;
    }
    if (level > 0) {
      key = ((key >> slot_shift(level)) + 1) << slot_shift(level);
      continue;
    }
    for (u64 word = slot_of(key, 0) / 64; word < kLeafWords; ++word) {
      u64 bits = node(at)[word];
      if (word == slot_of(key, 0) / 64) bits &= ~u64{0} << (key % 64);
      if (bits == 0) continue;
      const u64 found = (key >> kLeafBits << kLeafBits) + word * 64 + static_cast<unsigned>(std::countr_zero(bits));
      return found <= last ? found : kNone;
    }
    key = ((key >> kLeafBits) + 1) << kLeafBits;
  }
  return kNone;
}

Result<void> RadixView::each(FunctionRef<Result<void>(u64)> visit) const {
  constexpr u64 kLast = (u64{1} << kKeyBits) - 1;
  for (u64 key = find(1, kLast); key != kNone; key = key == kLast ? kNone : find(key + 1, kLast)) TRY(visit(key));
  return {};
}

void RadixView::nodes_below(Phys at, unsigned level, FunctionRef<void(Phys)> visit) const {
  if (level > 0) {
    for (u64 i = 0; i < kTableEntries; ++i) {
      if (const Phys child = Phys(node(at)[i])) nodes_below(child, level - 1, visit);
    }
  }
  visit(at);
}

void RadixView::each_node(FunctionRef<void(Phys)> visit) const {
  if (root_) nodes_below(root_, kRootLevel, visit);
}

Result<void> RadixTree::init() {
  view_.root_ = TRY(frames_.alloc_zeroed(0));
  return {};
}

void RadixTree::clear() {
  view_.each_node([&](Phys node) { frames_.free(node, 0); });
  view_.root_ = Phys(0);
}

Result<bool> RadixTree::insert(u64 key) {
  Phys at = view_.root_;
  unsigned level = kRootLevel;
  for (; level > 0; --level) {
    const Phys below = Phys(view_.node(at)[slot_of(key, level)]);
    if (!below) break;
    at = below;
  }
  const u64 bit = slot_of(key, 0);
  if (level == 0) {
    u64& word = view_.node(at)[bit / 64];
    const bool fresh = (word >> (bit % 64) & 1) == 0;
    word |= u64{1} << (bit % 64);
    return fresh;
  }
  // The missing nodes are built from the leaf up and hooked in with one store, so that the tree is whole at
  // every moment and a failure has nothing to take back from it.
  u64* const hook = &view_.node(at)[slot_of(key, level)];
  Phys made[kRootLevel];
  for (unsigned i = 0; i < level; ++i) {
    const auto page = frames_.alloc_zeroed(0);
    if (!page) {
      while (i > 0) frames_.free(made[--i], 0);
      return fail(page.error());
    }
    made[i] = *page;
    if (i == 0) {
      view_.node(made[0])[bit / 64] = u64{1} << (bit % 64);
    } else {
      view_.node(made[i])[slot_of(key, i)] = made[i - 1].value;
    }
  }
  *hook = made[level - 1].value;
  return true;
}

bool RadixTree::erase(u64 key) {
  if (!view_.contains(key)) return false;
  Phys at = view_.root_;
  for (unsigned level = kRootLevel; level > 0; --level) at = Phys(view_.node(at)[slot_of(key, level)]);
  const u64 bit = slot_of(key, 0);
  view_.node(at)[bit / 64] &= ~(u64{1} << (bit % 64));
  return true;
}

}  // namespace perdure::kho
