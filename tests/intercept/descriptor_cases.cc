// What happens to descriptors: copies, passing on, exec, ends of programs. /dev/liveupdate is open to one at a time,
// which shows when its last descriptor is gone.
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tests/intercept/probe.h"

extern char** environ;

namespace probe {
namespace {

// Files that the machine can do nothing with are open files all the same.
PROBE_CASE(files_of_others) {
  const int device = open("/dev/liveupdate", O_RDWR);
  EXPECT(device >= 0);
  const int s = session(device, kCreateSession, "others");
  int ends[2];
  EXPECT(s >= 0 && pipe(ends) == 0);
  const int memory = memfd_create("memory", 0);
  const std::string name = "/proc/self/fd/" + std::to_string(memory);
  const int path = open(name.c_str(), O_PATH);
  const int null = open("/dev/null", O_RDWR);
  EXPECT(memory >= 0 && path >= 0 && null >= 0);
  for (const int fd : {null, ends[0], ends[1]}) {
    PreserveFd preserve{.fd = fd, .token = 1};
    FAILS(ENOENT, ioctl(s, kPreserveFd, &preserve));
  }
  EXPECT(close(null) == 0);
  for (const int fd : {null, path, -1}) {
    PreserveFd preserve{.fd = fd, .token = 1};
    FAILS(EBADF, ioctl(s, kPreserveFd, &preserve));
  }
  PreserveFd preserve{.fd = memory, .token = 1};
  EXPECT(ioctl(s, kPreserveFd, &preserve) == 0);
  return 0;
}

constexpr char kNode[] = "/dev/liveupdate";

bool is_free() {
  const int fd = open(kNode, O_RDWR);
  if (fd >= 0) close(fd);
  return fd >= 0;
}
bool is_held() {
  return open(kNode, O_RDWR) < 0 && errno == EBUSY;
}
bool ended_well(pid_t child) {
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

PROBE_CASE(duplicates) {
  const int fd = open(kNode, O_RDWR | O_CLOEXEC);
  EXPECT(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
  const int second = dup(fd);
  EXPECT(second >= 0 && fcntl(second, F_GETFD) == 0);
  const int third = fcntl(fd, F_DUPFD, 500);
  EXPECT(third >= 500);
  EXPECT(session(third, kCreateSession, "by the third") >= 0);
  EXPECT(close(fd) == 0 && is_held());
  EXPECT(close(second) == 0 && is_held());
  EXPECT(dup2(STDIN_FILENO, third) == third);
  EXPECT(is_free());
  return 0;
}

PROBE_CASE(sessions_close_on_exec) {
  const int fd = open(kNode, O_RDWR);
  EXPECT(fd >= 0 && fcntl(fd, F_GETFD) == 0);
  const int s = session(fd, kCreateSession, "a");
  EXPECT(s >= 0 && fcntl(s, F_GETFD) == FD_CLOEXEC);
  // The lowest number that is free, as ever.
  EXPECT(s == fd + 1);
  return 0;
}

// Another program in this process: it has what was not to be closed, and only that.
PROBE_CASE(exec) {
  for (const bool keeps : {true, false}) {
    const pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
      const int fd = open(kNode, keeps ? O_RDWR : O_RDWR | O_CLOEXEC);
      char number[16];
      std::snprintf(number, sizeof number, "%d", fd);
      execl("/proc/self/exe", "probe", keeps ? "exec_kept" : "exec_lost", number, nullptr);
      _exit(1);
    }
    EXPECT(ended_well(child));
    EXPECT(is_free());
  }
  return 0;
}
PROBE_CASE(exec_kept) {
  EXPECT(argc == 1 && is_held());
  EXPECT(session(atoi(argv[0]), kCreateSession, "after exec") >= 0);
  return 0;
}
PROBE_CASE(exec_lost) {
  EXPECT(argc == 1 && is_free());
  return 0;
}

PROBE_CASE(spawn) {
  char* arguments[] = {const_cast<char*>("probe"), const_cast<char*>("alloc"), nullptr};
  pid_t child = 0;
  EXPECT(posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, arguments, environ) == 0);
  EXPECT(ended_well(child));
  return 0;
}

PROBE_CASE(fork_holds) {
  const int fd = open(kNode, O_RDWR);
  EXPECT(fd >= 0);
  int go[2];
  EXPECT(pipe(go) == 0);
  const pid_t child = fork();
  EXPECT(child >= 0);
  if (child == 0) {
    char one = 0;
    close(go[1]);
    if (read(go[0], &one, 1) != 0) _exit(1);
    _exit(session(fd, kCreateSession, "the child's") >= 0 ? 0 : 1);
  }
  EXPECT(close(fd) == 0 && is_held());
  EXPECT(close(go[1]) == 0);
  EXPECT(ended_well(child));
  EXPECT(is_free());
  return 0;
}

bool pass(int socket, int fd) {
  char byte = 0;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  return sendmsg(socket, &message, 0) == 1;
}
int passed(int socket) {
  char byte = 0;
  iovec data = {&byte, 1};
  int fd = -1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (recvmsg(socket, &message, 0) != 1) return -1;
  if (const cmsghdr* rights = CMSG_FIRSTHDR(&message)) std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
  return fd;
}

PROBE_CASE(passed_on) {
  int ends[2];
  EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  const pid_t child = fork();
  EXPECT(child >= 0);
  if (child == 0) {
    close(ends[0]);
    const int fd = passed(ends[1]);
    _exit(fd >= 0 && is_held() && session(fd, kCreateSession, "by who got it") >= 0 ? 0 : 1);
  }
  const int fd = open(kNode, O_RDWR);
  EXPECT(fd >= 0);
  EXPECT(pass(ends[0], fd));
  EXPECT(close(fd) == 0);
  EXPECT(ended_well(child));
  EXPECT(is_free());
  // On its way it is held, and gone with the socket.
  const int again = open(kNode, O_RDWR);
  int both[2];
  EXPECT(again >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, both) == 0);
  EXPECT(pass(both[0], again) && close(again) == 0);
  EXPECT(is_held());
  EXPECT(close(both[0]) == 0 && close(both[1]) == 0);
  EXPECT(is_free());
  return 0;
}

// Whatever a program is doing when it is killed: its descriptors are gone when its parent hears of it.
PROBE_CASE(killed) {
  for (int round = 0; round < 5; ++round) {
    int ready[2];
    EXPECT(pipe(ready) == 0);
    const pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
      const int fd = open(kNode, O_RDWR);
      const int context = open("/dev/iommu", O_RDWR);
      if (fd < 0 || context < 0) _exit(1);
      std::vector<std::thread> threads;
      for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
          for (;;) alloc_ioas(context);
        });
      }
      char one = 1;
      if (write(ready[1], &one, 1) != 1) _exit(1);
      for (;;) pause();
    }
    char one = 0;
    EXPECT(read(ready[0], &one, 1) == 1);
    EXPECT(is_held());
    EXPECT(kill(child, SIGKILL) == 0);
    int status = 0;
    EXPECT(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    EXPECT(is_free());
    close(ready[0]);
    close(ready[1]);
  }
  return 0;
}

