// Carries out what programs do to devices' registers that they mapped. Such a mapping lies beyond the end of its file,
// so that each access is a SIGBUS; a tracer takes it, does the access and lets the program go on behind it.
#pragma once
#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

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

  // `make_bus` is called by each tracing thread for itself.
  Tracer(MakeBus make_bus, Log log) : make_bus_(std::move(make_bus)), log_(std::move(log)) {}
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
  // What wait() would have told of a child of this process whose end a tracing thread was told instead. Blocks until
  // it has ended; nothing when it never was traced.
  std::optional<int> status(pid_t child);

 private:
  class Follower;

  void trace(pid_t process, std::unique_ptr<RegisterBus> bus, std::promise<Result<void>>& started);
  bool is_own_thread(pid_t thread) const;
  // No longer followed; with what wait() told of its end, if it has ended.
  void leave(pid_t process, std::optional<int> status);

  const MakeBus make_bus_;
  const Log log_;
  std::mutex starting_;  // one process after the other, to the end; outside mutex_
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::set<pid_t> threads_;        // that trace
  std::set<pid_t> followed_;       // processes that follow() was called for, not their children
  std::map<pid_t, int> statuses_;  // of those of them that ended
  std::set<std::thread::id> finished_;
  std::vector<std::jthread> running_;
};

}  // namespace perdure::intercept
