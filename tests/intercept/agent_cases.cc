// What a library in the program has to stand: these run with it, and without it to see that they ask for what Linux
// does.
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <atomic>
#include <climits>
#include <string>
#include <thread>
#include <utility>

#include "tests/intercept/probe.h"

namespace probe {
namespace {

constexpr char kIommu[] = "/dev/iommu";
constexpr char kFunctions[] = "/sys/bus/pci/devices";

bool ended_well(pid_t child) {
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// The first PCI function that the machine has.
std::string function() {
  std::string name;
  DIR* const all = opendir(kFunctions);
  if (all == nullptr) return name;
  while (const dirent* one = readdir(all)) {
    if (one->d_name[0] != '.') name = one->d_name;
  }
  closedir(all);
  return name;
}

PROBE_CASE(all_descriptors_closed) {
  int fd = open(kIommu, O_RDWR);
  EXPECT(fd >= 0 && alloc_ioas(fd));
  EXPECT(syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0) == 0);
  fd = open(kIommu, O_RDWR);
  EXPECT(fd == STDERR_FILENO + 1 && alloc_ioas(fd));
  return 0;
}

// Whatever stood at a number, what stands there now is the program's.
PROBE_CASE(all_descriptors_replaced) {
  const int fd = open(kIommu, O_RDWR);
  int ends[2];
  EXPECT(fd >= 0 && alloc_ioas(fd) && pipe(ends) == 0);
  rlimit limit = {};
  EXPECT(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const int last = static_cast<int>(limit.rlim_cur < 65536 ? limit.rlim_cur : 65536);
  for (int number = ends[1] + 1; number < last; ++number) {
    if (fcntl(number, F_GETFD) >= 0) EXPECT(dup2(ends[1], number) == number);
  }
  EXPECT(alloc_ioas(fd) && access(kIommu, R_OK) == 0);
  pollfd written = {ends[0], POLLIN, 0};
  EXPECT(poll(&written, 1, 0) == 0);
  return 0;
}

PROBE_CASE(forks_while_threads_call) {
  const int fd = open(kIommu, O_RDWR);
  EXPECT(fd >= 0);
  std::atomic<bool> over{false};
  std::atomic<int> failed{0};
  std::thread callers[3];
  for (std::thread& caller : callers) {
    caller = std::thread([&] {
      while (!over) failed += alloc_ioas(fd) ? 0 : 1;
    });
  }
  bool well = true;
  for (int i = 0; i < 25 && well; ++i) {
    const pid_t child = fork();
    if (child == 0) _exit(alloc_ioas(fd) && close(open(kIommu, O_RDWR)) == 0 ? 0 : 1);
    well = ended_well(child);
  }
  over = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT(well && failed == 0);
  return 0;
}

PROBE_CASE(opens_after_vfork) {
  const int fd = open(kIommu, O_RDWR);
  EXPECT(fd >= 0);
  for (int i = 0; i < 5; ++i) {
    const pid_t child = vfork();
    if (child == 0) {
      // It has the parent's memory, and descriptors of its own.
      const int own = open(kIommu, O_RDWR);
      _exit(alloc_ioas(fd) && own == fd + 1 && alloc_ioas(own) ? 0 : 1);
    }
    EXPECT(ended_well(child));
    EXPECT(alloc_ioas(fd));
    const int next = open(kIommu, O_RDWR);
    EXPECT(next == fd + 1 && close(next) == 0);
  }
  return 0;
}

int in_handler = -1;
std::atomic<int> handled{0};
std::atomic<int> handled_badly{0};

// A call is made, or interrupted before anybody took it up; nothing else.
bool allocates_or_is_interrupted(int fd) {
  return alloc_ioas(fd) || errno == EINTR;
}

PROBE_CASE(signal_handlers_call) {
  in_handler = open(kIommu, O_RDWR);
  const int fd = open(kIommu, O_RDWR);
  EXPECT(in_handler >= 0 && fd >= 0);
  struct sigaction action = {};
  action.sa_handler = [](int) {
    const int before = errno;
    handled_badly += allocates_or_is_interrupted(in_handler) ? 0 : 1;
    ++handled;
    errno = before;
  };
  EXPECT(sigaction(SIGALRM, &action, nullptr) == 0);
  const itimerval often = {{0, 2000}, {0, 2000}};
  EXPECT(setitimer(ITIMER_REAL, &often, nullptr) == 0);
  int failed = 0;
  for (int i = 0; i < 2000 || handled < 20; ++i) failed += allocates_or_is_interrupted(fd) ? 0 : 1;
  const itimerval never = {};
  EXPECT(setitimer(ITIMER_REAL, &never, nullptr) == 0);
  EXPECT(failed == 0 && handled_badly == 0);
  return 0;
}

// The C library makes these of system calls that nobody else sees.
PROBE_CASE(library_functions) {
  const std::string name = function();
  EXPECT(!name.empty());
  const std::string link = std::string(kFunctions) + "/" + name;
  char real[PATH_MAX];
  EXPECT(realpath(link.c_str(), real) == real);
  EXPECT(std::string(real).ends_with("/" + name) && std::string(real).starts_with("/sys/devices/"));
  EXPECT(realpath((link + "/../" + name + "/./vendor").c_str(), real) != nullptr);
  EXPECT(realpath((link + "/nonesuch").c_str(), real) == nullptr && errno == ENOENT);
  std::FILE* const vendor = std::fopen((link + "/vendor").c_str(), "r");
  EXPECT(vendor != nullptr);
  unsigned number = 0;
  EXPECT(std::fscanf(vendor, "%x", &number) == 1 && number != 0 && std::fclose(vendor) == 0);
  EXPECT(std::fopen((link + "/nonesuch").c_str(), "r") == nullptr && errno == ENOENT);
  struct stat st = {};
  EXPECT(stat(kIommu, &st) == 0 && S_ISCHR(st.st_mode));
  const int fd = static_cast<int>(syscall(SYS_openat, AT_FDCWD, kIommu, O_RDWR));
  EXPECT(fd >= 0 && alloc_ioas(fd));
  EXPECT(fstat(fd, &st) == 0 && S_ISCHR(st.st_mode));
  FAILS(ENOSYS, syscall(SYS_io_uring_setup, 1, nullptr));
  return 0;
}

PROBE_CASE(no_number_is_free) {
  const int fd = open(kIommu, O_RDWR);
  EXPECT(fd >= 0 && alloc_ioas(fd));
  rlimit limit = {};
  EXPECT(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlim_t before = std::exchange(limit.rlim_cur, static_cast<rlim_t>(fd) + 1);
  EXPECT(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  FAILS(EMFILE, open(kIommu, O_RDWR));
  EXPECT(alloc_ioas(fd));
  limit.rlim_cur = before;
  EXPECT(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  EXPECT(open(kIommu, O_RDWR) == fd + 1);
  return 0;
}

}  // namespace
}  // namespace probe
