// A process under the filter, its supervisor, and a kernel that a test plays.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <list>
#include <thread>

#include "machine/intercept/filter.h"
#include "machine/intercept/workers.h"

namespace perdure::intercept {
namespace {

using wire::Call;
using wire::Question;

// One connection of the kernel that the test plays.
class Caller {
 public:
  explicit Caller(int socket) : socket_(socket) {}
  Result<wire::Message> ask(wire::Header question, std::string_view payload = {}, int fd = -1) const {
    TRY(wire::send(socket_, question, std::as_bytes(std::span(payload)), fd));
    wire::Message m = TRY(wire::receive(socket_));
    EXPECT_EQ(m.head.op, static_cast<u32>(Question::Answer));
    if (m.head.result != 0) return fail(static_cast<Errno>(m.head.result));
    return m;
  }
  Result<wire::Message> ask(Question q, u64 a = 0, u64 b = 0, u64 c = 0, std::string_view payload = {},
                            int fd = -1) const {
    return ask({.op = static_cast<u32>(q), .a = a, .b = b, .c = c}, payload, fd);
  }

 private:
  int socket_;
};

struct Reply {
  u64 a = 0;
  u64 b = 0;
  Errno error = Errno{};
  std::string payload = {};
};

class Supervised : public testing::Test {
 protected:
  // What the kernel says to calls.
  virtual Reply serve(const wire::Message& call, const Caller& caller) = 0;

  // Runs `program` in a process under the filter; returns its status as waitpid() has it. The kernel goes when it has
  // ended.
  int run(int (*program)()) {
    auto pair = wire::socket_pair();
    EXPECT_TRUE(pair);
    // Before there are threads: the child is a copy of this process.
    const pid_t child = fork();
    if (child == 0) become(pair->second.get(), program);
    auto sent = wire::receive(pair->first.get());
    EXPECT_TRUE(sent && sent->fd);
    if (!sent || !sent->fd) return -1;
    machine_.emplace(*Registry::create(), *Shadow::create(), *Processes::create());
    machine_->high_fd = 900;
    machine_->listener = std::make_unique<Listener>(std::move(sent->fd));
    int status = 0;
    {
      Workers workers(*machine_, [this] { return KernelLink::join(connect(), 1); }, [this] { gone_.notify(); });
      workers.start();
      EXPECT_TRUE(wire::send(pair->first.get(), {}));
      while_running(child);
      EXPECT_EQ(waitpid(child, &status, 0), child);
      {
        const std::scoped_lock lock(mutex_);
        threads_most_ = connections_.size();
      }
      auto link = KernelLink::join(connect(), 1);
      EXPECT_TRUE(link);
      EXPECT_TRUE(Service(*machine_, **link, [] {}).pass_on_closes());
      link->reset();
    }
    machine_.reset();
    connections_.clear();
    return status;
  }
  virtual void while_running(pid_t) {}

  std::vector<u32> calls() {
    const std::scoped_lock lock(mutex_);
    return calls_;
  }

  struct Flag {
    std::mutex mutex;
    std::condition_variable changed;
    bool set = false;
    void notify() {
      const std::scoped_lock lock(mutex);
      set = true;
      changed.notify_all();
    }
    void wait() {
      std::unique_lock lock(mutex);
      changed.wait(lock, [this] { return set; });
    }
  };

  std::optional<Machine> machine_;
  Flag gone_;
  usize threads_most_ = 0;

 private:
  [[noreturn]] static void become(int channel, int (*program)()) {
    const auto listener = Listener::install(build_filter({.files = true, .eventfds = true, .high_fd = 900}));
    if (!listener || !wire::send(channel, {}, {}, *listener)) _exit(99);
    close(*listener);
    char go = 0;
    if (recv(channel, &go, 1, 0) != 1) _exit(98);
    _exit(program());
  }

  wire::Channel connect() {
    auto pair = *wire::socket_pair();
    const std::scoped_lock lock(mutex_);
    connections_.emplace_back([this, socket = std::move(pair.second)] { answer_calls(socket.get()); });
    return wire::Channel(std::move(pair.first));
  }

