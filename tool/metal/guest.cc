#include "tool/metal/guest.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "tool/report.h"

namespace perdure::tool::metal {

namespace {

constexpr usize kMostOutput = usize{16} << 10;  // of QEMU's own words, the last
constexpr u32 kFramesASecond = 4'000;

struct Pair {
  host::Descriptor ours;
  host::Descriptor theirs;
};

Pair connection() {
  int fd[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) != 0) {
    throw std::runtime_error(fmt::format("no pair of sockets: {}", std::strerror(errno)));
  }
  return {host::Descriptor(fd[0]), host::Descriptor(fd[1])};
}

}  // namespace

EndSignals::EndSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, &former_);
  fd_ = host::Descriptor(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

bool EndSignals::take() {
  signalfd_siginfo which;
  return read(fd_.get(), &which, sizeof which) == sizeof which;
}

EndSignals::~EndSignals() {
  // One that came while nobody looked is not for whoever comes next.
  while (take()) {
  }

  pthread_sigmask(SIG_SETMASK, &former_, nullptr);
}

Guest::Guest(const Qemu& qemu, const MachineSpec& machine, Attachments with, u32 seed) {
  Pair monitor = connection();
  Pair network = connection();
  with.monitor = monitor.theirs.get();
  with.network = network.theirs.get();
  auto started = Process::start(qemu.program, arguments(qemu, machine, with), {with.monitor, with.network},
                                Process::Errors::Apart);
  if (!started) {
    start_fault_ = started.error();
    return;
  }
  process_.emplace(std::move(*started));
  monitor_.emplace(std::move(monitor.ours));
  const bool fed = std::find(machine.devices.begin(), machine.devices.end(), "e1000e") != machine.devices.end();
  if (fed) wire_ = std::move(network.ours);
  seed_ = seed;
}

void Guest::plug_in() {
  if (wire_) feeder_.emplace(std::move(wire_), seed_, kFramesASecond);
}

bool Guest::send(char byte) {
  return write(process_->input(), &byte, 1) == 1;
}

// What is there now; false when no more will come.
bool Guest::drain(int fd, const std::function<void(std::string_view)>& take) {
  char chunk[65536];
  const ssize_t n = read(fd, chunk, sizeof chunk);
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  if (n <= 0) return false;
  take({chunk, static_cast<usize>(n)});
  return true;
}

GuestRun Guest::run(u64 deadline_ns) {
  GuestRun result;
  result.fault = start_fault_;
  if (!process_) return result;
  using Clock = std::chrono::steady_clock;
  const auto began = Clock::now();
  const auto now = [&] {
    return static_cast<u64>(std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - began).count());
  };
  const auto hear = [&](std::string_view bytes) {
    if (on_serial) on_serial(bytes, now());
  };
  const auto note = [&](std::string_view bytes) {
    result.output += bytes;
    if (result.output.size() > 2 * kMostOutput) result.output.erase(0, result.output.size() - kMostOutput);
  };
  enum : usize { kSerial, kOutput, kHandle, kSignals, kCount };
  pollfd p[kCount] = {{process_->output(), POLLIN, 0},
                      {process_->errors(), POLLIN, 0},
                      {process_->handle(), POLLIN, 0},
                      {signals_.fd(), POLLIN, 0}};
  bool over = false;
  while (!over && fault_.empty()) {
    const u64 at = now();
    if (at >= deadline_ns) {
      fault_ = fmt::format("it did not end within {}", duration(deadline_ns));
      break;
    }
    const u64 left_ms = (deadline_ns - at) / 1'000'000 + 1;
    if (poll(p, kCount, static_cast<int>(std::min<u64>(left_ms, 60'000))) < 0 && errno != EINTR) {
      fault_ = fmt::format("poll: {}", std::strerror(errno));
      break;
    }
    if (p[kSerial].revents != 0 && !drain(process_->output(), hear)) p[kSerial].fd = -1;
    if (p[kOutput].revents != 0 && !drain(process_->errors(), note)) p[kOutput].fd = -1;
    if (p[kSignals].revents != 0 && signals_.take()) fault_ = "interrupted";
    // What it said before it ended is still there.
    over = p[kHandle].revents != 0;
  }
  feeder_.reset();
  if (!over) process_->kill();
  const Ending ending = process_->wait();
  // What is in the pipes; whoever may still hold their other ends is not waited for.
  const auto empty = [&](usize which, const std::function<void(std::string_view)>& take) {
    while (p[which].fd >= 0 && poll(&p[which], 1, 0) > 0 && drain(p[which].fd, take)) {
    }
  };
  if (over) {
    result.ending = ending;
    if (fault_.empty()) empty(kSerial, hear);
  }
  empty(kOutput, note);
  result.fault = fault_;
  result.elapsed_ns = now();
  return result;
}

std::string judge(const GuestRun& run) {
  if (!run.fault.empty()) return "QEMU was ended: " + run.fault;
  if (!run.ending) return "QEMU did not end";
  if (run.ending->signalled) {
    const char* why =
        run.ending->code == SIGABRT ? " (an assertion: it aborts on register accesses that hardware forbids)" : "";
    return fmt::format("QEMU died of {}{}", run.ending->to_string(), why);
  }
  switch (run.ending->code) {
    case kGuestContent: return {};
    case kGuestFailed: return "the guest ended with its failure status";
    case kGuestPanicked: return "the guest panicked; its log has the address";
    case 0: return "the processor reset itself (triple fault, or a reset by the guest): QEMU ended with status 0";
    default: return fmt::format("QEMU ended with {}", run.ending->to_string());
  }
}

}  // namespace perdure::tool::metal
