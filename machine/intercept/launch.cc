#include "machine/intercept/launch.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "machine/host/host_files.h"
#include "machine/intercept/answers.h"
#include "machine/wire/message.h"

namespace perdure::intercept {

namespace {

constexpr int kNoProgram = 127;

// In the child: only what is safe between fork and exec.
[[noreturn]] void become(int channel, const Program& program, char* const* arguments,
                         const std::vector<sock_filter>& filter, pid_t parent) {
  // The filter without its listener would make every call fail: who serves and who is served end together.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kNoProgram);
  s32 error = 0;
  int listener = -1;
  if (filter.empty()) {
    // As under a filter: programs do not become others' by being executed, which would also take the agent away.
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) error = errno;
  } else if (const auto installed = Listener::install(filter)) {
    listener = *installed;
  } else {
    error = static_cast<s32>(installed.error());
  }
  if (!wire::send(channel, {.result = error}, {}, listener) || error != 0) _exit(kNoProgram);
  if (listener >= 0) close(listener);
  char told = 0;
  if (recv(channel, &told, 1, 0) != 1) _exit(kNoProgram);
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action = {};
    if (sigaction(signal, nullptr, &action) == 0 && action.sa_handler != SIG_IGN && action.sa_handler != SIG_DFL) {
      action.sa_handler = SIG_DFL;
      sigaction(signal, &action, nullptr);
    }
  }
  sigprocmask(SIG_SETMASK, &program.mask, nullptr);
  // This process has one thread, and so had the one that it is a copy of: nobody holds the environment's lock.
  for (const std::string& variable : program.environment) putenv(const_cast<char*>(variable.c_str()));
  execvp(arguments[0], arguments);
  error = errno;
  [[maybe_unused]] const ssize_t said = write(channel, &error, sizeof error);
  _exit(kNoProgram);
}

}  // namespace

Result<Launched> Launched::prepare(const Program& program, const std::vector<sock_filter>& filter) {
  auto [ours, theirs] = TRY(wire::socket_pair());
  std::vector<char*> arguments;
  arguments.reserve(program.arguments.size() + 1);
  for (const std::string& argument : program.arguments) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const pid_t parent = getpid();
  Launched launched;
  launched.pid_ = fork();
  if (launched.pid_ < 0) return fail(host::last_error());
  if (launched.pid_ == 0) become(theirs.get(), program, arguments.data(), filter, parent);
  theirs.reset();
  auto said = wire::receive(ours.get());
  if (!said || said->head.result != 0) {
    waitpid(launched.pid_, nullptr, 0);
    return fail(said ? static_cast<Errno>(said->head.result) : said.error());
  }
  launched.listener_ = std::move(said->fd);
  launched.channel_ = std::move(ours);
  return launched;
}

Result<void> Launched::go() {
  const char go = 1;
  if (send(channel_.get(), &go, 1, MSG_NOSIGNAL) != 1) return fail(Errno::Ekilled);
  s32 error = 0;
  // Exec closes the other end; a message says why there was none.
  const ssize_t n = read(channel_.get(), &error, sizeof error);
  channel_.reset();
  if (n != static_cast<ssize_t>(sizeof error)) return {};
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  return fail(static_cast<Errno>(error));
}

}  // namespace perdure::intercept
