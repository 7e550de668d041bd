// What an IOAS translates: areas of I/O virtual addresses, each onto part of what was mapped.
#pragma once
#include "core/base/list.h"
#include "core/iommufd/pages.h"

namespace perdure::iommufd {

// Taken up and pinned, but not for devices: VFIO's container may be asked for that.
inline constexpr Access kNoAccess = static_cast<Access>(0);

struct Area {
  Area(Iova at, u64 bytes, Access allowed, Ref<Pages> of, u64 from)
      : iova(at), length(bytes), access(allowed), pages(std::move(of)), offset(from) {}
  Iova last() const { return iova + (length - 1); }
  // How much of it page tables hold.
  u64 translated() const { return access == kNoAccess ? 0 : length; }
  // Of its first byte in the file, or in the process.
  u64 source() const { return pages->start() + offset; }

  Iova iova;
  u64 length;
  Access access;
  Ref<Pages> pages;
  u64 offset;  // in the pages
  bool pinned = false;
  // Hardware may still reach it (an invalidation never completed): its memory stays pinned for ever.
  bool lost = false;

  ListNode removed;  // on its way out

 private:
  friend class AreaMap;
  Area* parent_ = nullptr;
  Area* left_ = nullptr;
  Area* right_ = nullptr;
  unsigned height_ = 1;
};

// A contiguous translation of part of an area.
struct Run {
  Iova iova;
  Phys phys;
  u64 length = 0;
};

// Areas that do not overlap, ordered by address: an AVL tree through the areas themselves, so that inserting cannot
// fail. Owns nothing.
class AreaMap {
 public:
  AreaMap() = default;
  AreaMap(const AreaMap&) = delete;
  AreaMap& operator=(const AreaMap&) = delete;

  // Must not overlap an area of the map.
  void insert(Area& area);
  void remove(Area& area);
  // The lowest area that ends at or after `from`, or null.
  Area* lower_bound(Iova from) const;
  // The lowest area that overlaps [first, last], or null.
  Area* find(Iova first, Iova last) const;
  Area* first() const { return lower_bound(Iova(0)); }
  static Area* next(const Area& area);
  bool empty() const { return root_ == nullptr; }
  unsigned depth() const { return height(root_); }

 private:
  static unsigned height(const Area* area) { return area ? area->height_ : 0; }
  void replace_child(Area* parent, Area* old, Area* fresh);
  Area* rotate(Area& at, bool to_left);
  void rebalance(Area* from);
  Area* root_ = nullptr;
};

}  // namespace perdure::iommufd
