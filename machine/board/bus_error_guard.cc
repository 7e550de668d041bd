#include "machine/board/bus_error_guard.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <csignal>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <stdexcept>

namespace perdure::board {
namespace {

struct Range {
  std::atomic<u64> start{0};
  std::atomic<u64> bytes{0};  // 0: free
  std::atomic<u64> count{0};
};

Range ranges[BusErrorGuard::kMaxRanges];
struct sigaction previous;
std::mutex registration;
bool installed = false;

// Async-signal-safe: atomics and one raw system call (a sanitizer's mmap may take locks).
bool replace_page(u64 address) {
  for (Range& r : ranges) {
    const u64 bytes = r.bytes.load(std::memory_order_acquire);
    const u64 start = r.start.load(std::memory_order_relaxed);
    if (bytes == 0 || address < start || address - start >= bytes) continue;
    const int saved = errno;
    const long at = syscall(SYS_mmap, address & ~(kPageSize - 1), kPageSize, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    errno = saved;
    if (at == -1) return false;
    r.count.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  return false;
}

void on_sigbus(int signal, siginfo_t* info, void* context) {
  // Only accesses beyond the end of a file; a machine check must not be papered over.
  if (info->si_code == BUS_ADRERR && replace_page(reinterpret_cast<u64>(info->si_addr))) return;
  if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != nullptr) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
    // Back to the default: the access repeats and ends the process as it would have without us.
    ::signal(SIGBUS, SIG_DFL);
  } else {
    previous.sa_handler(signal);
  }
}

}  // namespace

unsigned BusErrorGuard::add(void* start, u64 bytes) {
  const std::scoped_lock guard(registration);
  if (!installed) {
    struct sigaction action{};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, nullptr, &previous) != 0 || sigaction(SIGBUS, &action, nullptr) != 0) {
      throw std::runtime_error("board: cannot install a SIGBUS handler");
    }
    installed = true;
  }
  for (unsigned i = 0; i < kMaxRanges; ++i) {
    if (ranges[i].bytes.load(std::memory_order_relaxed) != 0) continue;
    ranges[i].count.store(0, std::memory_order_relaxed);
    ranges[i].start.store(reinterpret_cast<u64>(start), std::memory_order_relaxed);
    ranges[i].bytes.store(bytes, std::memory_order_release);
    return i;
  }
  throw std::runtime_error("board: more than 64 physical address spaces in one process");
}

void BusErrorGuard::remove(unsigned slot) {
  const std::scoped_lock guard(registration);
  ranges[slot].bytes.store(0, std::memory_order_release);
}

u64 BusErrorGuard::count(unsigned slot) {
  return ranges[slot].count.load(std::memory_order_relaxed);
}

}  // namespace perdure::board
