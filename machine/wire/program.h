// Syscalls of a program that talks to a kernel process.
#pragma once
#include <memory>
#include <mutex>
#include <string>

#include "machine/host/host_calls.h"
#include "machine/wire/message.h"
#include "machine/wire/syscall_protocol.h"

namespace perdure::wire {

// Thread-safe; calls of one program run one after the other. A call into a kernel that is gone is Ekilled.
class ProgramSyscalls final : public host::HostCalls {
 public:
  // Connects to the kernel's socket; waits up to `timeout_ms` for it to appear. Etimedout.
  static Result<std::unique_ptr<ProgramSyscalls>> connect(const std::string& socket_path, int timeout_ms);
  explicit ProgramSyscalls(host::Descriptor socket) : socket_(std::move(socket)) {}

  Result<s32> open(std::string_view path) override;
  Result<void> close(s32 fd) override;
  Result<u64> ioctl(s32 fd, u32 cmd, void* arg) override;
  Result<usize> pread(s32 fd, void* to, usize bytes, u64 pos) override;
  Result<usize> pwrite(s32 fd, const void* from, usize bytes, u64 pos) override;
  Result<void> kexec_load(std::string_view kernel) override;
  Result<void> kexec() override;

  // The kernel's state as JSON text.
  Result<std::string> status();
  // Blocks until the kernel is gone.
  void wait_killed();
  int socket() const { return socket_.get(); }

 private:
  Result<Message> call(Call op, u64 a, u64 b, u64 c, std::span<const std::byte> payload = {});
  Result<void> answer(const Message& question);
  Result<void> answer_resolve(u64 at, u64 length);

  host::Descriptor socket_;
  std::mutex mutex_;
};

}  // namespace perdure::wire
