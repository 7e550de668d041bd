#include "core/vtd/register_file.h"

#include "core/base/log.h"

namespace perdure::vtd {

Result<void> RegisterFile::command_locked(u32 set, u32 clear, u32 mask, u32 wanted) {
  const u32 now = status();
  const u32 persistent = now & Global::kPersistent;
  // A register that does not answer, or not with the truth, must not become a command: it could turn translation off.
  if (now == kNoAnswer || (known_ && persistent != *known_)) {
    log(machine_, LogLevel::Error,
        Line() << "vtd " << base_ << ": GSTS reads " << Hex{now} << (known_ ? ", not what was set: " : ": ")
               << Hex{known_ ? *known_ : 0} << "; no command is given");
    return fail(Errno::Eio);
  }
  write(reg::kGlobalCommand, (persistent & ~clear) | set);
  known_ = std::nullopt;
  TRY(poll([&] {
    const u32 s = status();
    return s != kNoAnswer && (s & mask) == wanted;
  }));
  known_ = (persistent & ~clear) | (set & Global::kPersistent);
  return {};
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

Result<void> RegisterFile::set_interrupt_table(u64 irta) {
  MutexGuard guard(command_lock_);
  write(reg::kInterruptTable, irta);
  return command_locked(Global::Sirtp::value(), 0, Global::Sirtp::value(), Global::Sirtp::value());
}

Result<void> RegisterFile::flush_write_buffer() {
  MutexGuard guard(command_lock_);
  return command_locked(Global::Wbf::value(), 0, Global::Wbf::value(), 0);
}

}  // namespace perdure::vtd
