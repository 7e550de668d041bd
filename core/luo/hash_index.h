// An index over objects that know their place in it, so that adding and removing cannot fail. Growing may:
// then chains get longer.
#pragma once
#include "core/mem/vec.h"

namespace perdure::luo {

template <class T>
struct HashLink {
  T* next = nullptr;
  u64 hash = 0;
};

template <class T, HashLink<T> T::* Link>
class HashIndex {
 public:
  explicit HashIndex(Heap& heap) : grown_(heap) {}
  HashIndex(const HashIndex&) = delete;
  HashIndex& operator=(const HashIndex&) = delete;

  void insert(T& object, u64 hash) {
    if (size_ >= 2 * buckets().size()) grow();
    link(buckets(), object, hash);
    ++size_;
  }
  void remove(T& object) {
    T** at = &buckets()[slot((object.*Link).hash, buckets().size())];
    while (*at != &object) at = &((*at)->*Link).next;
    *at = (object.*Link).next;
    --size_;
  }
  // The object inserted last of those with this hash that `is` accepts, or null.
  template <class Predicate>
  T* find(u64 hash, Predicate is) const {
    for (T* at = buckets()[slot(hash, buckets().size())]; at != nullptr; at = (at->*Link).next) {
      if ((at->*Link).hash == hash && is(*at)) return at;
    }
    return nullptr;
  }

 private:
  static constexpr usize kFirst = 16;
  // Hashes may be plain numbers in a row or multiples of something.
  static usize slot(u64 hash, usize buckets) {
    hash *= 0x9e3779b97f4a7c15;
    return (hash ^ (hash >> 32)) & (buckets - 1);
  }
  static void link(std::span<T*> into, T& object, u64 hash) {
    T*& first = into[slot(hash, into.size())];
    (object.*Link) = {first, hash};
    first = &object;
  }
  std::span<T*> buckets() { return grown_.empty() ? std::span<T*>(few_) : grown_.span(); }
  std::span<T* const> buckets() const { return grown_.empty() ? std::span<T* const>(few_) : grown_.span(); }

  void grow() {
    Vec<T*> bigger(grown_.heap());
    const usize count = 4 * buckets().size();
    if (!bigger.reserve(count)) return;
    for (usize i = 0; i < count; ++i) (void)bigger.push_back(nullptr);  // reserved
    for (T* at : buckets()) {
      while (at != nullptr) {
        T* next = (at->*Link).next;
        link(bigger.span(), *at, (at->*Link).hash);
        at = next;
      }
    }
    grown_ = std::move(bigger);
  }

  T* few_[kFirst] = {};
  Vec<T*> grown_;
  usize size_ = 0;
};

}  // namespace perdure::luo
