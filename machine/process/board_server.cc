#include "machine/process/board_server.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "machine/host/host_files.h"
#include "machine/process/board_protocol.h"
#include "machine/process/boot_data.h"
#include "machine/process/kernel_image.h"
#include "machine/process/local_port.h"

namespace perdure::process {

namespace {

u32 number(BoardOp op) {
  return static_cast<u32>(op);
}

// How long a kernel process whose socket is cut may take to end by itself.
constexpr int kEndMs = 1000;

u64 monotonic_ns() {
  return static_cast<u64>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count());
}

}  // namespace

BoardServer::BoardServer(ServerConfig config)
    : config_(std::move(config)), board_(std::make_unique<board::Board>(config_.board)) {}

BoardServer::~BoardServer() {
  board_->set_msi_sink(nullptr);
  {
    const std::scoped_lock lock(mutex_);
    ending_ = true;
  }
  if (mailbox_) mailbox_->close();
  if (kernel_) shutdown(kernel_.get(), SHUT_RDWR);
  kernel_thread_ = {};
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  mailbox_thread_ = {};
  board_->stop();
}

Result<void> BoardServer::power_on() {
  mailbox_.emplace(TRY(Mailbox::create()));
  interrupt_page_.emplace(TRY(InterruptPage::create()));
  TRY(write_cold_boot_info(*board_, config_.command_line));
  boot_info_ = kColdBootInfo;
  TRY(start_kernel());
  mailbox_thread_ = std::jthread([this] { serve_mailbox(); });
  kernel_thread_ = std::jthread([this] { serve_kernel(); });
  return {};
}

Result<void> BoardServer::start_kernel() {
  const std::string binary = kernel_path(config_.kernel_directory, config_.first_kernel);
  if (access(binary.c_str(), X_OK) != 0) return fail(host::last_error());
  auto [ours, theirs] = TRY(wire::socket_pair());
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return fail(host::last_error());
  if (child == 0) {
    // Only calls that are safe between fork and exec. Nothing but the socket and the standard streams goes along.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    const int output = config_.kernel_output == kBoardSocket ? dup(kBoardSocket) : config_.kernel_output;
    if (theirs.get() == kBoardSocket) {
      fcntl(kBoardSocket, F_SETFD, 0);
    } else {
      dup2(theirs.get(), kBoardSocket);
    }
    // What this process takes by descriptor, if anything, is not the kernel's affair.
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    if (output >= 0) {
      dup2(output, STDOUT_FILENO);
      dup2(output, STDERR_FILENO);
    }
    close_range(kBoardSocket + 1, ~0U, 0);
    char name[] = "perdure-kernel";
    char* const arguments[] = {name, nullptr};
    char* const nothing[] = {nullptr};
    execve(binary.c_str(), arguments, nothing);
    _exit(127);
  }
  pid_ = child;
  kernel_ = std::move(ours);
  return {};
}

void BoardServer::serve_mailbox() {
  LocalPort port(*board_);
  Mailbox::Request request;
  while (mailbox_->wait(request)) {
    u64 value = 0;
    const Phys at(request.address);
    if (static_cast<u32>(request.width) == kWriteBackWidth) {
      board_->write_back(at, request.value);
    } else if (request.write) {
      board_->mmio_write(at, request.width, request.value);
    } else {
      value = board_->mmio_read(at, request.width);
    }
    mailbox_->answer(value);
  }
}

void BoardServer::serve_kernel() {
  for (;;) {
    auto question = wire::receive(kernel_.get());
    if (!question || !answer(*question)) break;
  }
  kernel_ended();
}

