#include "machine/intercept/session.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "machine/host/descriptor_limit.h"
#include "machine/host/host_files.h"
#include "machine/intercept/agent_server.h"
#include "machine/intercept/kernel_bus.h"
#include "machine/intercept/process_tree.h"
#include "machine/intercept/workers.h"

namespace perdure::intercept {

namespace {

constexpr int kJumpTimeoutMs = 30'000;

class Session {
 public:
  Session(SessionConfig config, host::Descriptor starter) : config_(std::move(config)), starter_(std::move(starter)) {}

  int run();

 private:
  Result<void> connect();
  Result<void> prepare();
  Result<void> prepare_traps();
  bool start();
  bool prepare_program();
  bool prepare_by_agent(std::vector<sock_filter> filter);
  void loop();
  std::optional<Ended> next_end();
  void take_children();
  bool take_word();
  void reboot();
  void power_off();
  void close_up();
  void end(Said how);
  void say(Said what, s32 result, u64 a, std::string_view text = {}) {
    (void)wire::send(starter_.get(), {.op = static_cast<u32>(what), .result = result, .a = a},
                     std::as_bytes(std::span(text)));
  }
  [[nodiscard]] bool failed(const Result<void>& result, std::string_view what) {
    if (!result) say(Said::Failed, static_cast<s32>(result.error()), 0, what);
    return !result;
  }

  SessionConfig config_;
  host::Descriptor starter_;
  host::Descriptor signals_;
  host::Descriptor kernel_gone_;  // an eventfd, written by whichever thread notices
  std::unique_ptr<KernelLink> link_;
  std::optional<wire::Channel> events_;
  u64 reboot_ = 0;  // the number of the event
  std::optional<Machine> machine_;
  std::optional<Workers> workers_;
  std::unique_ptr<AgentServer> agent_;
  std::optional<Launched> program_;
  std::mutex traced_mutex_;
  std::vector<Ended> traced_ends_;  // told to the threads that trace
  int status_ = 0;
  bool ended_ = false;
  bool over_ = false;
};

// The place for files that take orders: below the limit that programs start with.
u32 place_for_orders() {
  constexpr rlim_t kRoom = 64;
  constexpr rlim_t kMost = 65536;
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024 - kRoom;
  return static_cast<u32>(std::min(std::max(limit.rlim_cur, 2 * kRoom), kMost) - kRoom);
}

std::function<void(const std::string&)> logger(const std::string& path) {
  if (path.empty()) return {};
  std::FILE* file = std::fopen(path.c_str(), "ae");
  if (!file) return {};
  std::setvbuf(file, nullptr, _IOLBF, 0);
  return [file](const std::string& line) {
    timespec now = {};
    clock_gettime(CLOCK_REALTIME, &now);
    std::fprintf(file, "%lld.%06ld %s\n", static_cast<long long>(now.tv_sec), now.tv_nsec / 1000, line.c_str());
  };
}

Result<void> Session::connect() {
  link_ = TRY(KernelLink::join(TRY(config_.connect()), 0));
  events_ = TRY(KernelLink::become_events(TRY(KernelLink::join(TRY(config_.connect()), link_->front()))));
  return {};
}

Result<void> Session::prepare() {
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  signals_ = host::Descriptor(signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK));
  kernel_gone_ = host::Descriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!signals_ || !kernel_gone_) return fail(host::last_error());
  // Of ends alone: each trapped access would be a signal else.
  struct sigaction ends = {};
  ends.sa_handler = SIG_DFL;
  ends.sa_flags = SA_NOCLDSTOP;
  sigaction(SIGCHLD, &ends, nullptr);
  machine_.emplace(TRY(Registry::create()), TRY(Shadow::create()), TRY(Processes::create()));
  machine_->high_fd = place_for_orders();
  machine_->log = logger(config_.log_file);
  return {};
}

