// A process, as kernel objects remember it beyond the system call that made them: whose memory a mapping refers to, and
// who is charged for what it pins.
#pragma once
#include <atomic>

#include "core/base/function_ref.h"
#include "core/file/file.h"

namespace perdure {

class SharedMemory;
class Task;

// Supplied by the front end, one object for each process: identity of the object is identity of the process. `via` is
// the system call under way, of this process or of another one: what the front end may ask questions through. The
// callers may hold locks of a context and its address spaces. Nothing here may be left when its kernel is gone.
class Process : public RefCounted {
 public:
  // As Task::resolve(), copy_in() and copy_out(), of this process's memory. Efault also once it has ended.
  virtual Result<void> resolve(Task& via, UserAddr at, u64 length, Access access,
                               FunctionRef<Result<void>(Ref<SharedMemory> memory, u64 offset, u64 length)> piece) = 0;
  virtual Result<void> copy_in(Task& via, std::span<std::byte> to, UserAddr from) = 0;
  virtual Result<void> copy_out(Task& via, UserAddr to, std::span<const std::byte> from) = 0;
  // RLIMIT_MEMLOCK as of now, in bytes; ~0: none. What it last was, once the process has ended.
  virtual u64 memlock_limit(Task& via) = 0;

  // What /proc/PID/status shows, in pages: VmPin, and VmLck as far as it comes from here.
  u64 pinned_pages() const { return pinned_pages_.load(std::memory_order_relaxed); }
  u64 locked_pages() const { return locked_pages_.load(std::memory_order_relaxed); }
  // For the accounts (core/iommufd/account.h).
  std::atomic<u64>& pinned_counter() { return pinned_pages_; }
  std::atomic<u64>& locked_counter() { return locked_pages_; }

 private:
  std::atomic<u64> pinned_pages_{0};
  std::atomic<u64> locked_pages_{0};
};

}  // namespace perdure
