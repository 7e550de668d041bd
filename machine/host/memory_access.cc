#include "machine/host/memory_access.h"

#include <sys/uio.h>
#include <unistd.h>

namespace perdure::host {

namespace {
Result<void> transfer(void* local, u64 remote, usize bytes, bool write) {
  if (bytes == 0) return {};
  iovec here = {local, bytes};
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address that a program passed
  iovec there = {reinterpret_cast<void*>(remote), bytes};
  const ssize_t n =
      write ? process_vm_writev(getpid(), &here, 1, &there, 1, 0) : process_vm_readv(getpid(), &here, 1, &there, 1, 0);
  if (n != static_cast<ssize_t>(bytes)) return fail(Errno::Efault);
  return {};
}
}  // namespace

Result<void> read_memory(std::span<std::byte> to, u64 from) {
  return transfer(to.data(), from, to.size(), false);
}

Result<void> write_memory(u64 to, std::span<const std::byte> from) {
  return transfer(const_cast<std::byte*>(from.data()), to, from.size(), true);
}

}  // namespace perdure::host
