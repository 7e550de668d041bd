// I/O virtual addresses that an IOAS must not map: outside of its domains' apertures, and what its devices reserve.
#pragma once
#include "core/base/function_ref.h"
#include "core/mem/vec.h"

namespace perdure::iommufd {

struct IovaRange {
  u64 first = 0;
  u64 last = 0;  // inclusive
};

constexpr bool ranges_meet(IovaRange a, IovaRange b) {
  return a.first <= b.last && b.first <= a.last;
}

// Ranges may overlap; each has an owner, with whom it goes. Few: one a domain and one a device.
class ReservedSet {
 public:
  explicit ReservedSet(Heap& heap) : ranges_(heap) {}

  Result<void> add(const void* owner, IovaRange range);  // Enomem
  void remove(const void* owner);
  bool owned_by(const void* owner) const;
  // The first range, by start, that overlaps [first, last], or null.
  const IovaRange* find(u64 first, u64 last) const;
  // What is left of [0, 2^64), in order.
  Result<void> each_gap(FunctionRef<Result<void>(IovaRange)> visit) const;

 private:
  struct Entry {
    IovaRange range;
    const void* owner = nullptr;
  };
  Vec<Entry> ranges_;  // by start
};

}  // namespace perdure::iommufd
