// The Machine of a kernel that runs in one process with its board. The jump only says so: control comes back to
// whoever runs the kernels, who abandons the old one.
#pragma once
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/kernel/config.h"
#include "machine/board/board.h"
#include "machine/process/local_port.h"
#include "machine/process/port_machine.h"

namespace perdure::process {

// The kernels there are, as configurations; "a" writes version 1 of the records, "b" version 2.
const Config* in_process_kernel(std::string_view name);

// Steps the board at every hardware store and allocation, and fails allocations on demand.
class BoardSteps final : public StepHook {
 public:
  explicit BoardSteps(board::Board& board) : board_(board) {}
  void stored(Phys at) override;
  bool may_allocate() override;

  std::atomic<u64> stores{0};
  std::atomic<u64> allocations{0};
  std::atomic<u64> fail_at{0};  // this allocation, counted from 1, fails; 0: none
  bool step = true;             // false: count and fail only

 private:
  board::Board& board_;
};

class InProcessMachine final : public PortMachine {
 public:
  struct Jump {
    std::string image;
    abi::BootInfo next;
    Phys at;
  };

  static Result<std::unique_ptr<InProcessMachine>> create(board::Board& board, Phys boot_info, LogSink log,
                                                          StepHook* steps);
  ~InProcessMachine() override;

  Result<Ref<KernelImage>> image_open(std::string_view name) override;
  Result<void> jump(KernelImage& image, const abi::BootInfo& next, Phys at) override;

  const std::optional<Jump>& jumped() const { return jumped_; }
  // The next jump fails with this, as execve may.
  void fail_jump(Errno why) { fail_jump_ = why; }
  // The kernel is gone: its view of memory is, and its interrupts go nowhere.
  void abandon();

  // Interrupt messages wait until no core lock can be held: between system calls.
  void deliver_interrupts();

 private:
  InProcessMachine(board::Board& board, LogSink log)
      : PortMachine(port_here_, std::move(log)), board_(board), port_here_(board) {}
  board::Board& board_;
  LocalPort port_here_;
  std::optional<Jump> jumped_;
  std::optional<Errno> fail_jump_;
  bool abandoned_ = false;
  std::mutex queue_mutex_;
  std::vector<std::pair<u64, u32>> queued_;
};

}  // namespace perdure::process
