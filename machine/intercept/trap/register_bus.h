// Where trapped accesses end: the device behind one of the files that stand for devices in programs.
#pragma once
#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::intercept {

// For one thread at a time.
class RegisterBus {
 public:
  virtual ~RegisterBus() = default;
  // The file with this identity, as stat() tells it, is one of ours.
  virtual bool ours(u64 device, u64 inode) = 0;
  // 1, 2, 4 or 8 bytes at a position of it, aligned. Any error: nothing answers there, now.
  virtual Result<u64> read(u64 device, u64 inode, u64 position, unsigned bytes) = 0;
  virtual Result<void> write(u64 device, u64 inode, u64 position, unsigned bytes, u64 value) = 0;
};

}  // namespace perdure::intercept