// Before any thread is: it forks.
Result<void> Session::prepare_traps() {
  if (config_.mmio == Mmio::Off) return {};
  if (!Tracer::possible()) {
    if (config_.mmio == Mmio::Trap) return fail(Errno::Eperm);
    if (machine_->log) machine_->log("this host lets nobody trace: registers cannot be mapped");
    return {};
  }
  machine_->tracer = std::make_unique<Tracer>(
      [this]() -> Result<std::unique_ptr<RegisterBus>> {
        return std::make_unique<KernelBus>(*machine_->registry,
                                           TRY(KernelLink::join(TRY(config_.connect()), link_->front())));
      },
      [this](const std::string& line) {
        if (machine_->log) machine_->log(line);
      },
      [this](pid_t process, int status) {
        {
          const std::scoped_lock lock(traced_mutex_);
          traced_ends_.push_back({process, status});
        }
        kill(getpid(), SIGCHLD);  // as if nobody had taken it away
      });
  return {};
}

// The host lets nobody do this, or not a second one; nothing is wrong with what was asked for.
bool is_refused(Errno error) {
  return error == Errno::Ebusy || error == Errno::Enosys || error == Errno::Einval || error == Errno::Eperm ||
         error == Errno::Eacces;
}

bool Session::prepare_by_agent(std::vector<sock_filter> filter) {
  if (!can_preload(config_.program.arguments.front())) {
    say(Said::Failed, static_cast<s32>(Errno::Enoexec), 0, "static");
    return false;
  }
  auto server = AgentServer::listen(machine_->shadow->place_of("/agent"), std::move(filter));
  if (!server) {
    say(Said::Failed, static_cast<s32>(server.error()), 0, "agent");
    return false;
  }
  agent_ = std::move(*server);
  config_.program.environment = agent_->environment(config_.agent_library);
  auto launched = Launched::prepare(config_.program, {});
  if (!launched) {
    say(Said::Failed, static_cast<s32>(launched.error()), 0, "agent");
    return false;
  }
  program_ = std::move(*launched);
  return true;
}

bool Session::prepare_program() {
  auto filter = build_filter({.files = config_.files, .eventfds = EventFds::needed(), .high_fd = machine_->high_fd});
  if (config_.agent == Agent::Only) return prepare_by_agent(std::move(filter));
  auto launched = Launched::prepare(config_.program, filter);
  if (launched) {
    program_ = std::move(*launched);
    return true;
  }
  if (config_.agent == Agent::Auto && is_refused(launched.error())) {
    say(Said::ByAgent, static_cast<s32>(launched.error()), 0);
    return prepare_by_agent(std::move(filter));
  }
  say(Said::Failed, static_cast<s32>(launched.error()), 0, "seccomp");
  return false;
}

bool Session::start() {
  // Before any thread is: the child is a copy of this process.
  if (!prepare_program()) return false;
  // The program keeps the terminal; what is typed there is not for this process.
  setsid();
  host::raise_descriptor_limit();
  const u64 front = link_->front();
  const auto join = [this, front]() -> Result<std::unique_ptr<KernelLink>> {
    return KernelLink::join(TRY(config_.connect()), front);
  };
  const auto gone = [this] {
    const u64 one = 1;
    [[maybe_unused]] const ssize_t n = write(kernel_gone_.get(), &one, sizeof one);
  };
  if (agent_) {
    agent_->start(*machine_, join, gone);
  } else {
    machine_->listener = std::make_unique<Listener>(program_->take_listener());
    workers_.emplace(*machine_, join, gone);
    workers_->start();
  }
  if (const auto gone_on = program_->go(); !gone_on) {
    say(Said::NoProgram, static_cast<s32>(gone_on.error()), 0);
    return false;
  }
  say(Said::Started, 0, static_cast<u64>(program_->pid()));
  return true;
}

int Session::run() {
  adopt_orphans();
  if (failed(connect(), "kernel") || failed(prepare(), "supervisor") || failed(prepare_traps(), "ptrace") || !start()) {
    close_up();
    return 1;
  }
  loop();
  close_up();
  return 0;
}

// Nothing waits for the threads: they end with the process.
void Session::close_up() {
  if (machine_) machine_->shadow.reset();
}

std::optional<Ended> Session::next_end() {
  {
    const std::scoped_lock lock(traced_mutex_);
    if (!traced_ends_.empty()) {
      const Ended one = traced_ends_.back();
      traced_ends_.pop_back();
      return one;
    }
  }
  return reap(machine_->tracer.get());
}

