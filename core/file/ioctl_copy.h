// Linux's rule for ioctls whose structure may grow (uapi §2.1, kho-luo §3): its first u32 is the caller's size. Shared
// by iommufd and the live update device, whose order of checks differs only in what comes before these steps.
#pragma once
#include <algorithm>

#include "core/file/task.h"

namespace perdure {

// Efault. What the caller says its structure measures; any number.
inline Result<u32> ioctl_size(Task& task, UserAddr arg) {
  return task.copy_in<u32>(arg);
}

// Fills `to` (the kernel's structure) from the caller's structure of `caller_size` bytes: what the caller does not have
// reads as 0. Einval: shorter than `min_size`; E2big: a byte beyond the kernel's structure is not 0; Efault. The
// surplus is read whole, in ascending order, and judged before the structure itself is read.
inline Result<void> ioctl_copy_in_bytes(Task& task, UserAddr arg, u32 caller_size, u32 min_size,
                                        std::span<std::byte> to) {
  if (caller_size < min_size) return fail(Errno::Einval);
  for (u64 at = to.size(); at < caller_size;) {
    std::byte chunk[512];
    // Chunks end at their own multiples, so a byte that is not 0 is found before a page that cannot be read.
    const u64 into = (arg.value + at) % sizeof(chunk);
    const u64 bytes = std::min<u64>(sizeof(chunk) - into, caller_size - at);
    const std::span<std::byte> part(chunk, bytes);
    TRY(task.copy_in(part, arg + at));
    for (std::byte b : part) {
      if (b != std::byte{0}) return fail(Errno::E2big);
    }
    at += bytes;
  }
  const usize head = std::min<usize>(caller_size, to.size());
  TRY(task.copy_in(to.first(head), arg));
  std::fill(to.begin() + static_cast<std::ptrdiff_t>(head), to.end(), std::byte{0});
  return {};
}

// The answer: as much of it as the caller has room for. Efault.
inline Result<void> ioctl_copy_out_bytes(Task& task, UserAddr arg, u32 caller_size, std::span<const std::byte> from) {
  return task.copy_out(arg, from.first(std::min<usize>(caller_size, from.size())));
}

// The same for a structure type. `min_size`: up to and including its last mandatory member.
template <class T>
Result<T> ioctl_copy_in(Task& task, UserAddr arg, u32 caller_size, u32 min_size = sizeof(T)) {
  T value{};
  TRY(ioctl_copy_in_bytes(task, arg, caller_size, min_size, std::as_writable_bytes(std::span(&value, 1))));
  return value;
}
template <class T>
Result<void> ioctl_copy_out(Task& task, UserAddr arg, u32 caller_size, const T& value) {
  return ioctl_copy_out_bytes(task, arg, caller_size, std::as_bytes(std::span(&value, 1)));
}

}  // namespace perdure
