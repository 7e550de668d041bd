// Memory as mapped once: part of a file, or what a process has at an address. Areas that were copied from one another
// share it, so that each page is pinned, and paid for, once (uapi §2.4).
#pragma once
#include "core/file/shared_memory.h"
#include "core/iommufd/account.h"
#include "core/mem/vec.h"

namespace perdure::iommufd {

// A page that programs may have mapped anywhere: of a file, or, where no file stands behind it, of a process.
struct PageIdentity {
  u64 memory = 0;                    // SharedMemory::id()
  const Process* process = nullptr;  // of one: `at` is the address there
  u64 at = 0;
  bool operator==(const PageIdentity&) const = default;
  // At `offset` of what resolve() found at `address` of the process.
  static PageIdentity of(const SharedMemory& memory, u64 offset, const Process* process, u64 address) {
    return memory.remote() ? PageIdentity{0, process, address} : PageIdentity{memory.id(), nullptr, offset};
  }
};

class Pages final : public RefCounted {
 public:
  enum class Kind : u8 { File, User, Registers };
  // Of a file, from `start` on. `memory` null: of a file that cannot be pinned (Einval when it has to be).
  // `seals`: those it had before it was mapped (R59).
  Pages(Heap& heap, Ref<SharedMemory> memory, u32 seals, u64 start, u64 length, bool writable, Payer payer);
  // What the payer's process has at `start` at the time of pinning.
  Pages(Heap& heap, u64 start, u64 length, bool writable, Payer payer);
  // Registers of a device, which nobody has to keep or pay for.
  Pages(Heap& heap, Phys registers, u64 length, bool writable);
  ~Pages() override;

  Kind kind() const { return kind_; }
  u64 start() const { return start_; }
  u64 length() const { return length_; }
  bool writable() const { return writable_; }
  u32 seals() const { return seals_; }
  SharedMemory* memory() const { return memory_.get(); }  // of a file

  // Whole pages, by their offset from the start; counted. What is pinned already stays where it is, whatever the
  // process has there now. Efault: nothing, or nothing writable, is there, or the process has ended; Einval: not the
  // whole of it is in the file; Enomem: beyond the limit, too. On failure nothing changed.
  Result<void> pin(Task& via, u64 first, u64 length) EXCLUDES(lock_);
  void unpin(u64 first, u64 length) EXCLUDES(lock_);
  // A range that is pinned may be unpinned in two parts that meet here.
  Result<void> cut(u64 at) EXCLUDES(lock_);
  // The stretches of memory behind a range that is pinned, in order; of a file's range also if it is not.
  struct Piece {
    Ref<SharedMemory> memory;  // null: registers, at the address `offset`
    u64 offset = 0;
    u64 length = 0;
  };
  Result<void> each_piece(u64 first, u64 length, FunctionRef<Result<void>(const Piece&)> visit) const EXCLUDES(lock_);

  // The page that is pinned at this offset. Efault: none is.
  Result<PageIdentity> pinned_at(u64 at) const EXCLUDES(lock_);
  // How often the page is pinned: once for each place that it was mapped from.
  u32 pins_of(const PageIdentity& page) const EXCLUDES(lock_);
  // Bytes from `first` on, as devices would reach them: what is pinned, or else what the file, or the process, has
  // there now; nothing is pinned for it. Efault: nothing, nothing writable, or registers; Einval: not all of it is in
  // the file.
  Result<void> read(Task& via, u64 first, std::span<std::byte> to) const EXCLUDES(lock_);
  Result<void> write(Task& via, u64 first, std::span<const std::byte> from) EXCLUDES(lock_);

  // `payer` is charged for what is pinned, and becomes whoever was before. Enomem.
  Result<void> change_payer(Task& via, Payer& payer) EXCLUDES(lock_);
  // The same back, which cannot fail.
  void restore_payer(Payer payer) EXCLUDES(lock_);
  Accounting mode() const EXCLUDES(lock_);
  u64 pinned_pages() const EXCLUDES(lock_);

 private:
  // Pinned, and in one stretch of one memory.
  struct Segment {
    u64 first = 0;
    u64 length = 0;
    u32 count = 0;
    Ref<SharedMemory> memory;
    u64 offset = 0;
    u64 end() const { return first + length; }
  };
  usize index_locked(u64 at) const REQUIRES(lock_);  // the first that ends behind `at`
  Result<void> cut_locked(u64 at) REQUIRES(lock_);
  Result<void> resolve_locked(Task& via, u64 first, u64 length, Vec<Segment>& fresh) const REQUIRES(lock_);
  // Of [first, end): visits what no segment covers.
  Result<void> each_gap_locked(u64 first, u64 end, FunctionRef<Result<void>(u64 first, u64 length)> visit) const
      REQUIRES(lock_);

  // Visits [first, first + length) in pieces: of this memory, or, if it is null, at this address of the process.
  Result<void> each_source_locked(u64 first, u64 length,
                                  FunctionRef<Result<void>(SharedMemory* memory, u64 at, u64 length)> visit) const
      REQUIRES(lock_);

  Heap& heap_;
  const Kind kind_;
  const u64 start_;
  const u64 length_;
  const bool writable_;
  const u32 seals_;
  const Ref<SharedMemory> memory_;
  mutable Mutex lock_{LockRank::IoasPages};
  Payer payer_ GUARDED_BY(lock_);
  Vec<Segment> segments_ GUARDED_BY(lock_);  // by offset; do not overlap
  u64 pinned_ GUARDED_BY(lock_) = 0;         // pages, which the payer is charged for
};

}  // namespace perdure::iommufd