// The socket is cut. A kernel that closed it and went on would be none: it is ended, and nothing of it stays.
void BoardServer::kernel_ended() {
  board_->set_msi_sink(nullptr);
  bool by_itself = false;
  {
    const std::scoped_lock lock(mutex_);
    by_itself = !ending_;
  }
  int status = 0;
  if (by_itself) {
    // It may be on its way out, and how it ended is worth knowing; nobody waits for it for long.
    const host::Descriptor process(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
    pollfd gone = {process.get(), POLLIN, 0};
    if (!process || poll(&gone, 1, kEndMs) == 0) kill(pid_, SIGKILL);
    waitpid(pid_, &status, 0);
    pid_ = -1;
  }
  {
    const std::scoped_lock lock(mutex_);
    ended_ = true;
    if (by_itself) wait_status_ = status;
    changed_.notify_all();
  }
  if (by_itself && config_.on_ended) config_.on_ended(status);
}

std::optional<int> BoardServer::ended() {
  const std::scoped_lock lock(mutex_);
  return wait_status_;
}

Result<Bank> BoardServer::attach_remote(const RemoteBank& asked, host::Descriptor memory) {
  auto process = TRY(bank_processes_.find(asked.process, static_cast<pid_t>(asked.pid), std::move(memory)));
  return board_->bank_attach_foreign(TRY(ProcessBank::create(std::move(process), asked.address)), asked.length,
                                     asked.host_id);
}

Result<void> BoardServer::answer(wire::Message& question) {
  wire::Header reply{.op = question.head.op};
  const auto failed = [&](Errno e) {
    reply.result = static_cast<s32>(e);
    return wire::send(kernel_.get(), reply);
  };
  if (question.fd_lost) return failed(Errno::Enfile);
  switch (static_cast<BoardOp>(question.head.op)) {
    case BoardOp::Hello: return hello();
    case BoardOp::BankAttach: {
      if (!question.fd) return fail(Errno::Eproto);
      const auto bank = board_->bank_attach(question.fd.get(), question.head.a, question.head.b);
      if (!bank) return failed(bank.error());
      return wire::send(kernel_.get(), reply, std::as_bytes(std::span(&*bank, 1)));
    }
    case BoardOp::RemoteAttach: {
      RemoteBank asked;
      if (question.payload.size() != sizeof asked || !question.fd) return fail(Errno::Eproto);
      std::memcpy(&asked, question.payload.data(), sizeof asked);
      const auto bank = attach_remote(asked, std::move(question.fd));
      if (!bank) return failed(bank.error());
      return wire::send(kernel_.get(), reply, std::as_bytes(std::span(&*bank, 1)));
    }
    case BoardOp::MoveMemoryBar: {
      if (!question.fd) return fail(Errno::Eproto);
      const auto moved = board_->move_memory_bar(Phys(question.head.a), question.fd.get(), question.head.b);
      if (!moved) return failed(moved.error());
      return wire::send(kernel_.get(), reply);
    }
    case BoardOp::BankDetach: {
      Bank bank;
      if (question.payload.size() != sizeof bank) return fail(Errno::Eproto);
      std::memcpy(&bank, question.payload.data(), sizeof bank);
      if (const auto done = board_->bank_detach(bank); !done) return failed(done.error());
      return wire::send(kernel_.get(), reply);
    }
    case BoardOp::Prepare: {
      Pending pending{.next = {}, .at = Phys(question.head.a)};
      if (question.payload.size() != sizeof pending.next) return fail(Errno::Eproto);
      std::memcpy(&pending.next, question.payload.data(), sizeof pending.next);
      {
        const std::scoped_lock lock(mutex_);
        pending_ = pending;
      }
      return wire::send(kernel_.get(), reply);
    }
    case BoardOp::Cancel: {
      {
        const std::scoped_lock lock(mutex_);
        pending_.reset();
      }
      return wire::send(kernel_.get(), reply);
    }
    case BoardOp::Ready: {
      const Ready ready{
          .hop = hop_,
          .release = std::string(reinterpret_cast<const char*>(question.payload.data()), question.payload.size())};
      if (config_.on_ready) config_.on_ready(ready.hop, ready.release);
      {
        const std::scoped_lock lock(mutex_);
        ready_ = ready;
        changed_.notify_all();
      }
      return wire::send(kernel_.get(), reply);
    }
    default: return failed(Errno::Enosys);
  }
}

// A kernel says hello: it is the first, or the one after a jump, whose predecessor is gone since the same process
// runs another program now.
Result<void> BoardServer::hello() {
  board_->set_msi_sink(nullptr);
  // What its predecessor left pending it gets as the board keeps it: once a vector.
  interrupt_page_->take([this](u64 address, u32 data) { board_->give_back(address, data); });
  mailbox_->reset();
  bank_processes_.clear();
  finish_jump();

  wire::Header head{.op = number(BoardOp::Hello),
                    .a = boot_info_.value,
                    .b = board_->memory().window_log2(),
                    .c = board_->now_ns() - monotonic_ns()};
  const std::string places = config_.kernel_directory.string() + Places::kSeparator + config_.program_socket.string() +
                             Places::kSeparator +
                             (config_.next.empty() ? "" : config_.next[hop_ % config_.next.size()]);
  TRY(wire::send(kernel_.get(), head, std::as_bytes(std::span(places))));

  LocalPort port(*board_);
  std::vector<RamPiece> pieces;
  const host::Descriptor ram = TRY(port.ram(pieces));
  TRY(wire::send(kernel_.get(), {.op = number(BoardOp::Ram)}, std::as_bytes(std::span(pieces)), ram.get()));
  TRY(wire::send(kernel_.get(), {.op = number(BoardOp::Mailbox)}, {}, mailbox_->fd()));
  TRY(wire::send(kernel_.get(), {.op = number(BoardOp::InterruptPage)}, {}, interrupt_page_->fd()));
  for (const PortedBank& b : TRY(port.banks())) {
    TRY(wire::send(kernel_.get(), {.op = number(BoardOp::Bank)}, std::as_bytes(std::span(&b.bank, 1)), b.fd.get()));
  }
  auto [ours, theirs] = TRY(wire::socket_pair());
  TRY(wire::send(kernel_.get(), {.op = number(BoardOp::Interrupts)}, {}, theirs.get()));
  interrupts_ = std::move(ours);
  const int socket = interrupts_.get();
  board_->set_msi_sink([this, socket](u64 address, u32 data) {
    if (interrupt_page_->post(address, data)) (void)wire::send(socket, {.op = number(BoardOp::Interrupt)});
  });
  return wire::send(kernel_.get(), {.op = number(BoardOp::End)});
}

void BoardServer::finish_jump() {
  const std::scoped_lock lock(mutex_);
  if (!pending_) return;
  std::optional<Phys> forgotten;
  if (forget_) {
    if (const auto page = walked_table_page(*board_, *forget_)) forgotten = *page;
    forget_.reset();
  }
  if (forgotten) board_->memory().fill({forgotten->value, kPageSize}, board::kPoisonWord);
  poison_ = board_->kernel_gone(handover_of(*board_, pending_->next, pending_->at));
  // When it cannot be written the new kernel finds it damaged and says so.
  (void)write_boot_info(*board_, pending_->next, pending_->at);
  boot_info_ = pending_->at;
  ++hop_;
  pending_.reset();
}

Result<BoardServer::Ready> BoardServer::wait_ready(std::optional<u32> newer_than, u64 timeout_ns) {
  std::unique_lock lock(mutex_);
  const bool in_time = changed_.wait_for(lock, std::chrono::nanoseconds(timeout_ns), [&] {
    return ended_ || (ready_ && (!newer_than || ready_->hop > *newer_than));
  });
  if (!in_time) return fail(Errno::Etimedout);
  if (ended_) return fail(Errno::Ekilled);
  return *ready_;
}

board::PoisonStats BoardServer::last_poison() {
  const std::scoped_lock lock(mutex_);
  return poison_;
}

void BoardServer::forget_table_page(board::Bdf device) {
  const std::scoped_lock lock(mutex_);
  forget_ = device;
}

}  // namespace perdure::process
