#include "machine/host/remote_memory.h"

namespace perdure::host {

Result<void> RemoteMemory::read(u64 offset, std::span<std::byte> to) {
  if (!holds(offset, to.size()) || !process_->read(address_ + offset, to)) return fail(Errno::Efault);
  return {};
}

Result<void> RemoteMemory::write(u64 offset, std::span<const std::byte> from) {
  if (!holds(offset, from.size()) || !process_->write(address_ + offset, from)) return fail(Errno::Efault);
  return {};
}

}  // namespace perdure::host
