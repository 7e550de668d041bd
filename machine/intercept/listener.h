// The supervisor's end of a seccomp filter: system calls that wait for an answer (interception.md's mechanism: user
// notification).
#pragma once
#include <linux/filter.h>

#include <array>
#include <span>

#include "core/base/result.h"
#include "core/base/types.h"
#include "machine/host/descriptor.h"

namespace perdure::intercept {

// A system call that waits.
struct SystemCall {
  u64 id = 0;
  s32 tid = 0;
  u32 number = 0;
  std::array<u64, 6> args = {};

  s32 fd() const { return static_cast<s32>(args[0]); }
};

class Listener {
 public:
  explicit Listener(host::Descriptor fd);

  // Puts the filter on the calling thread and what it starts, for good. Only calls that are safe between fork and exec.
  // Ebusy: another listener is on this process already; Enosys, Einval: this kernel has no such thing; Eacces.
  static Result<int> install(std::span<const sock_filter> filter);

  // Blocks for the next call. Eintr: a signal; Enoent: nobody is left to call.
  Result<SystemCall> receive();
  // The caller still waits: what has been learnt of it since receive() was learnt of it and not of a successor.
  bool waits(const SystemCall& call) const;
  // The call goes on as if it had not been looked at.
  void resume(const SystemCall& call);
  void answer(const SystemCall& call, s64 value);
  void refuse(const SystemCall& call, Errno error);
  // A duplicate of `fd` in the caller: its number there. `at` >= 0: at that number, in place of what is there. Emfile;
  // Ekilled: the caller is gone.
  Result<s32> add_fd(const SystemCall& call, int fd, bool cloexec, s32 at = -1);

  int fd() const { return fd_.get(); }

 private:
  void respond(const SystemCall& call, s64 value, s32 error, u32 flags);
  host::Descriptor fd_;
};

}  // namespace perdure::intercept
