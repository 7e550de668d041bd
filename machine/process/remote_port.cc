#include "machine/process/remote_port.h"

#include <fcntl.h>
#include <sched.h>
#include <time.h>

#include <cstring>

#include "machine/host/host_files.h"
#include "machine/process/board_protocol.h"

namespace perdure::process {

namespace {

template <class T>
Result<T> payload_as(const wire::Message& m) {
  if (m.payload.size() != sizeof(T)) return fail(Errno::Eproto);
  T value;
  std::memcpy(&value, m.payload.data(), sizeof value);
  return value;
}

u32 number(BoardOp op) {
  return static_cast<u32>(op);
}

}  // namespace

Result<std::unique_ptr<RemotePort>> RemotePort::connect(host::Descriptor socket) {
  std::unique_ptr<RemotePort> port(new RemotePort(std::move(socket)));
  const wire::Message hello = TRY(port->call({.op = number(BoardOp::Hello)}));
  port->boot_info_ = Phys(hello.head.a);
  port->window_log2_ = static_cast<unsigned>(hello.head.b);
  port->clock_offset_ = hello.head.c;
  const std::string places(reinterpret_cast<const char*>(hello.payload.data()), hello.payload.size());
  const usize cut = places.find(Places::kSeparator);
  const usize second = cut == std::string::npos ? cut : places.find(Places::kSeparator, cut + 1);
  if (second == std::string::npos) return fail(Errno::Eproto);
  port->kernel_directory_ = places.substr(0, cut);
  port->program_socket_ = places.substr(cut + 1, second - cut - 1);
  port->next_kernel_ = places.substr(second + 1);
  for (;;) {
    wire::Message m = TRY(wire::receive(port->socket_.get()));
    switch (static_cast<BoardOp>(m.head.op)) {
      case BoardOp::Ram:
        if (m.payload.size() % sizeof(RamPiece) != 0 || !m.fd) return fail(Errno::Eproto);
        port->pieces_.resize(m.payload.size() / sizeof(RamPiece));
        std::memcpy(port->pieces_.data(), m.payload.data(), m.payload.size());
        port->ram_ = std::move(m.fd);
        break;
      case BoardOp::Mailbox: port->mailbox_ = std::make_unique<Mailbox>(TRY(Mailbox::open(std::move(m.fd)))); break;
      case BoardOp::Interrupts: port->interrupts_ = std::move(m.fd); break;
      case BoardOp::InterruptPage:
        port->interrupt_page_ = std::make_unique<InterruptPage>(TRY(InterruptPage::open(std::move(m.fd))));
        break;
      case BoardOp::Bank:
        port->banks_.push_back({
          TRY(payload_as<Bank>(m))
          , std::move(m.fd)
        });
        break;
      case BoardOp::End:
        if (!port->mailbox_ || !port->ram_ || !port->interrupts_ || !port->interrupt_page_) return fail(Errno::Eproto);
        return port;
      default: return fail(Errno::Eproto);
    }
  }
}

Result<wire::Message> RemotePort::call(const wire::Header& head, std::span<const std::byte> payload, int fd) {
  const std::scoped_lock lock(mutex_);
  TRY(wire::send(socket_.get(), head, payload, fd));
  wire::Message m = TRY(wire::receive(socket_.get()));
  if (m.head.op != head.op) return fail(Errno::Eproto);
  if (m.head.result != 0) return fail(static_cast<Errno>(m.head.result));
  return m;
}

Result<void> RemotePort::ready(std::string_view release) {
  TRY(call({.op = number(BoardOp::Ready)}, std::as_bytes(std::span(release))));
  return {};
}

Result<void> RemotePort::prepare(const abi::BootInfo& next, Phys at) {
  TRY(call({.op = number(BoardOp::Prepare), .a = at.value}, std::as_bytes(std::span(&next, 1))));
  return {};
}

Result<void> RemotePort::cancel() {
  TRY(call({.op = number(BoardOp::Cancel)}));
  return {};
}

Result<host::Descriptor> RemotePort::ram(std::vector<RamPiece>& pieces) {
  pieces = pieces_;
  return std::move(ram_);
}

Result<std::vector<PortedBank>> RemotePort::banks() {
  return std::move(banks_);
}

Result<Bank> RemotePort::bank_attach(int fd, u64 offset, u64 length) {
  return payload_as<Bank>(TRY(call({.op = number(BoardOp::BankAttach), .a = offset, .b = length}, {}, fd)));
}

Result<Bank> RemotePort::bank_attach(const host::RemoteMemory& memory) {
  const host::RemoteProcess& process = memory.process();
  const RemoteBank bank{.process = process.number(),
                        .pid = static_cast<u64>(process.process()),
                        .address = memory.address(),
                        .length = memory.size(),
                        .host_id = memory.id()};
  return payload_as<Bank>(
      TRY(call({.op = number(BoardOp::RemoteAttach)}, std::as_bytes(std::span(&bank, 1)), process.memory())));
}

void RemotePort::bank_detach(const Bank& bank) {
  (void)call({.op = number(BoardOp::BankDetach)}, std::as_bytes(std::span(&bank, 1)));
}

Result<void> RemotePort::move_memory_bar(Phys at, int fd, u64 offset) {
  TRY(call({.op = number(BoardOp::MoveMemoryBar), .a = at.value, .b = offset}, {}, fd));
  return {};
}

u64 RemotePort::mmio_read(Phys at, Width width) {
  return mailbox_->transact({.write = false, .width = width, .address = at.value, .value = 0});
}

void RemotePort::mmio_write(Phys at, Width width, u64 value) {
  mailbox_->transact({.write = true, .width = width, .address = at.value, .value = value});
}

void RemotePort::write_back(Phys at, u64 bytes) {
  mailbox_->transact(
      {.write = true, .width = static_cast<Width>(kWriteBackWidth), .address = at.value, .value = bytes});
}

u64 RemotePort::now_ns() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<u64>(now.tv_sec) * 1'000'000'000 + static_cast<u64>(now.tv_nsec) + clock_offset_;
}

void RemotePort::relax() {
  sched_yield();
}

}  // namespace perdure::process
