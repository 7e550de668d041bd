#include "tool/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "machine/host/host_files.h"

namespace perdure::tool {

Result<Child> Child::start(const std::vector<std::string>& arguments) {
  int in[2];
  int out[2];
  if (pipe2(in, O_CLOEXEC) != 0) return fail(host::last_error());
  host::Descriptor in_read(in[0]);
  host::Descriptor in_write(in[1]);
  if (pipe2(out, O_CLOEXEC) != 0) return fail(host::last_error());
  host::Descriptor out_read(out[0]);
  host::Descriptor out_write(out[1]);

  std::vector<char*> argv;
  std::string self = "perdure";
  argv.push_back(self.data());
  std::vector<std::string> copies = arguments;
  for (std::string& a : copies) argv.push_back(a.data());
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return fail(host::last_error());
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    dup2(in_read.get(), STDIN_FILENO);
    dup2(out_write.get(), STDOUT_FILENO);
    execv("/proc/self/exe", argv.data());
    _exit(127);
  }
  return Child(pid, std::move(in_write), std::move(out_read));
}

Child::Child(Child&& o) noexcept
    : pid_(std::exchange(o.pid_, -1)), in_(std::move(o.in_)), out_(std::move(o.out_)), buffer_(std::move(o.buffer_)) {}

Child::~Child() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  wait();
}

Result<void> Child::tell(std::string_view command) {
  const std::string text = std::string(command) + "\n";
  if (write(in_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return fail(host::last_error());
  return {};
}

Result<std::string> Child::line(int timeout_ms) {
  for (;;) {
    if (const usize end = buffer_.find('\n'); end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    pollfd p = {out_.get(), POLLIN, 0};
    const int ready = poll(&p, 1, timeout_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) return fail(Errno::Etimedout);
    char chunk[4096];
    const ssize_t n = read(out_.get(), chunk, sizeof chunk);
    if (n <= 0) return fail(Errno::Ekilled);
    buffer_.append(chunk, static_cast<usize>(n));
  }
}

int Child::wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace perdure::tool
