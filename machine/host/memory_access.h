// Access to memory of processes at addresses that may be bad: Efault instead of a signal. As the kernel's own copying,
// it stops at pages that are not there or not writable.
#pragma once
#include <sys/types.h>

#include <span>

#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::host {

// This process's. Efault.
Result<void> read_memory(std::span<std::byte> to, u64 from);
Result<void> write_memory(u64 to, std::span<const std::byte> from);

// Another's. Efault; Eperm where the host does not allow it (Yama, a process that is not dumpable); Enoent: there is no
// such process any more. What of a range that ends in Efault was written is not defined.
Result<void> read_memory_of(pid_t process, std::span<std::byte> to, u64 from);
Result<void> write_memory_of(pid_t process, u64 to, std::span<const std::byte> from);

}  // namespace perdure::host