  void answer_calls(int socket) {
    while (const auto call = wire::receive(socket)) {
      const auto op = static_cast<Call>(call->head.op);
      Reply reply{.a = 1};
      if (op != Call::Front) {
        {
          const std::scoped_lock lock(mutex_);
          calls_.push_back(call->head.op);
        }
        reply = serve(*call, Caller(socket));
        if (reply.error == Errno::Ekilled) return (void)shutdown(socket, SHUT_RDWR);
      }
      if (!wire::send(socket,
                      {.op = static_cast<u32>(Question::Result),
                       .result = static_cast<s32>(reply.error),
                       .a = reply.a,
                       .b = reply.b},
                      std::as_bytes(std::span(reply.payload)))) {
        return;
      }
    }
  }

  std::mutex mutex_;
  std::vector<u32> calls_;
  std::list<std::jthread> connections_;
};

#define IN_PROGRAM(what)          \
  do {                            \
    if (!(what)) return __LINE__; \
  } while (false)
#define EXPECT_WELL(status) EXPECT_EQ((status) >> 8, 0) << "line " << ((status) >> 8) << " of the program, modulo 256"

// --- calls that block -----------------------------------------------------------------------------------------------

class Blocking : public Supervised {
 protected:
  Reply serve(const wire::Message& call, const Caller&) override {
    if (call.head.op == static_cast<u32>(Call::Open)) return {.a = 1, .payload = "/dev/iommu"};
    if (call.head.op != static_cast<u32>(Call::Ioctl)) return {.a = call.head.b};
    // All are in the kernel at once, or nobody ever leaves it.
    std::unique_lock lock(gate_);
    ++here_;
    arrived_.notify_all();
    arrived_.wait(lock, [&] { return here_ == kCallers; });
    return {.a = call.head.b};
  }
  static constexpr u32 kCallers = 6;
  std::mutex gate_;
  std::condition_variable arrived_;
  u32 here_ = 0;
};

TEST_F(Blocking, ACallThatBlocksHoldsUpNobodyElse) {
  const int status = run([] {
    static int fd = open("/dev/iommu", O_RDWR);
    IN_PROGRAM(fd >= 0);
    static std::atomic<int> failures = 0;
    pthread_t threads[6];
    for (long n = 0; n < 6; ++n) {
      IN_PROGRAM(pthread_create(
                     &threads[n], nullptr,
                     [](void* which) -> void* {
                       const auto cmd = 0x3b8bUL + reinterpret_cast<unsigned long>(which);
                       if (ioctl(fd, cmd, nullptr) != static_cast<int>(cmd)) ++failures;
                       return nullptr;
                     },
                     reinterpret_cast<void*>(n)) == 0);
    }
    for (pthread_t thread : threads) pthread_join(thread, nullptr);
    return failures.load();
  });
  EXPECT_WELL(status);
  EXPECT_GE(threads_most_, 6U);
  EXPECT_LE(threads_most_, 8U);
}

// --- what the kernel asks -------------------------------------------------------------------------------------------

class Asking : public Supervised {
 protected:
  static constexpr u64 kHandle = 42;
  Reply serve(const wire::Message& call, const Caller& caller) override {
    switch (static_cast<Call>(call.head.op)) {
      case Call::Open: return {.a = kHandle, .payload = "/dev/iommu"};
      case Call::Close: closed_.push_back(call.head.a); return {};
      case Call::Ioctl: return asked(static_cast<u32>(call.head.b), call.head, caller);
      default: return {};
    }
  }
  Reply asked(u32 cmd, const wire::Header& head, const Caller& caller) {
    switch (cmd) {
      case 0x3b80: {  // memory: doubles the word at the argument
        u64 word = 0;
        const auto in = caller.ask(Question::CopyIn, head.c, sizeof word);
        if (!in) return {.error = in.error()};
        std::memcpy(&word, in->payload.data(), sizeof word);
        word *= 2;
        const auto out = caller.ask(Question::CopyOut, head.c, 0, 0, {reinterpret_cast<char*>(&word), sizeof word});
        return {.error = out ? Errno{} : out.error()};
      }
      case 0x3b81: {  // the descriptor in the argument
        const auto got = caller.ask(Question::Descriptor, head.c);
        if (!got) return {.error = got.error()};
        if (got->head.a != wire::kNoHandle) return {.a = got->head.a};
        const u64 one = 7;
        return {.a = write(got->fd.get(), &one, sizeof one) == sizeof one ? 1U : 2U};
      }
      case 0x3b82:    // what is mapped at the argument, for reading
      case 0x3b83: {  // and for writing
        const auto got = caller.ask(Question::Resolve, head.c, 3 * 4096, cmd == 0x3b83 ? 3 : 1);
        if (!got) return {.error = got.error()};
        const bool shared = got->head.c == static_cast<u64>(wire::Piece::Shared);
        return {.a = (shared ? got->head.a >> 12 : 100) + (got->head.b >> 12) * 1000};
      }
      case 0x3b84: {  // a new file, close-on-exec
        if (const auto may = caller.ask(Question::MayInstall); !may) return {.error = may.error()};
        const auto made = caller.ask(Question::Install, 0, 43, wire::kCloseOnExec, "anon_inode:[luo_session]");
        return made ? Reply{.a = made->head.a} : Reply{.error = made.error()};
      }
      case 0x3b85: {  // a new file although there is no room
        const auto made = caller.ask(Question::Install, 0, 44, 0, "anon_inode:[luo_session]");
        return made ? Reply{.a = made->head.a} : Reply{.error = made.error()};
      }
      default: return {.error = Errno::Enotty};
    }
  }
  std::vector<u64> closed_;
};

int fails(int error, int result) {
  return result < 0 && errno == error;
}

TEST_F(Asking, MemoryToTheByte) {
  EXPECT_WELL(run([] {
    const int fd = open("/dev/iommu", O_RDWR);
    auto* words = static_cast<u64*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    words[3] = 21;
    IN_PROGRAM(ioctl(fd, 0x3b80, &words[3]) == 0 && words[3] == 42);
    IN_PROGRAM(mprotect(words, 4096, PROT_READ) == 0);
    IN_PROGRAM(fails(EFAULT, ioctl(fd, 0x3b80, &words[3])) && words[3] == 42);
    IN_PROGRAM(munmap(words, 4096) == 0 && fails(EFAULT, ioctl(fd, 0x3b80, &words[3])));
    return 0;
  }));
}

TEST_F(Asking, Descriptors) {
  EXPECT_WELL(run([] {
    const int fd = open("/dev/iommu", O_RDWR);
    IN_PROGRAM(ioctl(fd, 0x3b81, dup(fd)) == kHandle);
    const int event = eventfd(0, EFD_NONBLOCK);
    u64 count = 0;
    IN_PROGRAM(event >= 0 && ioctl(fd, 0x3b81, event) == 1);
    IN_PROGRAM(read(event, &count, sizeof count) == sizeof count && count == 7);
    IN_PROGRAM(fails(EBADF, ioctl(fd, 0x3b81, -1)));
    IN_PROGRAM(fails(EBADF, ioctl(fd, 0x3b81, 777)));
    IN_PROGRAM(fails(EBADF, ioctl(fd, 0x3b81, open("/", O_PATH))));
    return 0;
  }));
}

TEST_F(Asking, WhatIsMapped) {
  EXPECT_WELL(run([] {
    const int fd = open("/dev/iommu", O_RDWR);
    const int memory = memfd_create("memory", 0);
    IN_PROGRAM(fd >= 0 && memory >= 0 && ftruncate(memory, 65536) == 0);
    auto* at = static_cast<char*>(mmap(nullptr, 8192, PROT_READ, MAP_SHARED, memory, 5 * 4096));
    IN_PROGRAM(ioctl(fd, 0x3b82, at) == 2005);
    IN_PROGRAM(ioctl(fd, 0x3b82, at + 4096) == 1006);
    IN_PROGRAM(fails(EFAULT, ioctl(fd, 0x3b83, at)));
    // A private one of the same file is the process's own.
    at = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, memory, 0));
    IN_PROGRAM(ioctl(fd, 0x3b83, at) % 1000 == 100);
    // Of our own files nothing can be pinned.
    at = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    IN_PROGRAM(at != MAP_FAILED && fails(EFAULT, ioctl(fd, 0x3b82, at)));
    IN_PROGRAM(munmap(at, 4096) == 0 && fails(EFAULT, ioctl(fd, 0x3b82, at)));
    return 0;
  }));
}

