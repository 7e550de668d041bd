// Serves programs over the wire: one thread and one descriptor table for each.
#pragma once
#include <list>
#include <mutex>
#include <string>
#include <thread>

#include "core/kernel/kernel.h"
#include "machine/process/fd_table.h"
#include "machine/wire/message.h"

namespace perdure::process {

class SyscallServer {
 public:
  SyscallServer(Kernel& kernel, host::HostObjects& host_objects) : kernel_(kernel), host_objects_(host_objects) {}

  // Binds the socket, readable and writable for this user only, in place of a former kernel's. Eacces, Eaddrinuse…
  Result<void> listen(const std::string& path);
  // Accepts and serves; returns when the listening socket breaks.
  void run();
  // One program at the other end of this socket, until it goes.
  static void serve_program(Kernel& kernel, host::HostObjects& host_objects, int socket, u32 uid);

 private:
  void serve(host::Descriptor socket);
  Kernel& kernel_;
  host::HostObjects& host_objects_;
  host::Descriptor listener_;
};

}  // namespace perdure::process
