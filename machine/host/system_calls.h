// A system call that waits for an answer, and how it gets one: the ways in which calls come differ.
#pragma once
#include <array>

#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::host {

// A system call that waits.
struct SystemCall {
  u64 id = 0;
  s32 tid = 0;
  u32 number = 0;
  std::array<u64, 6> args = {};

  s32 fd() const { return static_cast<s32>(args[0]); }
};

class Answers {
 public:
  // The caller still waits: what has been learnt of it since the call came was learnt of it and not of a successor.
  virtual bool waits(const SystemCall& call) const = 0;
  // The call goes on as if it had not been looked at.
  virtual void resume(const SystemCall& call) = 0;
  virtual void answer(const SystemCall& call, s64 value) = 0;
  virtual void refuse(const SystemCall& call, Errno error) = 0;
  // A duplicate of `fd` in the caller: its number there. `at` >= 0: at that number, in place of what is there. Emfile;
  // Ekilled: the caller is gone.
  virtual Result<s32> add_fd(const SystemCall& call, int fd, bool cloexec, s32 at) = 0;
  Result<s32> add_fd(const SystemCall& call, int fd, bool cloexec) { return add_fd(call, fd, cloexec, -1); }

 protected:
  ~Answers() = default;
};

}  // namespace perdure::host
