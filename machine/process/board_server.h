// The board process: hardware for one kernel process at a time, and the oracle for whoever runs the machine. It starts
// the first kernel; every later one is the same process after execve.
#pragma once
#include <sys/types.h>

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/abi/boot_info.h"
#include "machine/board/board.h"
#include "machine/process/board_protocol.h"
#include "machine/process/interrupt_page.h"
#include "machine/process/mailbox.h"
#include "machine/process/process_bank.h"
#include "machine/wire/message.h"

namespace perdure::process {

struct ServerConfig {
  board::BoardConfig board;
  std::filesystem::path kernel_directory;
  std::filesystem::path program_socket;
  // A name, of perdure-kernel-NAME in the directory, or the path of a binary.
  std::string first_kernel = "a";
  // That kexec jumps to when nobody says which, in turn.
  std::vector<std::string> next = {"b", "a"};
  std::string command_line = {};  // see kernel_options.h
  int kernel_output = -1;         // kernels' standard output and error; -1: this process's
  // Told when a kernel serves programs, and when the kernel process ended without being told to, with its wait status;
  // on threads of the server, which wait meanwhile.
  std::function<void(u32 hop, std::string_view release)> on_ready = {};
  std::function<void(int status)> on_ended = {};
};

class BoardServer {
 public:
  explicit BoardServer(ServerConfig config);
  ~BoardServer();
  BoardServer(const BoardServer&) = delete;
  BoardServer& operator=(const BoardServer&) = delete;

  // Starts the first kernel and serves it in threads of its own. Enoent, Eacces: its binary.
  Result<void> power_on();
  // Why the kernel process ended; nothing while it is there.
  std::optional<int> ended();
  // Waits until a kernel newer than `hop` serves programs; returns its hop and release. Etimedout; Ekilled: the
  // kernel process ended.
  struct Ready {
    u32 hop = 0;
    std::string release;
  };
  Result<Ready> wait_ready(std::optional<u32> newer_than, u64 timeout_ns);
  // What the last jump did to the memory of the kernel before it.
  board::PoisonStats last_poison();
  // At the next jump one page of a table that hardware walks for this device is overwritten like memory that was
  // not preserved.
  void forget_table_page(board::Bdf device);

  board::Board& board() { return *board_; }

 private:
  void serve_mailbox();
  void serve_kernel();
  Result<void> answer(wire::Message& question);
  Result<Bank> attach_remote(const RemoteBank& asked, host::Descriptor memory);
  Result<void> hello();
  void finish_jump();
  Result<void> start_kernel();
  void kernel_ended();

  ServerConfig config_;
  std::unique_ptr<board::Board> board_;
  std::optional<Mailbox> mailbox_;
  BankProcesses bank_processes_;
  std::optional<InterruptPage> interrupt_page_;
  host::Descriptor kernel_;      // our end of the kernel's socket
  host::Descriptor interrupts_;  // our end of the present kernel's interrupt socket
  pid_t pid_ = -1;

  std::mutex mutex_;
  std::condition_variable changed_;
  struct Pending {
    abi::BootInfo next;
    Phys at;
  };
  std::optional<Pending> pending_;
  std::optional<Ready> ready_;
  bool ended_ = false;
  bool ending_ = false;             // by us
  std::optional<int> wait_status_;  // of the kernel process that ended by itself
  Phys boot_info_;
  u32 hop_ = 0;
  board::PoisonStats poison_;
  std::optional<board::Bdf> forget_;

  std::jthread mailbox_thread_;
  std::jthread kernel_thread_;
};

}  // namespace perdure::process
