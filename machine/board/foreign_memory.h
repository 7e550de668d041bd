// Memory that has an address on the board's bus and cannot be mapped into this process.
#pragma once
#include <span>

#include "core/base/types.h"

namespace perdure::board {

class ForeignMemory {
 public:
  virtual ~ForeignMemory() = default;
  // From any thread. All of the bytes, or false: some of it is not there, or not what was given an address, any more;
  // then a leading part may have been moved.
  virtual bool read(u64 offset, std::span<std::byte> to) = 0;
  virtual bool write(u64 offset, std::span<const std::byte> from) = 0;
};

}  // namespace perdure::board
