// Programs are forked children here; their registers are an array behind a fake bus.
#include "machine/intercept/trap/tracer.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>

#include "machine/intercept/trap/mappings.h"
#include "machine/intercept/trap/proc_status.h"

namespace perdure::intercept {
namespace {

constexpr u64 kRegion = u64{1} << 61;
constexpr usize kBytes = 0x2000;

// What devices do that memory does not: a counter that steps at each read, a word of write-one-to-clear bits, an
// address that does not answer.
struct Device {
  static constexpr u64 kCounter = 0x20;
  static constexpr u64 kClearing = 0x28;
  static constexpr u64 kDead = 0x1000;

  std::mutex mutex;
  u64 device = 0;
  u64 inode = 0;
  std::vector<std::byte> bytes = std::vector<std::byte>(kBytes);
  u64 counter = 0;
  std::vector<unsigned> widths;
};

class Bus final : public RegisterBus {
 public:
  explicit Bus(Device& device) : device_(device) {}
  bool ours(u64 device, u64 inode) override { return device == device_.device && inode == device_.inode; }
  Result<u64> read(u64, u64, u64 position, unsigned bytes) override {
    const std::scoped_lock lock(device_.mutex);
    const u64 at = position - kRegion;
    EXPECT_EQ(at % bytes, 0U);
    if (at >= Device::kDead) return fail(Errno::Eio);
    device_.widths.push_back(bytes);
    if (at == Device::kCounter) return ++device_.counter;
    u64 value = 0;
    std::memcpy(&value, device_.bytes.data() + at, bytes);
    return value;
  }
  Result<void> write(u64, u64, u64 position, unsigned bytes, u64 value) override {
    const std::scoped_lock lock(device_.mutex);
    const u64 at = position - kRegion;
    EXPECT_EQ(at % bytes, 0U);
    if (at >= Device::kDead) return fail(Errno::Eio);
    device_.widths.push_back(bytes);
    if (at == Device::kClearing) {
      u64 old = 0;
      std::memcpy(&old, device_.bytes.data() + at, bytes);
      value = old & ~value;
    }
    std::memcpy(device_.bytes.data() + at, &value, bytes);
    return {};
  }

 private:
  Device& device_;
};

// What the children share with the test besides.
struct Shared {
  std::atomic<int> step;
  std::atomic<u64> value[8];
};

class Traced : public testing::Test {
 protected:
  Traced() {
    if (!Tracer::possible()) return;
    file_ = memfd_create("device", MFD_CLOEXEC);
    struct stat found = {};
    EXPECT_EQ(fstat(file_, &found), 0);
    device_.device = found.st_dev;
    device_.inode = found.st_ino;
    shared_ =
        static_cast<Shared*>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(static_cast<void*>(shared_), MAP_FAILED);
  }
  ~Traced() override {
    for (const pid_t child : children_) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
    tracer_.reset();
    close(file_);
  }
  void SetUp() override {
    if (!Tracer::possible()) GTEST_SKIP() << "this host lets nobody trace";
  }

  static volatile u8* map(int file, int protection = PROT_READ | PROT_WRITE) {
    void* at = mmap(nullptr, kBytes, protection, MAP_SHARED, file, static_cast<off_t>(kRegion));
    if (at == MAP_FAILED) _exit(99);
    return static_cast<volatile u8*>(at);
  }
  template <class T>
  static volatile T& at(volatile u8* base, u64 offset) {
    return *reinterpret_cast<volatile T*>(base + offset);
  }

