// A program at the other end of a socket, as the kernel sees it.
#pragma once
#include "machine/process/fd_table.h"
#include "machine/process/task_process.h"
#include "machine/wire/message.h"
#include "machine/wire/syscall_protocol.h"

namespace perdure::process {

class WireTask final : public Task {
 public:
  WireTask(int socket, HostFiles& host_files, host::HostObjects& host_objects, u32 uid)
      : socket_(socket),
        fds_(host_files, host_objects),
        process_(Ref<TaskProcess>::adopt(new TaskProcess(host_objects, *this, -1))) {
    creds_.uid = uid;
  }
  ~WireTask() { process_->end(); }
  WireTask(const WireTask&) = delete;
  WireTask& operator=(const WireTask&) = delete;

  Result<void> copy_in(std::span<std::byte> to, UserAddr from) override;
  Result<void> copy_out(UserAddr to, std::span<const std::byte> from) override;
  using Task::copy_in;
  using Task::copy_out;
  Result<void> resolve(UserAddr at, u64 length, Access access,
                       FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) override;
  Result<Ref<File>> file(s32 fd) override;
  Result<s32> reserve_fd() override { return fds_.reserve(); }
  void install_fd(s32 fd, Ref<File> file) override;
  void release_fd(s32 fd) override { fds_.release(fd); }
  const Creds& creds() const override { return creds_; }
  Result<Ref<Process>> process() override { return Ref<Process>(process_.get()); }

  FdTable& fds() { return fds_; }

 private:
  Result<wire::Message> ask(const wire::Header& question, std::span<const std::byte> payload = {});
  int socket_;
  FdTable fds_;
  Ref<TaskProcess> process_;
  Creds creds_;
};

}  // namespace perdure::process
