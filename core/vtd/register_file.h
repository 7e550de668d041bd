// One unit's registers, and the protocol of its global command register.
#pragma once
#include <optional>

#include "core/base/lock.h"
#include "core/base/machine.h"
#include "core/vtd/registers.h"

namespace perdure::vtd {

class RegisterFile {
 public:
  RegisterFile(Machine& machine, Phys base, u64 timeout_ns) : machine_(machine), base_(base), timeout_ns_(timeout_ns) {}
  RegisterFile(const RegisterFile&) = delete;
  RegisterFile& operator=(const RegisterFile&) = delete;

  u32 read(Reg32 r) const { return static_cast<u32>(machine_.mmio_read(base_ + r.offset, Width::W32)); }
  u64 read(Reg64 r) const { return machine_.mmio_read(base_ + r.offset, Width::W64); }
  void write(Reg32 r, u32 value) { machine_.mmio_write(base_ + r.offset, Width::W32, value); }
  void write(Reg64 r, u64 value) { machine_.mmio_write(base_ + r.offset, Width::W64, value); }

  u32 status() const { return read(reg::kGlobalStatus); }
  bool translating() const { return Global::Te::test(status()); }

  // Persistent bits, one at a time. The command is always derived from what the status register says at that moment,
  // so that no command ever drops a bit that it does not name (hardware.md §1). Etimedout; Eio when the register does
  // not answer or contradicts the last command, and nothing was written then.
  Result<void> enable(u32 bit) EXCLUDES(command_lock_);
  Result<void> disable(u32 bit) EXCLUDES(command_lock_);
  // Latches `rtaddr`. The caller drops the caches afterwards. Etimedout.
  Result<void> set_root(u64 rtaddr) EXCLUDES(command_lock_);
  Result<void> set_interrupt_table(u64 irta) EXCLUDES(command_lock_);
  Result<void> flush_write_buffer() EXCLUDES(command_lock_);

  // True within the time limit?
  template <class Done>
  Result<void> poll(Done done) const {
    const u64 start = machine_.now_ns();
    while (!done()) {
      if (machine_.now_ns() - start >= timeout_ns_) return fail(Errno::Etimedout);
      machine_.relax();
    }
    return {};
  }

  Machine& machine() const { return machine_; }
  Phys base() const { return base_; }

 private:
  Result<void> command_locked(u32 set, u32 clear, u32 mask, u32 wanted) REQUIRES(command_lock_);

  Machine& machine_;
  const Phys base_;
  const u64 timeout_ns_;
  static constexpr u32 kNoAnswer = ~u32{0};
  // One command at a time: the status register shows a command's end, not whose it was.
  Mutex command_lock_{LockRank::Leaf};
  // The persistent bits after the last command that was acknowledged; none before the first, and after one that was
  // not.
  std::optional<u32> known_ GUARDED_BY(command_lock_);
};

}  // namespace perdure::vtd
