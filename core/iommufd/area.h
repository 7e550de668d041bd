// What an IOAS translates: areas of I/O virtual addresses, each onto stretches of shared memory.
#pragma once
#include "core/base/list.h"
#include "core/file/shared_memory.h"

namespace perdure::iommufd {

// Bytes [offset, offset + length) of one shared memory.
struct Piece {
  Ref<SharedMemory> memory;
  u64 offset = 0;
  u64 length = 0;
};

// What a mapping refers to, taken down when it is made.
struct Source {
  enum class Kind : u8 { File, User };
  explicit Source(Heap& heap) : pieces(heap) {}
  Kind kind = Kind::File;
  u64 start = 0;  // file offset, or the program's address
  // In order, `length` bytes together; empty: nothing that could be pinned, for the reason `unpinnable`.
  Vec<Piece> pieces;
  Errno unpinnable = Errno::Efault;
  u32 seals = 0;  // of the file at that time (R59)
  // Whether devices may ever write to it: what is mapped for reading only cannot be copied for writing.
  bool writable = false;

  // Bytes [from, from + length) of it. Enomem.
  Result<Source> slice(Heap& heap, u64 from, u64 length) const;
};

struct Area {
  Area(Iova at, u64 bytes, Access allowed, Source from)
      : iova(at), length(bytes), access(allowed), source(std::move(from)) {}
  Iova last() const { return iova + (length - 1); }

  Iova iova;
  u64 length;
  Access access;
  Source source;
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
