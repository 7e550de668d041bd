#include "machine/intercept/kernel_bus.h"

namespace perdure::intercept {

// Nobody needs to be asked about the program: the value is in the message.
Result<u64> KernelBus::access(wire::Call op, FileId file, u64 position, unsigned bytes, u64 value) {
  const auto entry = registry_.find(file);
  if (!entry) return fail(Errno::Ebadf);  // closed meanwhile
  const wire::Message m = TRY(link_->call(op, {.a = entry->handle, .b = bytes, .c = position, .d = value}));
  return m.head.a;
}

Result<u64> KernelBus::read(u64 device, u64 inode, u64 position, unsigned bytes) {
  return access(wire::Call::RegionRead, {device, inode}, position, bytes, 0);
}

Result<void> KernelBus::write(u64 device, u64 inode, u64 position, unsigned bytes, u64 value) {
  TRY(access(wire::Call::RegionWrite, {device, inode}, position, bytes, value));
  return {};
}

}  // namespace perdure::intercept
