#include "tool/metal/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

namespace perdure::tool::metal {

namespace {

constexpr int kCannotStart = 127;

struct Pipe {
  host::Descriptor read;
  host::Descriptor write;
  static std::optional<Pipe> make() {
    int fd[2];
    if (pipe2(fd, O_CLOEXEC) != 0) return std::nullopt;
    return Pipe{host::Descriptor(fd[0]), host::Descriptor(fd[1])};
  }
};

std::string why() {
  return std::strerror(errno);
}

}  // namespace

std::string Ending::to_string() const {
  if (!signalled) return fmt::format("exit status {}", code);
  const char* name = sigabbrev_np(code);
  return fmt::format("signal SIG{}", name ? name : std::to_string(code));
}

std::expected<Process, std::string> Process::start(const std::string& program,
                                                   const std::vector<std::string>& arguments,
                                                   const std::vector<int>& inherited, Errors errors) {
  auto in = Pipe::make();
  auto out = Pipe::make();
  auto err = Pipe::make();
  if (!in || !out || !err) return std::unexpected("no pipe: " + why());

  std::vector<std::string> copies{program};
  copies.insert(copies.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  argv.reserve(copies.size() + 1);
  for (std::string& a : copies) argv.push_back(a.data());
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return std::unexpected("no child: " + why());
  if (pid == 0) {
    // Only what is safe between fork and exec of a program with threads.
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(kCannotStart);
    dup2(in->read.get(), STDIN_FILENO);
    dup2(out->write.get(), STDOUT_FILENO);
    dup2(errors == Errors::Apart ? err->write.get() : STDOUT_FILENO, STDERR_FILENO);
    for (const int fd : inherited) {
      if (fd >= 0) fcntl(fd, F_SETFD, 0);
    }
    execvp(argv[0], argv.data());
    _exit(kCannotStart);
  }
  Process child;
  child.pid_ = pid;
  child.handle_ = host::Descriptor(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  child.input_ = std::move(in->write);
  child.output_ = std::move(out->read);
  child.errors_ = std::move(err->read);
  if (!child.handle_) return std::unexpected("no handle of a child: " + why());
  return child;
}

Process::Process(Process&& o) noexcept
    : pid_(std::exchange(o.pid_, -1)),
      handle_(std::move(o.handle_)),
      input_(std::move(o.input_)),
      output_(std::move(o.output_)),
      errors_(std::move(o.errors_)) {}

Process::~Process() {
  if (pid_ <= 0) return;
  kill();
  wait();
}

void Process::kill() {
  if (pid_ > 0) ::kill(pid_, SIGKILL);
}

Ending Process::wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  if (WIFSIGNALED(status)) return {.signalled = true, .code = WTERMSIG(status)};
  return {.signalled = false, .code = WEXITSTATUS(status)};
}

std::expected<Finished, std::string> run(const std::string& program, const std::vector<std::string>& arguments,
                                         int timeout_ms) {
  constexpr usize kMostOutput = usize{4} << 20;
  auto child = Process::start(program, arguments, {}, Process::Errors::WithOutput);
  if (!child) return std::unexpected(child.error());
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
  std::string output;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd p = {child->output(), POLLIN, 0};
    const int ready = left <= 0 ? 0 : poll(&p, 1, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return std::unexpected(fmt::format("{} did not end within {} ms", program, timeout_ms));
    char chunk[4096];
    const ssize_t n = read(child->output(), chunk, sizeof chunk);
    if (n <= 0) break;
    if (output.size() < kMostOutput) output.append(chunk, static_cast<usize>(n));
  }
  return Finished{.ending = child->wait(), .output = std::move(output)};
}

}  // namespace perdure::tool::metal
