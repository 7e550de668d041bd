// A kernel on a small machine, and supervisors of scripted behaviour in front of it.
#pragma once
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <new>
#include <thread>
#include <vector>

#include "core/uapi/iommufd.h"
#include "core/uapi/liveupdate.h"
#include "machine/process/boot_data.h"
#include "machine/process/in_process_machine.h"
#include "machine/process/syscall_server.h"

namespace perdure::process {

class FrontFixture : public ::testing::Test {
 protected:
  using Message = wire::Message;
  using Header = wire::Header;
  using Call = wire::Call;
  using Question = wire::Question;

  static constexpr board::Bdf kStreamer = board::Bdf(0, 3, 0);

  void SetUp() override {
    board_ = std::make_unique<board::Board>(config());
    ASSERT_TRUE(write_cold_boot_info(*board_));
    machine_ = *InProcessMachine::create(*board_, kColdBootInfo, [](LogLevel, std::string_view) {}, nullptr);
    kernel_ = new (storage_) Kernel(*machine_, *in_process_kernel("b"));
    ASSERT_TRUE(kernel_->boot());
    server_ = std::make_unique<SyscallServer>(*kernel_, *machine_);
  }
  void TearDown() override {
    for (auto& [socket, thread] : serving_) {
      shutdown(socket, SHUT_RDWR);
      if (thread.joinable()) thread.join();
      ::close(socket);
    }
    server_.reset();
    if (kernel_) kernel_->~Kernel();
  }
  virtual board::BoardConfig config() const {
    board::BoardConfig c;
    c.ram_bytes = u64{64} << 20;
    board::DeviceConfig streamer;
    streamer.bdf = kStreamer;
    c.devices.push_back(streamer);
    if (c.units.empty()) c.units.emplace_back();
    return c;
  }

  // What answers questions where a test does not say so: a supervisor whose one program is this process.
  using Answerer = std::function<Result<wire::Reply>(Message& question)>;

  class Supervisor {
   public:
    explicit Supervisor(host::Descriptor socket) : channel_(std::move(socket)) {}

    Result<Message> call(Header head, std::span<const std::byte> payload = {}) {
      if (head.task == 0) head.task = task;
      return channel_.call(head, payload, [this](Message& q) -> Result<wire::Reply> {
        questions.push_back(q.head);
        if (answer) return answer(q);
        return usual(q);
      });
    }
    Result<wire::Reply> usual(Message& q) {
      wire::Reply reply;
      switch (static_cast<Question>(q.head.op)) {
        case Question::MayInstall: return reply;
        case Question::Install:
          installed.push_back(q.head);
          reply.a = static_cast<u64>(next_fd++);
          return reply;
        case Question::Descriptor:
          for (const Header& one : installed) {
            if (q.head.a == static_cast<u64>(kFirstFd + (&one - installed.data()))) {
              reply.a = one.b;
              return reply;
            }
          }
          return fail(Errno::Ebadf);
        default: return fail(Errno::Efault);
      }
    }
    Result<u64> open(std::string_view path) {
      return TRY(call({.op = static_cast<u32>(Call::Open)}, std::as_bytes(std::span(path))))
      .head.a;
    }
    Result<u64> ioctl(u64 handle, u32 cmd, void* arg) {
      return TRY(call({.op = static_cast<u32>(Call::Ioctl), .a = handle, .b = cmd, .c = reinterpret_cast<u64>(arg)}))
      .head.a;
    }
    Result<void> close(u64 handle) {
      TRY(call({.op = static_cast<u32>(Call::Close), .a = handle}));
      return {};
    }
    Result<u64> front(u64 join = 0) {
      return TRY(call({.op = static_cast<u32>(Call::Front), .a = join}))
      .head.a;
    }
    wire::Channel& channel() { return channel_; }

    static constexpr s32 kFirstFd = 41;
    u64 task = wire::task_of(static_cast<u32>(getpid()), static_cast<u32>(getpid()));
    Answerer answer;
    std::vector<Header> questions;
    std::vector<Header> installed;
    s32 next_fd = kFirstFd;

   private:
    wire::Channel channel_;
  };

  // A new connection.
  std::unique_ptr<Supervisor> connect() {
    auto sockets = *wire::socket_pair();
    // The supervisor's end is known here, too, so that the test can end the connection.
    const int kept = dup(sockets.second.get());
    std::thread thread([this, s = std::move(sockets.first)]() mutable { server_->serve(std::move(s)); });
    serving_.emplace_back(kept, std::move(thread));
    return std::make_unique<Supervisor>(std::move(sockets.second));
  }
  // The connection with this number is gone, and what it had is closed.
  void hang_up(std::unique_ptr<Supervisor>& supervisor, usize which) {
    supervisor.reset();
    shutdown(serving_[which].first, SHUT_RDWR);
    serving_[which].second.join();
  }

  std::unique_ptr<board::Board> board_;
  std::unique_ptr<InProcessMachine> machine_;
  alignas(Kernel) std::byte storage_[sizeof(Kernel)];
  Kernel* kernel_ = nullptr;
  std::unique_ptr<SyscallServer> server_;
  std::vector<std::pair<int, std::thread>> serving_;
};

}  // namespace perdure::process
