#include "tool/run/run.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "machine/agent/protocol.h"
#include "machine/host/host_files.h"
#include "machine/intercept/session.h"
#include "tool/machine/control.h"
#include "tool/machine/own_machine.h"

namespace perdure::tool {

namespace {

using intercept::Said;

constexpr int kCannotServe = 125;
constexpr int kCannotExecute = 126;
constexpr int kNotFound = 127;
constexpr int kBootTimeoutMs = 30'000;

int exit_status(u64 wait_status) {
  const int status = static_cast<int>(wait_status);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

const char* error_text(s32 error) {
  return std::strerror(error);
}

// What it means that a session could not begin, and what to do.
void explain(s32 error, std::string_view what) {
  const auto why = static_cast<Errno>(error);
  if (what == "seccomp") {
    switch (why) {
      case Errno::Ebusy:
        std::fprintf(
            stderr,
            "perdure run: a supervisor watches this process already (seccomp allows one): a `perdure run` around this "
            "one, or a container runtime or sandbox. Run it outside of that\n");
        return;
      case Errno::Enosys:
      case Errno::Einval:
        std::fprintf(stderr,
                     "perdure run: this kernel has no seccomp user notification (Linux 5.9 and newer have it; gVisor "
                     "and WSL1 do "
                     "not): run it on a newer kernel\n");
        return;
      case Errno::Eperm:
      case Errno::Eacces:
        std::fprintf(
            stderr,
            "perdure run: a sandbox around this process forbids seccomp(2): allow it there (docker's default profile "
            "does)\n");
        return;
      default: break;
    }
  }
  if (what == "static") {
    std::fprintf(
        stderr,
        "perdure run: the program is static, or not of this processor: only seccomp serves it, and not a library "
        "that is preloaded\n");
    return;
  }
  if (what == "ptrace") {
    std::fprintf(
        stderr,
        "perdure run: --mmio=trap: this host lets no process trace its children (Yama's ptrace_scope 2 or 3, a "
        "container's seccomp profile, or a debugger that follows children). Use --mmio=off, or allow it\n");
    return;
  }
  if (what == "kernel") {
    std::fprintf(stderr,
                 "perdure run: the machine's kernel does not answer (%s): is the machine up? see `perdure list`\n",
                 error_text(error));
    return;
  }
  if (why == Errno::Emfile) {
    std::fprintf(stderr,
                 "perdure run: too many open files, or this user has too many inotify instances "
                 "(fs.inotify.max_user_instances)\n");
    return;
  }
  std::fprintf(stderr, "perdure run: %.*s: %s\n", static_cast<int>(what.size()), what.data(), error_text(error));
}

// Where the agent has the place of a filter.
void explain_agent(s32 error) {
  std::fprintf(stderr,
               "perdure run: this host refuses seccomp user notification (%s): serving dynamic programs only, by a "
               "library that is preloaded into them (--agent)\n",
               error_text(error));
}

// Beside this program; empty: it is not there.
std::string agent_library() {
  std::error_code none;
  const auto here = std::filesystem::read_symlink("/proc/self/exe", none).parent_path() / perdure::agent::kLibraryName;
  return std::filesystem::exists(here, none) ? here.string() : std::string();
}

intercept::Agent agent_of(const std::string& said, const std::string& library) {
  if (said == "off" || library.empty()) return intercept::Agent::Off;
  return said == "only" ? intercept::Agent::Only : intercept::Agent::Auto;
}

// Signals that are passed on. Those of the terminal reach the program without us.
class Signals {
 public:
  Signals() {
    sigset_t taken;
    sigemptyset(&taken);
    for (const int signal : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH, SIGCONT, SIGCHLD}) {
      sigaddset(&taken, signal);
    }
    sigaddset(&taken, SIGPIPE);
    sigprocmask(SIG_BLOCK, &taken, &before_);
    fd_ = host::Descriptor(signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  int fd() const { return fd_.get(); }
  const sigset_t& before() const { return before_; }
  // The next one that is for the program.
  std::optional<int> next() const {
    signalfd_siginfo info;
    while (read(fd_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      const int signal = static_cast<int>(info.ssi_signo);
      const bool from_kernel = info.ssi_code == SI_KERNEL;  // to the whole group, from the terminal
      if (signal == SIGCHLD || signal == SIGPIPE || from_kernel) continue;
      return signal;
    }
    return std::nullopt;
  }

 private:
  sigset_t before_ = {};
  host::Descriptor fd_;
};

class Run {
 public:
  // Throws MachineError.
  explicit Run(const RunOptions& options) : options_(options), library_(agent_library()) {
    if (options.agent == "only" && library_.empty()) {
      throw MachineError(Errno::Enoent, std::string("--agent=only: there is no ") + agent::kLibraryName +
                                            " beside this program: build or install it");
    }
    if (!options.socket.empty()) {
      socket_ = options.socket;
    } else if (!options.machine.empty()) {
      socket_ = machine_socket(options.machine).string();
      directory_ = machine_directory(options.machine);
    } else {
      // Before signals are taken over: its processes take theirs as they come.
      own_ = std::make_unique<OwnMachine>(options.config.empty() ? default_machine() : read_machine(options.config));
      socket_ = own_->socket().string();
    }
    // For `perdure kexec` and `perdure machine` in a program: this is the machine that it is on.
    setenv("PERDURE_MACHINE", std::filesystem::absolute(socket_).parent_path().c_str(), 1);
    signals_.emplace();
  }

  int run() {
    for (u32 boots = 0;; ++boots) {
      const End end = one_boot();
      if (!end.rebooted) return end.status;
      if (boots < options_.restarts) continue;
      std::fprintf(stderr, "perdure run: the kernel was replaced, and its programs ended as by a reboot\n");
      return end.status;
    }
  }

 private:
  struct End {
    int status = kCannotServe;
    bool rebooted = false;
  };

  End one_boot() {
    auto pair = wire::socket_pair();
    if (!pair) return {};
    std::fflush(nullptr);
    connect_control();
    const pid_t pid = fork();
    if (pid < 0) return {};
    if (pid == 0) {
      pair->first.reset();
      const std::string socket = socket_;
      _exit(intercept::run_session({.connect = [socket] { return wire::Channel::connect(socket, kBootTimeoutMs); },
                                    .program = {.arguments = options_.program, .mask = signals_->before()},
                                    .files = options_.files,
                                    .log_file = options_.log,
                                    .mmio = options_.mmio == "trap"  ? intercept::Mmio::Trap
                                            : options_.mmio == "off" ? intercept::Mmio::Off
                                                                     : intercept::Mmio::Auto,
                                    .agent = agent_of(options_.agent, library_),
                                    .agent_library = library_},
                                   std::move(pair->second)));
    }
    pair->second.reset();
    tell_machine(pid);
    const End end = follow(pair->first.get());
    // A machine of its own ends with its program; on another one what the program left running runs on.
    const Said last = own_ ? Said::Finish : Said::Leave;
    (void)wire::send(pair->first.get(), {.op = static_cast<u32>(last)});
    if (own_ || end.rebooted) waitpid(pid, nullptr, 0);
    return end;
  }

  // The supervisor inherits the connection: the machine lists it for as long as it lives. That helps who looks for what
  // uses a machine; nothing depends on it.
  void connect_control() {
    control_.reset();
    if (directory_.empty()) return;
    try {
      control_ = std::make_unique<Control>(directory_);
    } catch (const MachineError&) {
    }
  }
  void tell_machine(pid_t supervisor) {
    if (!control_) return;
    std::string command;
    for (const std::string& word : options_.program) command += (command.empty() ? "" : " ") + word;
    constexpr int kPatienceMs = 2000;
    try {
      control_->ask({{"do", "register"}, {"pid", supervisor}, {"command", command}}, kPatienceMs);
    } catch (const MachineError&) {
      control_.reset();
    }
  }

  End follow(int session) const {
    for (;;) {
      pollfd fds[] = {{session, POLLIN, 0}, {signals_->fd(), POLLIN, 0}};
      if (poll(fds, 2, -1) < 0) continue;
      while (const auto signal = signals_->next()) {
        (void)wire::send(session, {.op = static_cast<u32>(Said::Signal), .a = static_cast<u64>(*signal)});
      }
      if (fds[0].revents == 0) continue;
      const auto said = wire::receive(session);
      if (!said) {
        std::fprintf(stderr, "perdure run: the supervisor ended unexpectedly\n");
        return {};
      }
      switch (static_cast<Said>(said->head.op)) {
        case Said::Failed:
          explain(said->head.result, {reinterpret_cast<const char*>(said->payload.data()), said->payload.size()});
          return {};
        case Said::ByAgent: explain_agent(said->head.result); break;
        case Said::NoProgram:
          std::fprintf(stderr, "perdure run: %s: %s\n", options_.program.front().c_str(),
                       error_text(said->head.result));
          return {.status = said->head.result == ENOENT ? kNotFound : kCannotExecute};
        case Said::Ended: return {.status = exit_status(said->head.a)};
        case Said::Rebooted: return {.status = exit_status(said->head.a), .rebooted = true};
        case Said::PowerOff:
          std::fprintf(stderr, "perdure run: the machine is gone, and its programs with it\n");
          return {.status = exit_status(said->head.a)};
        default: break;
      }
    }
  }

  const RunOptions& options_;
  const std::string library_;  // the agent
  std::string socket_;
  std::filesystem::path directory_;  // of a machine that is named
  std::unique_ptr<Control> control_;
  std::unique_ptr<OwnMachine> own_;
  std::optional<Signals> signals_;
};

}  // namespace

int run_run(const RunOptions& options) {
  try {
    return Run(options).run();
  } catch (const std::runtime_error& e) {
    std::fprintf(stderr, "perdure run: %s\n", e.what());
    return kCannotServe;
  }
}

}  // namespace perdure::tool
