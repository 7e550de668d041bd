// A lock of the hardware's side. The kernel's locks are ranked among themselves (core/base/lock.h); hardware runs below
// all of them and is no part of that order.
#pragma once
#include <mutex>

#include "core/base/thread_safety.h"

namespace perdure::board {

class CAPABILITY("mutex") DeviceMutex {
 public:
  void lock() ACQUIRE() { mutex_.lock(); }
  void unlock() RELEASE() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class SCOPED_CAPABILITY DeviceGuard {
 public:
  explicit DeviceGuard(DeviceMutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~DeviceGuard() RELEASE() { mutex_.unlock(); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  DeviceMutex& mutex_;
};

}  // namespace perdure::board