void Session::take_children() {
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof info) > 0) {
  }
  while (const auto one = next_end()) {
    if (one->pid != program_->pid()) continue;
    status_ = one->status;
    ended_ = true;
    // What it had open is closed for the kernel before anybody hears of its end.
    Service service(*machine_, *link_, [] {});
    if (!service.pass_on_closes()) return power_off();
    say(Said::Ended, 0, static_cast<u64>(status_));
  }
  // Its own end may have been told to a thread that traces, which says so soon.
  if (ended_ && !any_children()) over_ = true;
}

// False: nobody is there to be told any more.
bool Session::take_word() {
  const auto word = wire::receive(starter_.get());
  if (!word) {
    end_descendants(machine_->tracer.get());
    over_ = true;
    return false;
  }
  switch (static_cast<Said>(word->head.op)) {
    case Said::Signal:
      if (!ended_) kill(program_->pid(), static_cast<int>(word->head.a));
      return true;
    case Said::Finish:
      end_descendants(machine_->tracer.get());
      over_ = true;
      return true;
    case Said::Leave: {
      const host::Descriptor nothing(open("/dev/null", O_RDWR | O_CLOEXEC));
      for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(nothing.get(), fd);
      return false;
    }
    default: return true;
  }
}

void Session::end(Said how) {
  {
    // From here on no close reaches the kernel: what dies with it is not closed.
    const std::scoped_lock lock(machine_->closing);
    machine_->over = true;
  }
  std::vector<Ended> ends = end_descendants(machine_->tracer.get());
  if (machine_->tracer) machine_->tracer->wait_idle(std::chrono::seconds(1));
  while (const auto one = next_end()) ends.push_back(*one);
  for (const Ended& one : ends) {
    if (one.pid == program_->pid()) status_ = one.status;
  }
  over_ = true;
  if (how == Said::Rebooted) {
    wire::Reply ended;
    ended.a = reboot_;
    (void)events_->reply(std::move(ended));
    // Until it is gone: whoever connects after this finds the next one.
    pollfd gone = {events_->socket(), POLLRDHUP, 0};
    poll(&gone, 1, kJumpTimeoutMs);
  }
  say(how, 0, static_cast<u64>(status_));
}

void Session::reboot() {
  const auto event = events_->receive();
  if (!event) return power_off();
  if (event->head.op == static_cast<u32>(wire::Event::Reboot)) {
    reboot_ = event->head.a;
    end(Said::Rebooted);
  } else {
    (void)events_->reply(fail(Errno::Enosys));
  }
}

void Session::power_off() {
  end(Said::PowerOff);
}

void Session::loop() {
  Service service(*machine_, *link_, [] {});
  pollfd fds[] = {{signals_.get(), POLLIN, 0},
                  {starter_.get(), POLLIN, 0},
                  {events_->socket(), POLLIN, 0},
                  {kernel_gone_.get(), POLLIN, 0},
                  {machine_->registry->poll_fd(), POLLIN, 0},
                  {machine_->processes->poll_fd(), POLLIN, 0}};
  take_children();  // it may have ended before anybody listened
  while (!over_) {
    if (poll(fds, std::size(fds), -1) < 0) continue;
    // An orderly reboot is told before the connections break.
    if (fds[2].revents != 0) {
      reboot();
    } else if (fds[3].revents != 0) {
      // The kernel is gone; did it say why?
      pollfd said = {events_->socket(), POLLIN, 0};
      poll(&said, 1, -1);
      reboot();
    } else if (fds[4].revents != 0 || fds[5].revents != 0) {
      if (!service.pass_on_closes()) power_off();
    } else if (fds[1].revents != 0) {
      if (!take_word()) {
        fds[1].fd = -1;  // poll() passes over it
        starter_.reset();
      }
    } else if (fds[0].revents != 0) {
      take_children();
    }
  }
}

}  // namespace

int run_session(SessionConfig config, host::Descriptor starter) {
  // Never destroyed: threads of it may wait for a kernel that is gone.
  auto* session = new Session(std::move(config), std::move(starter));
  return session->run();
}

}  // namespace perdure::intercept
