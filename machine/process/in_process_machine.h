// The Machine of a kernel that runs in one process with its board. The jump only says so: control comes back to
// whoever runs the kernels, who abandons the old one.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/kernel/config.h"
#include "machine/process/board_steps.h"
#include "machine/process/local_port.h"
#include "machine/process/port_machine.h"

namespace perdure::process {

// The kernels there are, as configurations; "a" writes version 1 of the records, "b" version 2.
const Config* in_process_kernel(std::string_view name);

class InProcessMachine final : public PortMachine {
 public:
  struct Jump {
    std::string image;
    abi::BootInfo next;
    Phys at;
  };

  static Result<std::unique_ptr<InProcessMachine>> create(board::Board& board, Phys boot_info, LogSink log,
                                                          BoardSteps* steps);
  ~InProcessMachine() override;

  Result<Ref<KernelImage>> image_open(std::string_view name) override;
  Result<void> jump(KernelImage& image, const abi::BootInfo& next, Phys at) override;

  void irq_raise(MsiTarget target) override;
  void irq_enable() override { irqs().enable(true); }

  const std::optional<Jump>& jumped() const { return jumped_; }
  // The next jump fails with this, as execve may.
  void fail_jump(Errno why) { fail_jump_ = why; }
  // The kernel is gone: its view of memory is, and interrupts that it did not take wait for the next one.
  void abandon();

  // Interrupt messages wait until no core lock can be held: between system calls.
  void deliver_interrupts();

 private:
  InProcessMachine(board::Board& board, LogSink log, BoardSteps* hook)
      : PortMachine(port_here_, std::move(log)), board_(board), port_here_(board, hook) {}
  board::Board& board_;
  LocalPort port_here_;
  std::optional<Jump> jumped_;
  std::optional<Errno> fail_jump_;
  bool abandoned_ = false;
  std::mutex queue_mutex_;
  std::vector<std::pair<u64, u32>> queued_;
};

}  // namespace perdure::process
