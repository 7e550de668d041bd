#include "tool/machine/board_main.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include <thread>

#include "core/base/scope_guard.h"
#include "machine/host/descriptor_limit.h"
#include "tool/machine/control_server.h"
#include "tool/machine/machine_config.h"
#include "tool/machine/status_tree.h"

namespace perdure::tool {

namespace {

using nlohmann::json;

constexpr int kOrdersMs = 10'000;
constexpr u64 kBootNs = 60'000'000'000;
// How long an orderly end may take; then it is not orderly.
constexpr unsigned kEndSeconds = 10;

std::string now_text() {
  const time_t now = time(nullptr);
  tm parts = {};
  gmtime_r(&now, &parts);
  char text[32];
  const usize n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return {text, n};
}

// What is said to the starter when there is no machine.
struct Orders {
  std::string name;
  std::filesystem::path directory;
  MachineConfig config;
  std::string config_name;
  bool stay = false;
  bool echo = false;
};

Orders receive_orders(JsonLines& starter) {
  const auto said = starter.receive(kOrdersMs);
  if (!said) throw MachineError(said.error(), "is started by perdure machine up, or by perdure run");
  Orders o;
  o.name = said->at("name");
  o.directory = said->at("directory").get<std::string>();
  o.config_name = said->at("config_name");
  o.config = parse_machine(said->at("config").get<std::string>(), o.config_name.empty() ? "defaults" : o.config_name);
  o.stay = said->at("stay");
  o.echo = said->at("echo");
  return o;
}

// Nothing of the terminal that it was started from, if it is to outlive it.
void detach(const std::filesystem::path& log) {
  const host::Descriptor nothing(open("/dev/null", O_RDWR | O_CLOEXEC));
  // What this process itself may have to say when it breaks.
  const host::Descriptor last_words(open(log.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  dup2(nothing.get(), STDIN_FILENO);
  dup2(nothing.get(), STDOUT_FILENO);
  dup2(last_words ? last_words.get() : nothing.get(), STDERR_FILENO);
}

class Board {
 public:
  Board(Orders orders, JsonLines& starter)
      : orders_(std::move(orders)),
        starter_(starter),
        end_(eventfd(0, EFD_CLOEXEC)),
        log_(orders_.directory / kLogFile, orders_.config.log_bytes, orders_.echo),
        server_(config()) {}

  // Until the machine ends.
  void run(int signals) {
    const host::Descriptor log_end(eventfd(0, EFD_CLOEXEC));
    std::thread logger([&] { log_.run(log_end.get()); });
    const ScopeGuard last([&] {
      eventfd_write(log_end.get(), 1);
      logger.join();
    });
    MachineRecord record{.name = orders_.name,
                         .board = process_of(getpid()).value_or(ProcessId{}),
                         .started = now_text(),
                         .config = orders_.config_name};
    log_.say(fmt::format("{} starts with kernel {}", orders_.name, orders_.config.first));
    start();
    ControlServer control(record, orders_.directory, server_, log_, [this] { eventfd_write(end_.get(), 1); });
    control.listen();
    write_record(orders_.directory, record);
    const auto ready = server_.wait_ready(std::nullopt, 0);
    (void)starter_.send({{"ready", true}, {"release", ready ? ready->release : ""}});
    if (orders_.stay) detach(orders_.directory / kLogFile);
    wait_for_the_end(signals);
    // From here on nobody waits for longer than that, whatever happens.
    alarm(kEndSeconds);
  }

 private:
  process::ServerConfig config() {
    std::filesystem::path kernels = orders_.config.directory;
    if (kernels.empty()) kernels = std::filesystem::read_symlink("/proc/self/exe").parent_path();
    return {
        .board = orders_.config.board,
        .kernel_directory = kernels,
        .program_socket = orders_.directory / kKernelSocket,
        .first_kernel = orders_.config.first,
        .next = orders_.config.next,
        .command_line = process::write_options(orders_.config.options),
        .kernel_output = log_.kernel_end(),
        .on_ready = [this](
                        u32 hop,
                        std::string_view release) { log_.say(fmt::format("kernel {} serves (hop {})", release, hop)); },
        .on_ended = [this](int status) { log_.say("the kernel process " + ending(status) + "; nothing serves now"); }};
  }

  void start() {
    server_.board().start();
    const auto refuse = [&](Errno why, const std::string& what) {
      log_.sync();
      u64 from = 1;
      std::string text = what + ": " + std::string(errno_name(why));
      for (const std::string& line : log_.after(from)) text += "\n  " + line;
      throw MachineError(why, text);
    };
    if (const auto on = server_.power_on(); !on) refuse(on.error(), "kernel " + orders_.config.first);
    if (const auto ready = server_.wait_ready(std::nullopt, kBootNs); !ready) {
      refuse(ready.error(), "kernel " + orders_.config.first + " did not come up");
    }
  }

  void wait_for_the_end(int signals) {
    for (;;) {
      // A starter that may go is not looked at.
      pollfd fds[] = {
          {signals, POLLIN, 0}, {end_.get(), POLLIN, 0}, {orders_.stay ? -1 : starter_.socket(), POLLIN, 0}};
      if (poll(fds, 3, -1) < 0 && errno != EINTR) return;
      if (fds[0].revents != 0) log_.say("is ended by a signal");
      if (fds[0].revents != 0 || fds[1].revents != 0 || fds[2].revents != 0) return;
    }
  }

  Orders orders_;
  JsonLines& starter_;
  host::Descriptor end_;
  MachineLog log_;
  process::BoardServer server_;
};

}  // namespace

int run_board_process() {
  host::raise_descriptor_limit();  // the kernel's, too
  JsonLines starter{host::Descriptor(kStarterSocket)};
  fcntl(kStarterSocket, F_SETFD, FD_CLOEXEC);
  fcntl(kLockFile, F_SETFD, FD_CLOEXEC);
  // Before there are threads: all of them leave these to one descriptor.
  sigset_t mine = {};
  sigemptyset(&mine);
  for (const int s : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) sigaddset(&mine, s);
  sigprocmask(SIG_BLOCK, &mine, nullptr);
  signal(SIGPIPE, SIG_IGN);
  const host::Descriptor signals(signalfd(-1, &mine, SFD_CLOEXEC));
  std::filesystem::path directory;
  int status = 0;
  try {
    Orders orders = receive_orders(starter);
    directory = orders.directory;
    Board(std::move(orders), starter).run(signals.get());
  } catch (const MachineError& e) {
    (void)starter.send({{"errno", static_cast<int>(e.why())}, {"error", e.what()}});
    status = 1;
  } catch (const std::exception& e) {
    (void)starter.send({{"errno", static_cast<int>(Errno::Einval)}, {"error", e.what()}});
    status = 1;
  }
  if (!directory.empty()) remove_locked(directory);
  return status;
}

}  // namespace perdure::tool
