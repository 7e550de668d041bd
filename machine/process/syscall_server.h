// Serves front ends over the wire: programs that know of it, and supervisors of programs that do not. One thread for
// each connection.
#pragma once
#include <string>

#include "core/kernel/kernel.h"
#include "machine/process/drivers.h"
#include "machine/process/front.h"
#include "machine/process/port_machine.h"

namespace perdure::process {

class SyscallServer {
 public:
  // `creds`: of every program; who may do what is the machine's policy, not the host's.
  SyscallServer(Kernel& kernel, PortMachine& machine, Creds creds = {})
      : kernel_(kernel),
        machine_(machine),
        creds_(creds),
        fronts_(kernel.host_files(), machine.host_objects()),
        drivers_(kernel) {}

  // Binds the socket, readable and writable for this user only, in place of a former kernel's. Eacces, Eaddrinuse…
  Result<void> listen(const std::string& path);
  // Accepts and serves; returns when the listening socket breaks.
  void run();
  // One connection, until its front end goes.
  void serve(host::Descriptor socket);
  // Everything is frozen, and the next kernel comes: ends all programs. Returns how many supervisors did not say in
  // time that they had done so.
  unsigned reboot(std::chrono::milliseconds patience = std::chrono::milliseconds(wire::kRebootTimeoutMs)) {
    return fronts_.reboot(patience);
  }

 private:
  Kernel& kernel_;
  PortMachine& machine_;
  const Creds creds_;
  Fronts fronts_;
  Drivers drivers_;
  host::Descriptor listener_;
};

}  // namespace perdure::process