  // A child that waits until it is followed, and then is `body`.
  template <class Body>
  pid_t program(Body body) {
    shared_->step = 0;
    const pid_t child = fork();
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      while (shared_->step == 0) sched_yield();
      _exit(body());
    }
    children_.push_back(child);
    return child;
  }
  void go() { shared_->step = 1; }
  // Waits for it by whichever way its end is told.
  int end_of(pid_t child) {
    std::erase(children_, child);
    const int fd = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
    EXPECT_GE(fd, 0);
    pollfd p = {fd, POLLIN, 0};
    EXPECT_EQ(poll(&p, 1, 20'000), 1) << "it hangs";
    close(fd);
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) return status;
    std::unique_lock lock(ended_mutex_);
    EXPECT_TRUE(ended_changed_.wait_for(lock, std::chrono::seconds(20), [&] { return ended_.contains(child); }));
    return ended_.contains(child) ? ended_[child] : -1;
  }
  template <class Body>
  int run(Body body) {
    const pid_t child = program(body);
    EXPECT_TRUE(tracer_->follow(child));
    go();
    return end_of(child);
  }
  u64 word(u64 offset) {
    u64 value = 0;
    std::memcpy(&value, device_.bytes.data() + offset, sizeof value);
    return value;
  }

  int file_ = -1;
  Device device_;
  Shared* shared_ = nullptr;
  std::vector<std::string> log_;
  std::vector<pid_t> children_;
  std::mutex ended_mutex_;
  std::condition_variable ended_changed_;
  std::map<pid_t, int> ended_;
  std::unique_ptr<Tracer> tracer_ = std::make_unique<Tracer>(
      [this]() -> Result<std::unique_ptr<RegisterBus>> { return std::make_unique<Bus>(device_); },
      [this](const std::string& line) { log_.push_back(line); },
      [this](pid_t process, int status) {
        const std::scoped_lock lock(ended_mutex_);
        ended_[process] = status;
        ended_changed_.notify_all();
      });
};

// In the child: how a signal came.
siginfo_t g_signal;
sigjmp_buf g_back;
void note(int, siginfo_t* info, void*) {
  g_signal = *info;
  siglongjmp(g_back, 1);
}
void catch_signal(int signal) {
  struct sigaction action = {};
  action.sa_sigaction = note;
  action.sa_flags = SA_SIGINFO;
  sigaction(signal, &action, nullptr);
}

TEST_F(Traced, LoadsAndStoresOfEachWidth) {
  const int status = run([this] {
    volatile u8* base = map(file_);
    at<u8>(base, 0) = 0x11;
    at<u16>(base, 2) = 0x2233;
    at<u32>(base, 4) = 0x44556677;
    at<u64>(base, 8) = 0x8899AABBCCDDEEFF;
    if (at<u32>(base, 4) != 0x44556677 || at<u8>(base, 8) != 0xFF || at<u16>(base, 2) != 0x2233) return 1;
    if (at<u64>(base, Device::kCounter) != 1 || at<u32>(base, Device::kCounter) != 2) return 2;
    at<u32>(base, Device::kClearing) = 0;
    at<u64>(base, 0x30) = at<u64>(base, 0x30) | 0xF0;
    return at<u64>(base, 0x30) == 0xF0 ? 0 : 3;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(word(0), 0x4455'6677'2233'0011U);
  EXPECT_EQ(word(8), 0x8899'AABB'CCDD'EEFFU);
  EXPECT_EQ(std::vector<unsigned>(device_.widths.begin(), device_.widths.begin() + 4),
            (std::vector<unsigned>{1, 2, 4, 8}));
}

TEST_F(Traced, VectorsAndStrings) {
  for (usize i = 0; i < 64; ++i) device_.bytes[i + 0x40] = static_cast<std::byte>(i + 1);
  const int status = run([this] {
    volatile u8* base = map(file_);
    alignas(64) u8 copy[64];
    void* to = copy;
    const volatile u8* from = base + 0x40;
    usize count = sizeof copy;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    if (count != 0 || copy[63] != 64) return 1;
    __asm__ volatile("movups (%0), %%xmm3; movups %%xmm3, (%1)"
                     :
                     : "r"(base + 0x44), "r"(base + 0x100)
                     : "xmm3", "memory");
    return at<u8>(base, 0x10F) == 0x14 ? 0 : 2;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(word(0x100), 0x0C0B'0A09'0807'0605U);
}

TEST_F(Traced, ThreadsOfBeforeAndAfter) {
  constexpr unsigned kRounds = 200;
  struct Work {
    Traced* test;
    std::atomic<bool> started = false;
    std::atomic<bool> mapped = false;
    volatile u8* base = nullptr;
    u64 slot = 0;
    std::atomic<int> errors = 0;
    static void* main(void* argument) {
      auto& work = *static_cast<Work*>(argument);
      work.started = true;
      while (!work.mapped) sched_yield();
      for (unsigned i = 0; i < kRounds; ++i) {
        at<u64>(work.base, work.slot) = i;
        if (at<u64>(work.base, work.slot) != i) ++work.errors;
      }
      return nullptr;
    }
  };
  const pid_t child = program([this] {
    // A thread that was there before anybody traced: the step goes 1 (start), 2 (it runs), 3 (followed).
    static Work before;
    static Work after;
    pthread_t first{};
    pthread_t second{};
    if (pthread_create(&first, nullptr, Work::main, &before) != 0) return 1;
    while (!before.started) sched_yield();
    shared_->step = 2;
    while (shared_->step != 3) sched_yield();
    before.base = after.base = map(file_);
    before.slot = 0x80;
    after.slot = 0x88;
    before.mapped = after.mapped = true;
    if (pthread_create(&second, nullptr, Work::main, &after) != 0) return 2;
    pthread_join(first, nullptr);
    pthread_join(second, nullptr);
    return before.errors + after.errors;
  });
  go();
  while (shared_->step != 2) sched_yield();
  EXPECT_TRUE(tracer_->follow(child));
  EXPECT_TRUE(tracer_->follow(child));  // a second mapping
  shared_->step = 3;
  EXPECT_EQ(end_of(child), 0);
  EXPECT_EQ(word(0x80), kRounds - 1);
  EXPECT_EQ(word(0x88), kRounds - 1);
}

TEST_F(Traced, ForkedChildrenGoOn) {
  const int status = run([this] {
    volatile u8* base = map(file_);
    const pid_t child = fork();
    if (child == 0) {
      at<u32>(base, 0x90) = 5;
      _exit(at<u32>(base, 0x90) == 5 ? 7 : 1);
    }
    int end = 0;
    if (waitpid(child, &end, 0) != child) return 1;
    return WIFEXITED(end) && WEXITSTATUS(end) == 7 ? 0 : 2;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(word(0x90), 5U);
}

// Then it may be debugged again.
TEST_F(Traced, NotBeyondExec) {
  const pid_t child = program([] {
    execl("/bin/sleep", "sleep", "1000", static_cast<char*>(nullptr));
    return 1;
  });
  ASSERT_TRUE(tracer_->follow(child));
  EXPECT_NE(tracer_of(child), 0);
  EXPECT_FALSE(tracer_->while_idle([] {}));
  EXPECT_FALSE(*tracer_->traced_by_others(child));
  go();
  while (tracer_of(child).value_or(0) != 0) sched_yield();
  EXPECT_EQ(proc_status(child, "Name"), "sleep");
  tracer_->wait_idle(std::chrono::seconds(20));
  EXPECT_TRUE(tracer_->while_idle([] {}));
  kill(child, SIGKILL);
  EXPECT_EQ(end_of(child), SIGKILL);
  EXPECT_TRUE(ended_.empty());  // its end was told to its parent
}

TEST_F(Traced, NobodyElsesTracee) {
  const pid_t child = program([] { return 0; });
  ASSERT_EQ(ptrace(PTRACE_SEIZE, child, nullptr, nullptr), 0);
  EXPECT_TRUE(*tracer_->traced_by_others(child));
  EXPECT_EQ(tracer_->follow(child).error(), Errno::Ebusy);
  kill(child, SIGKILL);
  EXPECT_EQ(end_of(child), SIGKILL);
  EXPECT_EQ(tracer_->follow(child).error(), Errno::Esrch);
}

TEST_F(Traced, SignalsOfItsOwnArePassedOn) {
  const int status = run([this] {
    // Memory of a file that became shorter.
    const int other = memfd_create("other", 0);
    if (ftruncate(other, 0x1000) != 0) return 1;
    auto* gone = static_cast<volatile u8*>(mmap(nullptr, 0x2000, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0));
    catch_signal(SIGBUS);
    catch_signal(SIGSEGV);
    if (sigsetjmp(g_back, 1) == 0) {
      static_cast<void>(gone[0x1234]);
      return 2;
    }
    if (g_signal.si_signo != SIGBUS || g_signal.si_addr != &gone[0x1234] || g_signal.si_code != BUS_ADRERR) return 3;
    // Nothing mapped.
    munmap(const_cast<u8*>(gone), 0x2000);
    if (sigsetjmp(g_back, 1) == 0) {
      gone[4] = 1;
      return 4;
    }
    if (g_signal.si_signo != SIGSEGV || g_signal.si_addr != &gone[4] || g_signal.si_code != SEGV_MAPERR) return 5;
    // Sent.
    if (sigsetjmp(g_back, 1) == 0) {
      kill(getpid(), SIGBUS);
      return 6;
    }
    if (g_signal.si_signo != SIGBUS || g_signal.si_pid != getpid() || g_signal.si_code != SI_USER) return 7;
    // Stores to a mapping for reading.
    volatile u8* readable = map(file_, PROT_READ);
    if (sigsetjmp(g_back, 1) == 0) {
      readable[0] = 1;
      return 8;
    }
    if (g_signal.si_signo != SIGSEGV || g_signal.si_code != SEGV_ACCERR) return 9;
    return readable[0] == 0 ? 0 : 10;
  });
  EXPECT_EQ(status, 0);
}

TEST_F(Traced, WhatDoesNotAnswerIsABusError) {
  const int status = run([this] {
    volatile u8* base = map(file_);
    catch_signal(SIGBUS);
    if (sigsetjmp(g_back, 1) == 0) {
      const u32 value = at<u32>(base, Device::kDead + 8);
      static_cast<void>(value);
      return 1;
    }
    if (g_signal.si_addr != base + Device::kDead + 8 || g_signal.si_code != BUS_ADRERR) return 2;
    at<u32>(base, 0) = 3;  // and goes on as before
    return at<u32>(base, 0) == 3 ? 0 : 3;
  });
  EXPECT_EQ(status, 0);
}

TEST_F(Traced, OtherInstructionsAreABusErrorAndNamed) {
  const int status = run([this] {
    signal(SIGBUS, SIG_DFL);  // sanitizers have a handler
    volatile u8* base = map(file_);
    __asm__ volatile("pand 0x40(%0), %%xmm0" : : "r"(base) : "xmm0");
    return 0;
  });
  EXPECT_EQ(WTERMSIG(status), SIGBUS);
  ASSERT_EQ(log_.size(), 1U);
  EXPECT_NE(log_[0].find("pand xmm0, ["), std::string::npos) << log_[0];
}

// The load from the register has happened, the store to memory has not.
TEST_F(Traced, CopiesToBadMemoryFaultThere) {
  const int status = run([this] {
    volatile u8* base = map(file_);
    u8* bad = static_cast<u8*>(mmap(nullptr, 0x2000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    munmap(bad + 0x1000, 0x1000);
    catch_signal(SIGSEGV);
    void* volatile to = bad + 0xFFC;
    if (sigsetjmp(g_back, 1) == 0) {
      void* d = to;
      const volatile u8* s = base;
      usize count = 8;
      __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(count) : : "memory");
      return 1;
    }
    return g_signal.si_signo == SIGSEGV && g_signal.si_addr == bad + 0x1000 ? 0 : 2;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(device_.widths.size(), 5U);
}

TEST_F(Traced, StopsAndGoesOnAsItIsTold) {
  const pid_t child = program([this] {
    volatile u8* base = map(file_);
    while (shared_->step != 2) at<u32>(base, 0xA0) = at<u32>(base, 0xA0) + 1;
    return 0;
  });
  ASSERT_TRUE(tracer_->follow(child));
  go();
  kill(child, SIGSTOP);
  // In a group stop a tracee that is listened to is "t (tracing stop)", as for any other debugger.
  const auto stopped = [&] { return proc_status(child, "State").value_or("").starts_with('t'); };
  while (!stopped()) sched_yield();
  kill(child, SIGCONT);
  shared_->step = 2;
  EXPECT_EQ(end_of(child), 0);
}

TEST_F(Traced, EndsAreTold) {
  EXPECT_EQ(WEXITSTATUS(run([] { return 42; })), 42);
  EXPECT_EQ(WTERMSIG(run([] { return kill(getpid(), SIGTERM); })), SIGTERM);
  EXPECT_TRUE(ended_.empty());  // to the parent, not to who traced them
  EXPECT_EQ(WTERMSIG(run([] { return kill(getpid(), SIGKILL); })), SIGKILL);
}

// A test harness waits so: for the pidfd, and then without waiting.
TEST_F(Traced, AParentFindsTheEndOnceAPidfdTellsOfIt) {
  const int status = run([] {
    for (int i = 0; i < 200; ++i) {
      const pid_t child = fork();
      if (child == 0) _exit(7);
      pollfd p = {static_cast<int>(syscall(SYS_pidfd_open, child, 0)), POLLIN, 0};
      if (poll(&p, 1, 20'000) != 1) return 1;
      int end = 0;
      if (waitpid(child, &end, WNOHANG) != child || WEXITSTATUS(end) != 7) return 2;
      close(p.fd);
    }
    return 0;
  });
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_TRUE(WIFEXITED(status));
}

TEST(MappingsOfThisProcess, AreFoundByAddress) {
  const int file = memfd_create("file", MFD_CLOEXEC);
  void* at = mmap(nullptr, 0x3000, PROT_READ, MAP_SHARED, file, 0x5000);
  ASSERT_NE(at, MAP_FAILED);
  ASSERT_EQ(munmap(static_cast<u8*>(at) + 0x2000, 0x1000), 0);
  struct stat found = {};
  ASSERT_EQ(fstat(file, &found), 0);
  const u64 start = reinterpret_cast<u64>(at);
  for (const bool query : {true, false}) {
    Mappings mappings(gettid(), query);
    const auto m = mappings.at(start + 0x1FFF);
    ASSERT_TRUE(m);
    EXPECT_EQ(m->offset + (start - m->start), 0x5000U);
    EXPECT_EQ(m->end, start + 0x2000);
    EXPECT_EQ(m->inode, found.st_ino);
    EXPECT_EQ(m->device, found.st_dev);
    EXPECT_TRUE(m->readable);
    EXPECT_FALSE(m->writable);
    EXPECT_TRUE(m->shared);
    EXPECT_EQ(mappings.at(start + 0x2000).error(), Errno::Efault);
    EXPECT_EQ(mappings.at(0).error(), Errno::Efault);
  }
  munmap(at, 0x2000);
  close(file);
}

}  // namespace
}  // namespace perdure::intercept
