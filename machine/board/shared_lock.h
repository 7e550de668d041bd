// Many readers or one writer; beside DeviceMutex the board's other kind of lock.
//
// The board's lock order, outermost first: the sink's SharedLock, a device's mutex (never two), then the leaves: units'
// own, PhysicalMemory, the trace, the outbox.
#pragma once
#include <shared_mutex>

#include "core/base/thread_safety.h"
#include "machine/board/iommu/device_mutex.h"

namespace perdure::board {

class CAPABILITY("mutex") SharedLock {
 public:
  SharedLock() = default;
  SharedLock(const SharedLock&) = delete;
  SharedLock& operator=(const SharedLock&) = delete;
  void lock() ACQUIRE() { mutex_.lock(); }
  void unlock() RELEASE() { mutex_.unlock(); }
  void lock_shared() PERDURE_TSA(acquire_shared_capability()) { mutex_.lock_shared(); }
  void unlock_shared() PERDURE_TSA(release_shared_capability()) { mutex_.unlock_shared(); }

 private:
  std::shared_mutex mutex_;
};

class SCOPED_CAPABILITY ReadGuard {
 public:
  explicit ReadGuard(SharedLock& lock) PERDURE_TSA(acquire_shared_capability(lock)) : lock_(lock) {
    lock_.lock_shared();
  }
  ~ReadGuard() PERDURE_TSA(release_generic_capability()) { lock_.unlock_shared(); }
  ReadGuard(const ReadGuard&) = delete;
  ReadGuard& operator=(const ReadGuard&) = delete;

 private:
  SharedLock& lock_;
};

class SCOPED_CAPABILITY WriteGuard {
 public:
  explicit WriteGuard(SharedLock& lock) ACQUIRE(lock) : lock_(lock) { lock_.lock(); }
  ~WriteGuard() RELEASE() { lock_.unlock(); }
  WriteGuard(const WriteGuard&) = delete;
  WriteGuard& operator=(const WriteGuard&) = delete;

 private:
  SharedLock& lock_;
};

}  // namespace perdure::board
