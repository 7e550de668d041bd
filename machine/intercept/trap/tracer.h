// Carries out what programs do to devices' registers that they mapped. Such a mapping lies beyond the end of its file,
// so that each access is a SIGBUS; a tracer takes it, does the access and lets the program go on behind it.
#pragma once
#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "core/base/function_ref.h"
#include "machine/intercept/trap/register_bus.h"

namespace perdure::intercept {

// A process is traced from when it is about to map registers, with what it forks, until it ends or executes another
// program: whoever maps none runs as if there were no tracer, and may be debugged.
//
// One thread for each such process: ptrace knows threads, not processes, and it can only wait for tracees.
class Tracer {
 public:
  using MakeBus = std::function<Result<std::unique_ptr<RegisterBus>>()>;
  using Log = std::function<void(const std::string& line)>;
  // The end of a traced process, or of one of its threads, which nobody else in this process is told any more; `status`
  // as wait() has it. On a tracing thread. Only of those that were killed: others are let go before they end.
  using Ended = std::function<void(pid_t process, int status)>;

  // `make_bus` is called for each process that is followed.
  Tracer(MakeBus make_bus, Log log, Ended ended)
      : make_bus_(std::move(make_bus)), log_(std::move(log)), ended_(std::move(ended)) {}
  // Waits until the processes that are traced are gone: they should have been ended.
  ~Tracer();
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // This host lets a process trace its children (seccomp profiles of containers may not).
  static bool possible();
  // Somebody else traces it: nobody can besides. Esrch: it is gone.
  Result<bool> traced_by_others(pid_t process) const;
  // From now on; at once when it is already. Ebusy: somebody else traces it; Eperm; Esrch.
  Result<void> follow(pid_t process);
  // wait() of any thread of this process for all its children is told what is for the tracing threads. So where it is
  // to be called, `wait` is called while there are none; else false.
  bool while_idle(FunctionRef<void()> wait) const;
  // Blocks until there are none, for so long at most.
  void wait_idle(std::chrono::milliseconds at_most);

 private:
  class Follower;

  void trace(pid_t process, std::unique_ptr<RegisterBus> bus, std::promise<Result<void>>& started);
  bool is_own_thread(pid_t thread) const;

  const MakeBus make_bus_;
  const Log log_;
  const Ended ended_;
  std::mutex starting_;  // one process after the other, to the end; outside mutex_
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  usize active_ = 0;         // tracing threads that have not ended
  std::set<pid_t> threads_;  // their numbers
  std::set<std::thread::id> finished_;
  std::vector<std::jthread> running_;
};

}  // namespace perdure::intercept