PROBE_CASE(threads) {
  std::atomic<int> failures = 0;
  {
    std::vector<std::thread> threads;
    for (int n = 0; n < 16; ++n) {
      threads.emplace_back([&] {
        for (int i = 0; i < 30; ++i) {
          const int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
          if (fd < 0 || !alloc_ioas(fd) || close(fd) != 0) ++failures;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  EXPECT(failures == 0);
  return 0;
}

// A signal waits until a call that was taken up is answered, and restarts one that was not: each is done once. (Without
// SA_RESTART a call that nobody has taken up yet comes back with EINTR: docs/run.md.)
PROBE_CASE(signals) {
  static volatile int rings;
  struct sigaction ring = {};
  ring.sa_handler = [](int) { rings = rings + 1; };
  ring.sa_flags = SA_RESTART;
  EXPECT(sigaction(SIGALRM, &ring, nullptr) == 0);
  const itimerval often = {{0, 500}, {0, 500}};
  EXPECT(setitimer(ITIMER_REAL, &often, nullptr) == 0);
  const int fd = open("/dev/iommu", O_RDWR);
  EXPECT(fd >= 0);
  uint32_t last = 0;
  for (int i = 0; i < 300 || rings < 3; ++i) {
    IoasAlloc alloc;
    EXPECT(ioctl(fd, kIoasAlloc, &alloc) == 0);
    EXPECT(last == 0 || alloc.out_ioas_id == last + 1);
    last = alloc.out_ioas_id;
  }
  return 0;
}

PROBE_CASE(limits) {
  const int device = open(kNode, O_RDWR);
  EXPECT(device >= 0);
  const rlimit few = {static_cast<rlim_t>(device) + 1, static_cast<rlim_t>(device) + 1};
  EXPECT(setrlimit(RLIMIT_NOFILE, &few) == 0);
  FAILS(EMFILE, open("/dev/iommu", O_RDWR));
  FAILS(EMFILE, session(device, kCreateSession, "one too many"));
  EXPECT(close(device) == 0 && is_free());
  return 0;
}

}  // namespace
}  // namespace probe
