// Syscalls of a program that talks to a kernel process.
#pragma once
#include <memory>
#include <mutex>
#include <string>

#include "machine/host/host_calls.h"
#include "machine/wire/channel.h"

namespace perdure::wire {

// A front of its own, whose handles are its descriptors. Thread-safe; calls of one program run one after the other. A
// call into a kernel that is gone is Ekilled.
class ProgramSyscalls final : public host::HostCalls {
 public:
  // Connects to the kernel's socket; waits up to `timeout_ms` for it to appear. Etimedout.
  static Result<std::unique_ptr<ProgramSyscalls>> connect(const std::string& socket_path, int timeout_ms);
  explicit ProgramSyscalls(host::Descriptor socket) : channel_(std::move(socket)) {}
  explicit ProgramSyscalls(Channel channel) : channel_(std::move(channel)) {}

  Result<s32> open(std::string_view path) override;
  Result<void> close(s32 fd) override;
  Result<u64> ioctl(s32 fd, u32 cmd, void* arg) override;
  Result<usize> pread(s32 fd, void* to, usize bytes, u64 pos) override;
  Result<usize> pwrite(s32 fd, const void* from, usize bytes, u64 pos) override;
  Result<void> kexec_load(std::string_view kernel) override;
  Result<void> kexec() override;

  // The kernel's state, and its devices, as JSON text.
  Result<std::string> status() { return text(Call::Status); }
  Result<std::string> devices() { return text(Call::Devices); }
  // Blocks until the kernel is gone.
  void wait_killed();
  int socket() const { return channel_.socket(); }

 private:
  Result<Message> call(const Header& head, std::span<const std::byte> payload = {});
  Result<Reply> answer(Message& question);
  Result<std::string> text(Call what);

  Channel channel_;
  std::mutex mutex_;
};

}  // namespace perdure::wire
