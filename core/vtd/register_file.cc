#include "core/vtd/register_file.h"

namespace perdure::vtd {

Result<void> RegisterFile::command_locked(u32 set, u32 clear, u32 mask, u32 wanted) {
  const u32 persistent = status() & Global::kPersistent;
  write(reg::kGlobalCommand, (persistent & ~clear) | set);
  return poll([&] { return (status() & mask) == wanted; });
}

Result<void> RegisterFile::enable(u32 bit) {
  MutexGuard guard(command_lock_);
  return command_locked(bit, 0, bit, bit);
}

Result<void> RegisterFile::disable(u32 bit) {
  MutexGuard guard(command_lock_);
  return command_locked(0, bit, bit, 0);
}

Result<void> RegisterFile::set_root(u64 rtaddr) {
  MutexGuard guard(command_lock_);
  write(reg::kRootTable, rtaddr);
  // Hardware drops RTPS on the command and raises it when the pointer is latched.
  return command_locked(Global::Srtp::value(), 0, Global::Srtp::value(), Global::Srtp::value());
}

Result<void> RegisterFile::flush_write_buffer() {
  MutexGuard guard(command_lock_);
  return command_locked(Global::Wbf::value(), 0, Global::Wbf::value(), 0);
}

}  // namespace perdure::vtd