TEST_F(Asking, NewFiles) {
  EXPECT_WELL(run([] {
    const int fd = open("/dev/iommu", O_RDWR);
    const int made = ioctl(fd, 0x3b84, nullptr);
    IN_PROGRAM(made == fd + 1 && fcntl(made, F_GETFD) == FD_CLOEXEC);
    IN_PROGRAM(ioctl(fd, 0x3b81, made) == 43);
    const rlimit full = {static_cast<rlim_t>(made) + 1, static_cast<rlim_t>(made) + 1};
    IN_PROGRAM(setrlimit(RLIMIT_NOFILE, &full) == 0);
    IN_PROGRAM(fails(EMFILE, ioctl(fd, 0x3b84, nullptr)));
    IN_PROGRAM(fails(EMFILE, ioctl(fd, 0x3b85, nullptr)));
    return 0;
  }));
  // What came to nobody is not closed.
  EXPECT_THAT(closed_, testing::UnorderedElementsAre(42, 43));
}

// --- the order of things --------------------------------------------------------------------------------------------

class Ordered : public Supervised {
 protected:
  Reply serve(const wire::Message& call, const Caller&) override {
    if (call.head.op == static_cast<u32>(Call::Open)) return {.a = ++handles_, .payload = "/dev/liveupdate"};
    if (call.head.op == static_cast<u32>(Call::TaskMemory)) return {.a = 5, .b = 3};
    return {};
  }
  u64 handles_ = 0;
};

