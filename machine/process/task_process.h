// The process behind a front end of which each program is one task: it ends with the task, and only its own calls can
// ask about its memory.
#pragma once
#include <sys/resource.h>

#include "core/file/task.h"
#include "machine/host/host_files.h"

namespace perdure::process {

class TaskProcess final : public Process, private host::HostObjects::Object {
 public:
  // `pid`: of the host, 0: this process, below: not known.
  TaskProcess(host::HostObjects& home, Task& task, pid_t pid) : Object(home), pid_(pid), task_(&task) {}
  void end() { task_ = nullptr; }

  Result<void> resolve(Task& via, UserAddr at, u64 length, Access access,
                       FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) override {
    return &via == task_ ? via.resolve(at, length, access, piece) : fail(Errno::Efault);
  }
  Result<void> copy_in(Task& via, std::span<std::byte> to, UserAddr from) override {
    return &via == task_ ? via.copy_in(to, from) : fail(Errno::Efault);
  }
  Result<void> copy_out(Task& via, UserAddr to, std::span<const std::byte> from) override {
    return &via == task_ ? via.copy_out(to, from) : fail(Errno::Efault);
  }
  u64 memlock_limit(Task&) override {
    rlimit now{};
    if (pid_ >= 0 && prlimit(pid_, RLIMIT_MEMLOCK, nullptr, &now) == 0) limit_ = now.rlim_cur;
    return limit_;
  }

 private:
  void dispose() override { ::delete this; }
  void destroy() override { ::delete this; }
  const pid_t pid_;
  std::atomic<u64> limit_ = RLIM_INFINITY;
  std::atomic<const Task*> task_;  // compared, never followed
};

}  // namespace perdure::process
