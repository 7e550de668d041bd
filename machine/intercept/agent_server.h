// Serves programs by the library that is preloaded into them, where the host has no seccomp user notification for us.
#pragma once
#include <linux/filter.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "machine/intercept/service.h"

namespace perdure::intercept {

class AgentServer {
 public:
  // A socket of this path, for this user alone. What bind() says; Enametoolong.
  static Result<std::unique_ptr<AgentServer>> listen(const std::string& path, std::vector<sock_filter> filter);
  // What a program needs in its environment. `library`: absolute.
  std::vector<std::string> environment(const std::string& library) const;

  // A connection to the kernel for one more thread.
  using Join = std::function<Result<std::unique_ptr<KernelLink>>()>;
  // A thread for each connection, for good. `gone`: called, from any of the threads, when the kernel is.
  void start(Machine& machine, Join join, std::function<void()> gone);

 private:
  AgentServer(std::string path, host::Descriptor socket, std::vector<sock_filter> filter)
      : path_(std::move(path)), socket_(std::move(socket)), filter_(std::move(filter)) {}
  void serve(host::Descriptor socket) const;

  const std::string path_;
  const host::Descriptor socket_;
  const std::vector<sock_filter> filter_;
  Machine* machine_ = nullptr;
  Join join_;
  std::function<void()> gone_;
};

// A program that the library can be preloaded into: its loader does it. Scripts are programs of their interpreter,
// which is taken to be one; so is what cannot be read.
bool can_preload(const std::string& program);

}  // namespace perdure::intercept
