// Memory that programs share by descriptor (memfd): a file whose bytes have physical addresses, so that
// devices can reach them. Backed by banks of host memory.
#pragma once
#include "core/base/function_ref.h"
#include "core/base/lock.h"
#include "core/file/file.h"
#include "core/mem/heap.h"
#include "core/mem/vec.h"

namespace perdure {

// Bytes [offset, offset + length) of the file lie at physical [base, base + length).
struct FileExtent {
  u64 offset = 0;
  Phys base;
  u64 length = 0;
};

namespace seal {
inline constexpr u32 kSeal = 1, kShrink = 2, kGrow = 4, kWrite = 8, kFutureWrite = 0x10, kExec = 0x20;
inline constexpr u32 kKnown = 0x3f;
// What a mapping must carry when it is made, for the mapped IOAS to be preservable (R59).
inline constexpr u32 kPreservable = kSeal | kShrink | kGrow;
}  // namespace seal

class SharedMemory final : public File {
 public:
  static constexpr FileType kType{"memfd"};
  SharedMemory(Heap& heap, Ref<HostMemory> host);
  const FileType& type() const override { return kType; }

  u64 id() const { return host_->id(); }
  u64 size() const { return host_->size(); }
  u32 seals() const { return host_->seals(); }
  HostMemory& host() const { return *host_; }

  // Gives [offset, offset + length) physical addresses (attaching a bank when growth needs one) and visits them in
  // file order. Einval beyond the current size, rounded up to pages; Enomem.
  Result<void> extents(u64 offset, u64 length, FunctionRef<Result<void>(const FileExtent&)> visit);
  // Attaches what a former kernel left: the bank is in the machine's memory map already.
  Result<void> adopt_bank(const Bank& bank);
  // Every bank, for preserving.
  Result<void> each_bank(FunctionRef<Result<void>(const Bank&)> visit) const;

  // While a mapping pins the memory, or a session preserves it, its banks stay attached.
  void pin();
  void unpin();
  // While preserved the size is frozen (kho-luo §4.3).
  void set_preserved(bool preserved);
  bool preserved() const;

 protected:
  void last_close() override;

 private:
  mutable Mutex lock_{LockRank::Files};
  Ref<HostMemory> host_;
  Vec<Bank> banks_ GUARDED_BY(lock_);
  u32 pins_ GUARDED_BY(lock_) = 0;
  bool preserved_ GUARDED_BY(lock_) = false;
};

class EventFd final : public File {
 public:
  static constexpr FileType kType{"anon_inode:[eventfd]"};
  explicit EventFd(Ref<HostEvent> host) : host_(std::move(host)) {}
  const FileType& type() const override { return kType; }
  HostEvent& host() const { return *host_; }

 private:
  Ref<HostEvent> host_;
};

}  // namespace perdure
