// Starts a program under the filter.
#pragma once
#include <signal.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "core/base/result.h"
#include "machine/host/descriptor.h"
#include "machine/intercept/filter.h"

namespace perdure::intercept {

struct Program {
  std::vector<std::string> arguments;         // the first is the program, looked for in PATH
  sigset_t mask = {};                         // of signals, that it starts with
  std::vector<std::string> environment = {};  // NAME=VALUE, besides what it inherits
};

class Launched {
 public:
  // Forks a child that is under the filter (empty: under none) and waits to be told to go on. What Listener::install()
  // and fork() say.
  static Result<Launched> prepare(const Program& program, const std::vector<sock_filter>& filter);
  pid_t pid() const { return pid_; }
  host::Descriptor take_listener() { return std::move(listener_); }
  // Lets it become the program. Enoent, Eacces, Enoexec…: of exec; the child is gone then and has been waited for. Has
  // to be called with the listener served.
  Result<void> go();

 private:
  pid_t pid_ = -1;
  host::Descriptor listener_;
  host::Descriptor channel_;
};

}  // namespace perdure::intercept
