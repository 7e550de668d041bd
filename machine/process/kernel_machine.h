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

  // Called when the board expects the next kernel and nothing is left that could refuse it, before this one goes.
  void before_jump(std::function<void()> call) { before_jump_ = std::move(call); }

  void irq_raise(MsiTarget target) override { remote_.interrupt_page().mark(target.address, target.data); }
  void irq_enable() override;

  // Hands interrupt messages of the board to their sinks, and calls `service` every now and then; returns when the
  // board is gone.
  void serve_interrupts(std::function<void()> service);

 private:
  KernelMachine(RemotePort& port, LogSink log) : PortMachine(port, std::move(log)), remote_(port) {}
  void deliver();
  RemotePort& remote_;
  std::function<void()> before_jump_;
};

}  // namespace perdure::process
