#include "tool/machine/start.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tool/machine/board_main.h"
#include "tool/machine/lines.h"
#include "tool/machine/runtime_directory.h"

namespace perdure::tool {

namespace {

using nlohmann::json;

constexpr int kReadyMs = 90'000;
// A little more than the board process allows itself.
constexpr int kEndMs = 12'000;

void reap(pid_t pid) {
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

// Moves two descriptors to fixed numbers without one overwriting the other; between fork and exec.
void place(int starter, int lock) {
  constexpr int kBeyond = 10;
  const int a = fcntl(starter, F_DUPFD, kBeyond);
  const int b = lock >= 0 ? fcntl(lock, F_DUPFD, kBeyond) : -1;
  dup2(a, kStarterSocket);
  if (b >= 0) {
    dup2(b, kLockFile);
  } else {
    close(kLockFile);
  }
  close_range(kLockFile + 1, ~0U, 0);
}

}  // namespace

BoardProcess BoardProcess::start(BoardStart what) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    throw MachineError(static_cast<Errno>(errno), std::string("no socket for a machine: ") + std::strerror(errno));
  }
  host::Descriptor ours(ends[0]);
  host::Descriptor theirs(ends[1]);
  const std::string program = what.program;
  char name[] = "perdure";
  char group[] = "machine";
  char command[] = "board";
  std::string shown = what.name;
  char* const arguments[] = {name, group, command, shown.data(), nullptr};
  const pid_t pid = fork();
  if (pid < 0)
    throw MachineError(static_cast<Errno>(errno), std::string("no process for a machine: ") + std::strerror(errno));
  if (pid == 0) {
    // Only calls that are safe between fork and exec. A session of its own: what the terminal sends to this program and
    // its programs is not for the hardware.
    setsid();
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    place(theirs.get(), what.lock.get());
    execv(program.c_str(), arguments);
    _exit(127);
  }
  BoardProcess board(pid, host::Descriptor(fcntl(ours.get(), F_DUPFD_CLOEXEC, 0)));
  JsonLines line(std::move(ours));
  theirs.reset();
  const auto sent = line.send({{"name", what.name},
                               {"directory", what.directory.string()},
                               {"config", write_machine(what.config)},
                               {"config_name", what.config_name},
                               {"stay", what.stay},
                               {"echo", what.echo}});
  const auto said = sent ? line.receive(kReadyMs) : Result<json>(fail(sent.error()));
  if (!said) {
    throw MachineError(said.error(), said.error() == Errno::Etimedout
                                         ? "the machine does not come up in time"
                                         : program + ": the machine's process ended at once; is that perdure?");
  }
  if (said->contains("error")) {
    throw MachineError(static_cast<Errno>(said->value("errno", static_cast<int>(Errno::Eio))),
                       said->value("error", "?"));
  }
  board.release_ = said->value("release", "");
  if (what.stay) board.release_it();
  return board;
}

BoardProcess::~BoardProcess() {
  if (pid_ <= 0) return;
  // Children of this process may have it, too.
  shutdown(line_.get(), SHUT_RDWR);
  const host::Descriptor process(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  pollfd gone = {process.get(), POLLIN, 0};
  int ready = 0;
  do {
    ready = process ? poll(&gone, 1, kEndMs) : 0;
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) kill(pid_, SIGKILL);
  reap(pid_);
}

}  // namespace perdure::tool
