// A program in the kernel's own process: its system calls are function calls. It dies when its kernel is replaced;
// calls after that are Ekilled.
#pragma once
#include "core/kernel/kernel.h"
#include "machine/host/host_calls.h"
#include "machine/host/remote_memory.h"
#include "machine/process/fd_table.h"
#include "machine/process/in_process_machine.h"
#include "machine/process/task_process.h"

namespace perdure::process {

class LocalProgram : public host::HostCalls, private Task {
 public:
  LocalProgram(Kernel& kernel, InProcessMachine& machine, board::Board& board)
      : kernel_(kernel),
        machine_(machine),
        board_(board),
        process_(Ref<TaskProcess>::adopt(::new TaskProcess(machine.host_objects(), *this, 0))) {}
  ~LocalProgram() override;

  // The kernel was replaced: nothing is closed.
  void kill();

  Result<s32> open(std::string_view path) override;
  Result<void> close(s32 fd) override;
  Result<u64> ioctl(s32 fd, u32 cmd, void* arg) override;
  Result<usize> pread(s32 fd, void* to, usize bytes, u64 pos) override;
  Result<usize> pwrite(s32 fd, const void* from, usize bytes, u64 pos) override;
  u64 now_ns() override { return board_.now_ns(); }
  void pause() override;
  Result<void> kexec_load(std::string_view kernel) override;
  // In process the call comes back: success means that the kernel is gone.
  Result<void> kexec() override;

 private:
  Result<void> copy_in(std::span<std::byte> to, UserAddr from) override;
  Result<void> copy_out(UserAddr to, std::span<const std::byte> from) override;
  Result<void> resolve(UserAddr at, u64 length, Access access,
                       FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) override;
  Result<Ref<File>> file(s32 fd) override;
  Result<s32> reserve_fd() override { return fds_.reserve(); }
  void install_fd(s32 fd, Ref<File> file) override;
  void release_fd(s32 fd) override { fds_.release(fd); }
  const Creds& creds() const override { return creds_; }
  Result<Ref<Process>> process() override { return Ref<Process>(process_.get()); }

  Result<Ref<File>> wrap(host::Descriptor fd);
  // What of [at, at + length) is mapped in one piece, whoever mapped it: a shared file's, or this process's own.
  // Efault.
  Result<u64> resolve_native(u64 at, u64 length, Access access,
                             FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece);
  // Before and after every call: is there a kernel, and what did devices say?
  Result<void> enter();

  Kernel& kernel_;
  InProcessMachine& machine_;
  board::Board& board_;
  FdTable fds_;
  std::shared_ptr<const host::RemoteProcess> self_;  // once somebody asked for it
  Ref<TaskProcess> process_;
  Creds creds_;
  bool killed_ = false;
};

}  // namespace perdure::process
