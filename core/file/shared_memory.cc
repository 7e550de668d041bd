#include "core/file/shared_memory.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/file/host_files.h"
#include "core/file/task.h"

namespace perdure {

SharedMemory::SharedMemory(Heap& heap, Ref<HostMemory> host) : heap_(heap), host_(std::move(host)), banks_(heap) {}

// End of what may have an address.
u64 SharedMemory::limit_locked() const {
  const u64 bytes = host_->size();
  return align_up(preserved_ ? std::min(bytes, frozen_size_) : bytes, kPageSize);
}

Result<FileExtent> SharedMemory::extent_at(u64 offset, u64 length) {
  MutexGuard guard(lock_);
  const u64 limit = limit_locked();
  if (offset >= limit || length > limit - offset) return fail(Errno::Einval);
  usize i = 0;
  while (i < banks_.size() && banks_[i].offset + banks_[i].length <= offset) ++i;
  if (i == banks_.size() || banks_[i].offset > offset) {
    // A hole between banks, or behind the last one: all of it becomes one bank.
    const u64 from = i == 0 ? 0 : banks_[i - 1].offset + banks_[i - 1].length;
    const u64 to = i == banks_.size() ? limit : banks_[i].offset;
    TRY(banks_.reserve(banks_.size() + 1));
    const Bank bank = TRY(heap_.machine().bank_attach(*host_, from, to - from));
    TRY(banks_.insert_at(i, bank));
  }
  const Bank& bank = banks_[i];
  const u64 into = offset - bank.offset;
  return FileExtent{offset, bank.base + into, std::min(length, bank.length - into)};
}

Result<void> SharedMemory::extents(u64 offset, u64 length, FunctionRef<Result<void>(const FileExtent&)> visit) {
  if (range_overflows(offset, length)) return fail(Errno::Einval);
  // Checked whole first, so that nothing is visited of a range that ends outside.
  {
    MutexGuard guard(lock_);
    const u64 limit = limit_locked();
    if (offset > limit || length > limit - offset) return fail(Errno::Einval);
  }
  for (u64 done = 0; done < length;) {
    const FileExtent extent = TRY(extent_at(offset + done, length - done));
    TRY(visit(extent));
    done += extent.length;
  }
  return {};
}

Result<void> SharedMemory::adopt_bank(const Bank& bank) {
  MutexGuard guard(lock_);
  usize i = 0;
  for (; i < banks_.size() && banks_[i].offset <= bank.offset; ++i) {
    const Bank& have = banks_[i];
    if (have.offset == bank.offset && have.base == bank.base && have.length == bank.length) return {};
  }
  if (i > 0 && banks_[i - 1].offset + banks_[i - 1].length > bank.offset) return fail(Errno::Eexist);
  if (i < banks_.size() && bank.offset + bank.length > banks_[i].offset) return fail(Errno::Eexist);
  return banks_.insert_at(i, bank);
}

Result<void> SharedMemory::each_bank(FunctionRef<Result<void>(const Bank&)> visit) const {
  for (usize i = 0;; ++i) {
    Bank bank;
    {
      MutexGuard guard(lock_);
      if (i >= banks_.size()) return {};
      bank = banks_[i];
    }
    TRY(visit(bank));
  }
}

void SharedMemory::pin() {
  MutexGuard guard(lock_);
  ++pins_;
}

void SharedMemory::unpin() {
  MutexGuard guard(lock_);
  PERDURE_ASSERT(pins_ > 0);
  --pins_;
}

u64 SharedMemory::set_preserved(bool preserved) {
  MutexGuard guard(lock_);
  preserved_ = preserved;
  frozen_size_ = host_->size();
  return frozen_size_;
}

bool SharedMemory::preserved() const {
  MutexGuard guard(lock_);
  return preserved_;
}

Result<void> SharedMemory::resize(u64 bytes) {
  MutexGuard guard(lock_);
  // Linux allows the size it has.
  if (preserved_ && bytes != host_->size()) return fail(Errno::Eperm);
  return host_->resize(bytes);
}

Result<void> SharedMemory::move_bytes(u64 pos, usize bytes, FunctionRef<Result<void>(std::span<std::byte>)> piece) {
  return extents(pos, bytes, [&](const FileExtent& extent) -> Result<void> {
    return piece({heap_.machine().virt(extent.base), extent.length});
  });
}

Result<usize> SharedMemory::move_remote(Task& task, UserAddr at, usize bytes, u64 pos, bool write) {
  std::byte chunk[512];
  for (usize done = 0; done < bytes;) {
    const std::span part(chunk, std::min(bytes - done, sizeof(chunk)));
    if (write) {
      TRY(task.copy_in(part, at + done));
      TRY(host_->write(pos + done, part));
    } else {
      TRY(host_->read(pos + done, part));
      TRY(task.copy_out(at + done, part));
    }
    done += part.size();
  }
  return bytes;
}

Result<usize> SharedMemory::read(Task& task, UserAddr to, usize bytes, u64 pos) {
  const u64 end = size();
  if (pos >= end) return usize{0};
  bytes = std::min<u64>(bytes, end - pos);
  if (remote()) return move_remote(task, to, bytes, pos, false);
  const auto out = [&](std::span<std::byte> part) -> Result<void> {
    TRY(task.copy_out(to, part));
    to += part.size();
    return {};
  };
  TRY(move_bytes(pos, bytes, out));
  return bytes;
}

Result<usize> SharedMemory::write(Task& task, UserAddr from, usize bytes, u64 pos) {
  if (range_overflows(pos, bytes)) return fail(Errno::Efbig);
  if (bytes == 0) return usize{0};
  const u32 sealed = seals();
  if ((sealed & (seal::kWrite | seal::kFutureWrite)) != 0) return fail(Errno::Eperm);
  if (pos + bytes > size()) TRY(resize(pos + bytes));
  if (remote()) return move_remote(task, from, bytes, pos, true);
  const auto in = [&](std::span<std::byte> part) -> Result<void> {
    TRY(task.copy_in(part, from));
    from += part.size();
    return {};
  };
  TRY(move_bytes(pos, bytes, in));
  return bytes;
}

Result<void> SharedMemory::load(u64 pos, std::span<std::byte> to) {
  if (remote()) return host_->read(pos, to);
  return move_bytes(pos, to.size(), [&](std::span<std::byte> part) -> Result<void> {
    std::copy(part.begin(), part.end(), to.begin());
    to = to.subspan(part.size());
    return {};
  });
}

Result<void> SharedMemory::store(u64 pos, std::span<const std::byte> from) {
  if (remote()) return host_->write(pos, from);
  return move_bytes(pos, from.size(), [&](std::span<std::byte> part) -> Result<void> {
    std::copy_n(from.begin(), part.size(), part.begin());
    from = from.subspan(part.size());
    return {};
  });
}

Result<MapTarget> SharedMemory::mmap(Task&, u64 offset, u64 length, Access access) {
  if (length == 0 || offset % kPageSize != 0) return fail(Errno::Einval);
  if (remote()) return fail(Errno::Enodev);
  if (includes(access, Access::Write) && (seals() & (seal::kWrite | seal::kFutureWrite)) != 0)
    return fail(Errno::Eperm);
  MapTarget target;
  TRY(extents(offset, length, [&](const FileExtent& extent) -> Result<void> {
    if (target.length == 0) target.base = extent.base;
    if (target.base + target.length != extent.base) return fail(Errno::Enodev);
    target.length += extent.length;
    return {};
  }));
  return target;
}

void SharedMemory::last_close() {
  if (registry_ != nullptr) registry_->forget(*this);
  MutexGuard guard(lock_);
  // Whoever pins holds a reference, too. If someone gave that up without unpinning, a device may still reach the
  // memory: its addresses are then never used for anything else.
  if (pins_ != 0 || preserved_) {
    perdure::log(heap_.machine(), LogLevel::Warn,
                 Line() << "memfd " << host_->id() << " closed while pinned: its banks stay attached for good");
    return;
  }
  for (const Bank& bank : banks_) heap_.machine().bank_detach(bank);
  banks_.clear();
}

void EventFd::last_close() {
  if (registry_ != nullptr) registry_->forget(*this);
}

}  // namespace perdure
