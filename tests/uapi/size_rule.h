// The rule of structures that begin with their size (uapi.md 2.1, 4): too small EINVAL, unknown tail E2BIG unless it is
// zero, unreadable EFAULT, in this order.
#pragma once
#include "tests/uapi/user_memory.h"

namespace perdure::uapi_test {

// `good`: a structure that the call would execute; it is executed with a longer and with a zero tail only by
// check_size_rule_accepts(). `min`: the least size that is taken.
template <class T>
void check_size_rule(Case& t, const Fd& fd, u32 cmd, const T& good, u32 min = sizeof(T)) {
  const UserMemory memory(2);
  const auto with_size = [&](u32 size) {
    T changed = good;
    changed.size = size;
    std::memset(memory.at(), 0, memory.size());
    return memory.put(changed);
  };
  // The size itself.
  CHECK_ERRNO(t.ioctl_at(fd, cmd, memory.beyond()), Errno::Efault);
  CHECK_ERRNO(t.ioctl_at(fd, cmd, memory.beyond() - 2), Errno::Efault);
  // Too small, before anything else is read: here nothing else can be.
  for (const u32 size : {0U, 4U, min - 1}) {
    CHECK_ERRNO(t.ioctl_at(fd, cmd, with_size(size)), Errno::Einval);
    CHECK_ERRNO(t.ioctl_at(fd, cmd, memory.put(size, memory.size() - sizeof size)), Errno::Einval);
  }
  // As large as it says, but not readable to the end.
  const u32 size = sizeof(T);
  CHECK_ERRNO(t.ioctl_at(fd, cmd, memory.put(size, memory.size() - sizeof size)), Errno::Efault);
  // A tail that is not zero, in its first and in its last byte.
  for (const u32 more : {1U, 64U}) {
    for (const usize at : {usize{sizeof(T)}, usize{sizeof(T) + more - 1}}) {
      T* const arg = with_size(static_cast<u32>(sizeof(T) + more));
      *memory.at(at) = std::byte{1};
      CHECK_ERRNO(t.ioctl_at(fd, cmd, arg), Errno::E2big);
    }
  }
  // A tail of zeros that goes on where nothing can be read.
  CHECK_ERRNO(t.ioctl_at(fd, cmd, with_size(~u32{0})), Errno::Efault);
}

// A structure with a tail of zeros is taken, and the tail and the size stay as they are.
template <class T>
Result<u64> call_with_zero_tail(Case& t, const Fd& fd, u32 cmd, T& arg) {
  constexpr u32 kTail = 24;
  const UserMemory memory;
  T longer = arg;
  longer.size = sizeof(T) + kTail;
  T* const at = memory.put(longer);
  const auto result = t.ioctl_at(fd, cmd, at);
  if (result) {
    CHECK_EQ(at->size, sizeof(T) + kTail);
    for (u32 i = 0; i < kTail; ++i) CHECK_EQ(std::to_integer<unsigned>(*memory.at(sizeof(T) + i)), 0U);
  }
  arg = *at;
  return result;
}

}  // namespace perdure::uapi_test
