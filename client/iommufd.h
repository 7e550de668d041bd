// /dev/iommu: address spaces and page tables of devices.
#pragma once
#include "client/fd.h"

namespace perdure::client {

class Iommufd {
 public:
  Iommufd() = default;
  explicit Iommufd(Fd fd) : fd_(std::move(fd)) {}
  static Result<Iommufd> open(Syscalls& sys);

  Result<u32> ioas_alloc() const;
  // [start, start + length) of the memory at `iova`.
  Result<void> map_file(u32 ioas, s32 memfd, u64 start, u64 length, u64 iova, bool writable = true) const;
  // The same for memory at an address of this program.
  Result<void> map(u32 ioas, const void* at, u64 length, u64 iova, bool writable = true) const;
  Result<u64> unmap(u32 ioas, u64 iova, u64 length) const;
  Result<u32> hwpt_alloc(u32 device, u32 ioas) const;
  // One that can track what devices write; Eopnotsupp where the device's unit cannot.
  Result<u32> hwpt_alloc_tracking(u32 device, u32 ioas) const;
  // Turned on, nothing counts as written any more.
  Result<void> track_dirty(u32 hwpt, bool on) const;
  // Sets bit i where something in [iova + i * page, + page) was written, as far as the range is mapped without a hole,
  // and clears none. With `clear` it does not count as written any more.
  Result<void> dirty_bitmap(u32 hwpt, u64 iova, u64 length, u64 page, u64* bits, bool clear = true) const;
  Result<void> destroy(u32 id) const;

  // The page table will be preserved with this context, under `token`.
  Result<void> mark_preserve(u32 hwpt, u64 token) const;
  // In a retrieved context: the page table that was preserved under `token`, to be kept as it is or replaced.
  Result<u32> hwpt_restore(u64 token) const;
  // The same with its address space, which goes on as it was.
  struct Adopted {
    u32 hwpt = 0;
    u32 ioas = 0;
  };
  Result<Adopted> hwpt_adopt(u64 token) const;

  s32 number() const { return fd_.number(); }
  Fd& fd() { return fd_; }

 private:
  Fd fd_;
};

}  // namespace perdure::client