TEST_F(Ordered, AClosePrecedesWhateverComesLater) {
  EXPECT_WELL(run([] {
    const int first = open("/dev/liveupdate", O_RDWR);
    const int second = open("/dev/liveupdate", O_RDWR);
    IN_PROGRAM(first >= 0 && second >= 0 && close(first) == 0);
    IN_PROGRAM(ioctl(second, 0xba00, nullptr) == 0);
    return 0;
  }));
  const auto number = [](Call c) { return static_cast<u32>(c); };
  const std::vector<u32> all = calls();
  ASSERT_GE(all.size(), 4U);
  EXPECT_THAT(std::vector<u32>(all.begin(), all.begin() + 4),
              testing::ElementsAre(number(Call::Open), number(Call::Open), number(Call::Close), number(Call::Ioctl)));
  // The end of the program closes the other one, and is told.
  EXPECT_EQ(std::count(all.begin(), all.end(), number(Call::Close)), 2);
  EXPECT_EQ(std::count(all.begin(), all.end(), number(Call::TaskExit)), 1);
}

TEST_F(Ordered, ProcShowsWhatIsPinned) {
  EXPECT_WELL(run([] {
    char text[4096] = {};
    const int fd = open("/proc/self/status", O_RDONLY);
    IN_PROGRAM(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    IN_PROGRAM(std::strstr(text, "\nVmPin:\t      20 kB\n") && std::strstr(text, "\nVmLck:\t      12 kB\n"));
    IN_PROGRAM(std::strstr(text, "\nPid:"));
    return 0;
  }));
}

// --- the kernel goes ------------------------------------------------------------------------------------------------

class Going : public Supervised {
 protected:
  Reply serve(const wire::Message& call, const Caller&) override {
    if (call.head.op == static_cast<u32>(Call::Open)) return {.a = 1, .payload = "/dev/iommu"};
    return {.error = call.head.op == static_cast<u32>(Call::Ioctl) ? Errno::Ekilled : Errno{}};
  }
  void while_running(pid_t child) override {
    gone_.wait();
    // Its call is never answered: nothing but its end is left to it.
    kill(child, SIGKILL);
  }
};

TEST_F(Going, NobodyIsToldAnythingByAKernelThatIsGone) {
  const int status = run([] {
    const int fd = open("/dev/iommu", O_RDWR);
    ioctl(fd, 0x3b81, nullptr);
    return 1;
  });
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

}  // namespace
}  // namespace perdure::intercept
