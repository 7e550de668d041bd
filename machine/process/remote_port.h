// A port to a board in another process.
#pragma once
#include <memory>
#include <mutex>
#include <string>

#include "core/abi/boot_info.h"
#include "machine/process/board_port.h"
#include "machine/process/interrupt_page.h"
#include "machine/process/mailbox.h"
#include "machine/wire/message.h"

namespace perdure::process {

class RemotePort final : public BoardPort {
 public:
  // Says hello on the board's socket and takes what it gives. Ekilled, Eproto.
  static Result<std::unique_ptr<RemotePort>> connect(host::Descriptor socket);

  Phys boot_info() const { return boot_info_; }
  const std::string& kernel_directory() const { return kernel_directory_; }
  const std::string& next_kernel() const { return next_kernel_; }
  const std::string& program_socket() const { return program_socket_; }
  int interrupts() const { return interrupts_.get(); }
  InterruptPage& interrupt_page() { return *interrupt_page_; }
  int socket() const { return socket_.get(); }

  Result<void> ready(std::string_view release);
  Result<void> prepare(const abi::BootInfo& next, Phys at);
  Result<void> cancel();

  unsigned window_log2() override { return window_log2_; }
  Result<host::Descriptor> ram(std::vector<RamPiece>& pieces) override;
  Result<std::vector<PortedBank>> banks() override;
  Result<Bank> bank_attach(int fd, u64 offset, u64 length) override;
  Result<Bank> bank_attach(const host::RemoteMemory& memory) override;
  void bank_detach(const Bank& bank) override;
  Result<void> move_memory_bar(Phys at, int fd, u64 offset) override;
  u64 mmio_read(Phys at, Width width) override;
  void mmio_write(Phys at, Width width, u64 value) override;
  void write_back(Phys at, u64 bytes) override;
  u64 now_ns() override;
  void relax() override;

 private:
  explicit RemotePort(host::Descriptor socket) : socket_(std::move(socket)) {}
  Result<wire::Message> call(const wire::Header& head, std::span<const std::byte> payload = {}, int fd = -1);

  host::Descriptor socket_;
  std::mutex mutex_;  // one question at a time
  Phys boot_info_;
  unsigned window_log2_ = 0;
  u64 clock_offset_ = 0;
  std::string kernel_directory_;
  std::string program_socket_;
  std::string next_kernel_;
  host::Descriptor ram_;
  std::vector<RamPiece> pieces_;
  std::unique_ptr<Mailbox> mailbox_;
  host::Descriptor interrupts_;
  std::unique_ptr<InterruptPage> interrupt_page_;
  std::vector<PortedBank> banks_;
};

}  // namespace perdure::process
