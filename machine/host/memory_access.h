// Access to this process's own memory at addresses that may be bad: Efault instead of a signal.
#pragma once
#include <span>

#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::host {

Result<void> read_memory(std::span<std::byte> to, u64 from);
Result<void> write_memory(u64 to, std::span<const std::byte> from);

}  // namespace perdure::host
