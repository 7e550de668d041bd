// The Machine of a hosted kernel, over a port to the board. What differs between one process and three is the port, and
// how the jump is made.
#pragma once
#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "core/abi/boot_info.h"
#include "machine/host/host_files.h"
#include "machine/process/board_port.h"
#include "machine/process/irq_table.h"
#include "machine/process/window.h"

namespace perdure::process {

using LogSink = std::function<void(LogLevel level, std::string_view line)>;

class PortMachine : public Machine {
 public:
  virtual ~PortMachine() = default;

  const abi::BootInfo& boot() override { return boot_; }
  u64 mmio_read(Phys at, Width width) override;
  void mmio_write(Phys at, Width width, u64 value) override;
  u64 now_ns() override { return port_.now_ns(); }
  void relax() override { port_.relax(); }
  void log(LogLevel level, std::string_view line) override { log_(level, line); }
  Result<MsiTarget> irq_alloc(IrqSink& sink) override { return irqs_.alloc(sink); }
  void irq_free(MsiTarget target) override { irqs_.free(target); }
  Result<void> irq_claim(MsiTarget target, IrqSink& sink) override { return irqs_.claim(target, sink); }
  void irq_disable() override { irqs_.enable(false); }
  void write_back(const void* at, usize bytes) override { port_.write_back(phys(at), bytes); }
  Result<Bank> bank_attach(HostMemory& memory, u64 offset, u64 length) override;
  void bank_detach(const Bank& bank) override;
  Result<Ref<HostMemory>> bank_memory(u64 host_id) override;
  Result<Ref<HostMemory>> host_memory_create(u64 bytes) override;

  // A BAR that is memory, for a program that maps it: it is in this file from now on, what is at `at` at `offset`.
  Result<void> move_memory_bar(Phys at, int fd, u64 offset) { return port_.move_memory_bar(at, fd, offset); }
  IrqTable& irqs() { return irqs_; }
  host::HostObjects& host_objects() { return host_objects_; }

 protected:
  PortMachine(BoardPort& port, LogSink log) : port_(port), log_(std::move(log)) {}
  // Maps RAM and the banks that are there, then reads the boot information at `boot_info`. Eproto.
  Result<void> open(Phys boot_info);
  // Nothing of the machine can be reached through this kernel's view any more.
  void revoke() {
    view_.revoke();
    host_objects_.end_all();
  }
  BoardPort& port_;

 private:
  LogSink log_;
  host::HostObjects host_objects_;
  Window view_;
  abi::BootInfo boot_;
  IrqTable irqs_;
  std::mutex mutex_;
  std::map<u64, host::Descriptor> bank_files_;  // by host id: of banks that were there when this kernel came
};

}  // namespace perdure::process
