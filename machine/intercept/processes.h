// Which processes call, and when one of them is gone.
#pragma once
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "machine/intercept/target.h"
#include "machine/wire/lent_turn.h"

namespace perdure::intercept {

class Processes {
 public:
  static Result<std::unique_ptr<Processes>> create();

  // The process of a thread. Esrch.
  Result<Target> target(s32 thread);
  // The same when what was found out earlier turned out to be out of date.
  Result<Target> target_again(s32 thread);
  // From now on its end is told.
  void watch(s32 process);
  // Threads of processes whose end will be told, so many at most.
  std::vector<wire::LentThread> lent_threads(usize most);
  // Processes that ended since the last call.
  std::vector<s32> take_gone();
  // Readable when there may be some.
  int poll_fd() const { return epoll_.get(); }

 private:
  explicit Processes(host::Descriptor epoll) : epoll_(std::move(epoll)) {}

  host::Descriptor epoll_;
  std::mutex mutex_;
  std::unordered_map<s32, Target> known_;  // by thread
  std::unordered_map<s32, host::Descriptor> watched_;
};

}  // namespace perdure::intercept
