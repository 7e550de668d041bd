// HWPT_GET_DIRTY_BITMAP (uapi §2.7): what devices wrote through a page table, as bits in a program's memory.
#pragma once
#include "core/file/task.h"
#include "core/iommu/iommu.h"

namespace perdure::iommufd {

struct DirtyRequest {
  Iova iova;
  u64 length = 0;     // not 0
  u64 page_size = 0;  // `iova` and the end are multiples of it; any number but 0
  UserAddr bitmap;    // bit i stands for [iova + i * page_size, + page_size); bits are only set, never cleared
  bool clear = false;
};

// Nothing that was written may get lost, whatever fails:
//  * a leaf is unmarked only after all its bits arrived in the bitmap, so that a bad address costs no marks;
//  * whether a leaf counts as written is decided once, also when its bits take several windows;
//  * one that reaches beyond the range keeps its mark, since nobody would hear of the rest of it. (Whoever wants every
//    page by itself turns large pages of the IOAS off.)
class DirtyReader {
 public:
  // How many bits are under way at a time.
  static constexpr u64 kWindowBits = kPageSize * 8;

  DirtyReader(Heap& heap, Task& task, PagingDomain& domain, const DirtyRequest& request);

  // As far as `last`, up to which everything from the first address on is mapped, and stays so during the call. Efault:
  // something was written, and its bit cannot be; Enomem; what PagingDomain::each_dirty() and flush_unmarked() say.
  Result<void> read(Iova last);

 private:
  // A leaf that reaches over the end of a window.
  struct Straddler {
    u64 first = 0;
    u64 last = 0;  // 0: there is none
    bool dirty = false;
  };

  Result<void> read_windows();
  Result<u64> next_dirty(u64 from);
  Result<void> read_window(u64 from);
  Result<void> unmark_window(u64 from, u64 last, const Straddler& begun);
  Result<void> store_window();
  u64 bit_of(u64 iova) const { return (iova - request_.iova.value) / request_.page_size; }
  void set_bits(u64 first, u64 last);
  bool all_set(u64 first, u64 last) const;

  Task& task_;
  PagingDomain& domain_;
  const DirtyRequest request_;
  u64 last_ = 0;
  Vec<u64> window_;     // kWindowBits bits
  u64 window_bit_ = 0;  // the number of its first
  u64 window_last_ = 0;
  Straddler straddler_;
  bool unmarked_ = false;
  u64 unmarked_first_ = 0;
  u64 unmarked_last_ = 0;
};

}  // namespace perdure::iommufd
