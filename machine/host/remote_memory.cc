#include "machine/host/remote_memory.h"

#include <atomic>

namespace perdure::host {

namespace {
// Each object is its own memory, even where two are of the same pages: what one mapping of them does to its bank must
// not happen to another's.
u64 next_id() {
  static std::atomic<u64> next{RemoteMemory::kFirstId};
  return next.fetch_add(1, std::memory_order_relaxed);
}
}  // namespace

RemoteMemory::RemoteMemory(HostObjects& home, std::shared_ptr<const RemoteProcess> process, u64 address, u64 bytes)
    : Object(home),
      id_(next_id()),
      process_(std::move(process)),
      address_(align_down(address, kPageSize)),
      bytes_(align_up(address + bytes, kPageSize) - align_down(address, kPageSize)) {}

Result<void> RemoteMemory::read(u64 offset, std::span<std::byte> to) {
  if (!holds(offset, to.size()) || !process_->read(address_ + offset, to)) return fail(Errno::Efault);
  return {};
}

Result<void> RemoteMemory::write(u64 offset, std::span<const std::byte> from) {
  if (!holds(offset, from.size()) || !process_->write(address_ + offset, from)) return fail(Errno::Efault);
  return {};
}

}  // namespace perdure::host
