// One thread's tracing: a process and what it forks.
#pragma once
#include <unordered_map>
#include <unordered_set>

#include "machine/intercept/trap/mappings.h"
#include "machine/intercept/trap/tracer.h"

namespace perdure::intercept {

// Everything but the constructor runs on the thread that traces.
class Tracer::Follower {
 public:
  Follower(Tracer& tracer, pid_t process, std::unique_ptr<RegisterBus> bus)
      : tracer_(tracer), process_(process), bus_(std::move(bus)) {}

  // All threads of the process. Ebusy: somebody else traces it; Eperm; Esrch. What was begun goes on with run().
  Result<void> seize();
  // Until nobody is traced any more.
  void run();

 private:
  void stopped(pid_t thread, int status);
  // True: it is done, the program goes on. Else `signal` is to be delivered.
  bool carry_out(pid_t thread, int& signal);
  Mappings& mappings(pid_t thread);

  Tracer& tracer_;
  const pid_t process_;
  const std::unique_ptr<RegisterBus> bus_;
  std::unordered_map<pid_t, Mappings> mappings_;  // by thread
};

}  // namespace perdure::intercept
