// An access of the kernel's own to an IOAS, like that of a driver without DMA (uapi §2.12): it pins pages, which are
// told to it, and reads and writes bytes.
#pragma once
#include "core/base/list.h"
#include "core/iommufd/object.h"
#include "core/iommufd/pages.h"

namespace perdure::iommufd {

class Ioas;

class IoasAccess final : public Object {
 public:
  static constexpr ObjectType kObjectType = ObjectType::Access;
  IoasAccess(Heap& heap, bool pins);
  ~IoasAccess() override;

  // May pin, and lets go of what is about to be unmapped.
  bool pins() const { return pins_; }

  Ref<Ioas> ioas;      // guarded by the context's lock
  ListNode ioas_node;  // the IOAS's accesses; guarded by the IOAS's lock

 private:
  friend class Ioas;
  struct Pin {
    Ref<Pages> pages;
    u64 first = 0;
    u64 length = 0;
  };
  struct Item {
    u32 number = 0;
    u64 first = 0;
    u64 last = 0;
    Vec<Pin> pins;
  };
  // Guarded by the IOAS's lock, like the items. Pages outlive this: their areas do.
  static void release(Vec<Pin>& pins);
  void drop_overlapping(u64 first, u64 last);
  bool overlaps(u64 first, u64 last) const;

  const bool pins_;
  Vec<Item> items_;
  u32 next_number_ = 0;
};

}  // namespace perdure::iommufd
