// Memory that programs share by descriptor (memfd): a file whose bytes have physical addresses, so that
// devices can reach them. Backed by banks of host memory.
#pragma once
#include "core/base/function_ref.h"
#include "core/base/lock.h"
#include "core/file/file.h"
#include "core/mem/heap.h"
#include "core/mem/vec.h"

namespace perdure {

class HostFiles;

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

// One for each host memory: made by HostFiles only, so that identity of the object is identity of the memory. Its last
// reference may go under any lock that ranks below Files.
class SharedMemory final : public File {
 public:
  static constexpr FileType kType{"memfd"};
  SharedMemory(Heap& heap, Ref<HostMemory> host);
  const FileType& type() const override { return kType; }

  u64 id() const { return host_->id(); }
  u64 size() const { return host_->size(); }
  u32 seals() const { return host_->seals(); }
  HostMemory& host() const { return *host_; }
  // Nothing of it is in the direct map: see HostMemory. Never preserved, never mapped.
  bool remote() const { return host_->remote(); }

  // Gives [offset, offset + length) physical addresses (attaching a bank when growth needs one) and visits them in
  // file order, with no lock held. Einval beyond the current size, rounded up to pages, or beyond the size at which the
  // file was preserved; else the machine's errors, or the visitor's.
  Result<void> extents(u64 offset, u64 length, FunctionRef<Result<void>(const FileExtent&)> visit);
  // Attaches what a former kernel left: the bank is in the machine's memory map already. Again: nothing to do. Eexist
  // when it covers the same part of the file as another one.
  Result<void> adopt_bank(const Bank& bank);
  // Every bank, in file order, with no lock held.
  Result<void> each_bank(FunctionRef<Result<void>(const Bank&)> visit) const;

  // While a mapping pins the memory, or a session preserves it, its banks stay attached.
  void pin();
  void unpin();
  // While preserved the size is frozen (kho-luo §4.3): nothing beyond the size as of now gets an address, and our own
  // write() and resize() refuse with Eperm. The memory itself is the host's, whose ftruncate and seals nobody
  // here can refuse; the handler looks at them again when it freezes.
  // Returns the size in bytes that is frozen.
  u64 set_preserved(bool preserved);
  bool preserved() const;

  // Reads and writes through the direct map, for programs whose front end does not do that natively. A read past the
  // end is short; a write past the end grows the file, Eperm when a seal or preservation forbids it.
  Result<usize> read(Task& task, UserAddr to, usize bytes, u64 pos) override;
  Result<usize> write(Task& task, UserAddr from, usize bytes, u64 pos) override;
  // The same with the kernel's own bytes, of a range that is in the file (Einval). Efault: of a process's memory that
  // is gone.
  Result<void> load(u64 pos, std::span<std::byte> to);
  Result<void> store(u64 pos, std::span<const std::byte> from);
  // Enodev where the range is not contiguous in physical memory.
  Result<MapTarget> mmap(Task& task, u64 offset, u64 length, Access access) override;
  // Eperm: sealed or preserved.
  Result<void> resize(u64 bytes);

 protected:
  void last_close() override;

 private:
  friend class HostFiles;
  // The extent that starts at `offset`, at most `length` long.
  Result<FileExtent> extent_at(u64 offset, u64 length) EXCLUDES(lock_);
  Result<usize> move_remote(Task& task, UserAddr at, usize bytes, u64 pos, bool write);
  Result<void> move_bytes(u64 pos, usize bytes, FunctionRef<Result<void>(std::span<std::byte>)> piece);
  u64 limit_locked() const REQUIRES(lock_);

  Heap& heap_;
  mutable Mutex lock_{LockRank::Files};
  Ref<HostMemory> host_;
  Vec<Bank> banks_ GUARDED_BY(lock_);  // by offset; never overlap
  u32 pins_ GUARDED_BY(lock_) = 0;
  bool preserved_ GUARDED_BY(lock_) = false;
  u64 frozen_size_ GUARDED_BY(lock_) = 0;  // while preserved
  HostFiles* registry_ = nullptr;
  SharedMemory* next_ = nullptr;  // in the registry's bucket
};

class EventFd final : public File {
 public:
  static constexpr FileType kType{"anon_inode:[eventfd]"};
  explicit EventFd(Ref<HostEvent> host) : host_(std::move(host)) {}
  const FileType& type() const override { return kType; }
  u64 id() const { return host_->id(); }
  HostEvent& host() const { return *host_; }

 protected:
  void last_close() override;

 private:
  friend class HostFiles;
  Ref<HostEvent> host_;
  HostFiles* registry_ = nullptr;
  EventFd* next_ = nullptr;
};

}  // namespace perdure
