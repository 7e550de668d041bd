// The supervisor's end of a seccomp filter: system calls that wait for an answer (interception.md's mechanism: user
// notification).
#pragma once
#include <linux/filter.h>

#include <span>

#include "core/base/result.h"
#include "core/base/types.h"
#include "machine/host/descriptor.h"
#include "machine/host/system_calls.h"

namespace perdure::host {

class Listener final : public Answers {
 public:
  explicit Listener(Descriptor fd);

  // Puts the filter on the calling thread and what it starts, for good. Only calls that are safe between fork and exec.
  // Ebusy: another listener is on this process already; Enosys, Einval: this kernel has no such thing; Eacces.
  static Result<int> install(std::span<const sock_filter> filter);

  // Blocks for the next call. Eintr: a signal; Enoent: nobody is left to call.
  Result<SystemCall> receive();
  bool waits(const SystemCall& call) const override;
  void resume(const SystemCall& call) override;
  void answer(const SystemCall& call, s64 value) override;
  void refuse(const SystemCall& call, Errno error) override;
  using Answers::add_fd;
  Result<s32> add_fd(const SystemCall& call, int fd, bool cloexec, s32 at) override;

  int fd() const { return fd_.get(); }

 private:
  void respond(const SystemCall& call, s64 value, s32 error, u32 flags);
  Descriptor fd_;
};

}  // namespace perdure::host
