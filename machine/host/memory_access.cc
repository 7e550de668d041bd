#include "machine/host/memory_access.h"

#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

namespace perdure::host {

namespace {
Result<void> transfer(pid_t process, void* local, u64 remote, usize bytes, bool write) {
  if (bytes == 0) return {};
  iovec here = {local, bytes};
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address that a program passed
  iovec there = {reinterpret_cast<void*>(remote), bytes};
  const ssize_t n =
      write ? process_vm_writev(process, &here, 1, &there, 1, 0) : process_vm_readv(process, &here, 1, &there, 1, 0);
  if (n == static_cast<ssize_t>(bytes)) return {};
  if (n < 0 && errno == EPERM) return fail(Errno::Eperm);
  if (n < 0 && errno == ESRCH) return fail(Errno::Enoent);
  return fail(Errno::Efault);
}
}  // namespace

Result<void> read_memory(std::span<std::byte> to, u64 from) {
  return transfer(getpid(), to.data(), from, to.size(), false);
}

Result<void> write_memory(u64 to, std::span<const std::byte> from) {
  return transfer(getpid(), const_cast<std::byte*>(from.data()), to, from.size(), true);
}

Result<void> read_memory_of(pid_t process, std::span<std::byte> to, u64 from) {
  return transfer(process, to.data(), from, to.size(), false);
}

Result<void> write_memory_of(pid_t process, u64 to, std::span<const std::byte> from) {
  return transfer(process, const_cast<std::byte*>(from.data()), to, from.size(), true);
}

}  // namespace perdure::host
