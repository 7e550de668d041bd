// The Machine of a kernel that is a process of its own.
#pragma once
#include <memory>

#include "machine/process/port_machine.h"
#include "machine/process/remote_port.h"

namespace perdure::process {

class KernelMachine final : public PortMachine {
 public:
  static Result<std::unique_ptr<KernelMachine>> create(RemotePort& port, LogSink log);

  Result<Ref<KernelImage>> image_open(std::string_view name) override;
  Result<void> jump(KernelImage& image, const abi::BootInfo& next, Phys at) override;

  // Hands interrupt messages of the board to their sinks; returns when the board is gone.
  void serve_interrupts();

 private:
  KernelMachine(RemotePort& port, LogSink log) : PortMachine(port, std::move(log)), remote_(port) {}
  RemotePort& remote_;
};

}  // namespace perdure::process
