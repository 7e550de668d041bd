#include "tool/machine/commands.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "tool/machine/board_main.h"
#include "tool/machine/control.h"
#include "tool/machine/duration.h"
#include "tool/machine/kexec_report.h"
#include "tool/machine/start.h"
#include "tool/machine/status_tree.h"

namespace perdure::tool {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kOverBudget = 3;
constexpr int kAnswerMs = 10'000;
constexpr int kKexecMs = 120'000;
constexpr int kEndMs = 15'000;

// Nothing that a machine says may steer a terminal.
void print_json(const json& value) {
  fmt::print("{}\n", value.dump(2, ' ', true, json::error_handler_t::replace));
}

// `perdure kexec` in a program's directory means a file there; the kernel process has a directory of its own.
std::string kernel_argument(const std::string& given) {
  return given.find('/') == std::string::npos ? given : fs::absolute(given).string();
}

MachineConfig configuration(const std::string& file) {
  return file.empty() ? default_machine() : read_machine(file);
}

// Prints what a machine that cannot be asked any more had in its log.
void print_files(const fs::path& directory) {
  for (const char* suffix : {".1", ""}) {
    fs::path file = directory / kLogFile;
    file += suffix;
    std::ifstream in(file, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    if (in) fmt::print("{}", text);
  }
}

}  // namespace

Found choose_machine(const std::string& wanted) {
  std::string name = wanted;
  if (const char* set = std::getenv("PERDURE_MACHINE"); name.empty() && set != nullptr) name = set;
  if (name.starts_with('/')) {
    // Of one run, or of a name that the caller knows the place of.
    Found found{.state = Found::State::Running, .directory = name, .record = {}};
    found.record.name = name;
    return found;
  }
  if (!name.empty()) {
    (void)machine_socket(name);
    return find_machine(name);
  }
  std::vector<Found> all = find_machines();
  std::erase_if(all, [](const Found& f) { return f.state != Found::State::Running; });
  if (all.empty()) throw MachineError(Errno::Enoent, "no machine is running; perdure machine up NAME starts one");
  if (all.size() > 1) {
    std::string names;
    for (const Found& f : all) names += " " + f.record.name;
    throw MachineError(Errno::Einval, "which machine? --machine NAME says it; running are" + names);
  }
  return std::move(all.front());
}

MachineCommands::MachineCommands(CLI::App& app) {
  const auto which = [this](CLI::App* command) {
    command->add_option("--machine", name_, "which one; needed when several run (or set PERDURE_MACHINE)")
        ->option_text("NAME");
  };
  machine_ = app.add_subcommand("machine", "machines that stay, for programs that come and go");
  machine_->require_subcommand(1);
  up_ = machine_->add_subcommand("up", "start a machine; returns when its kernel serves");
  up_->add_option("name", name_)->required();
  up_->add_option("--config", config_, "what it is made of (docs/machine.md); else as perdure machine defaults says")
      ->option_text("FILE");
  up_->add_flag("--foreground", foreground_, "stay until it ends, show its log, end it at Ctrl-C");
  down_ = machine_->add_subcommand("down", "end a machine, and with it everything that it preserved");
  down_->add_option("name", name_, "which one; needed when several run");
  machine_->add_subcommand("run", "a program on it: run NAME -- PROGRAM..., as perdure run --machine NAME does");
  list_ = machine_->add_subcommand("list", "machines of this user");
  list_->add_flag("--json", json_);
  status_ = machine_->add_subcommand("status", "live tree of sessions, files, domains, devices and their owners");
  status_->add_option("path", path_, "a part of it, like devices/0000:00:03.0");
  which(status_);
  status_->add_flag("--json", json_);
  log_ = machine_->add_subcommand("log", "what its kernels said");
  log_->add_option("name", name_, "which one; needed when several run");
  log_->add_flag("--follow,-f", follow_, "go on until the machine ends");
  defaults_ = machine_->add_subcommand("defaults", "print the machine that is made when nothing is said, as a file");
  board_ = machine_->add_subcommand("board", "the process of a machine")->group("");
  board_->add_option("name", name_);

  kexec_ = app.add_subcommand("kexec", "replace a machine's kernel; what programs did not preserve is lost with them");
  which(kexec_);
  kexec_->add_option("--kernel", kernel_, "a name (a, b) or a path; else the next one in turn")
      ->option_text("a|b|FILE");
  kexec_->add_option("--budget", budget_, "fail when it takes longer, and say in which phase: 500ms, 2s")
      ->option_text("TIME")
      ->check([](const std::string& text) {
        return duration_of(text) ? std::string() : "no time: " + text + "; write 500ms, 1.5s or 800us";
      });
  kexec_->add_flag("--json", json_);
}

std::optional<int> MachineCommands::run() {
  if (*kexec_) return kexec();
  if (!*machine_) return std::nullopt;
  if (*up_) return up();
  if (*down_) return down();
  if (*list_) return list();
  if (*status_) return status();
  if (*log_) return log();
  if (*board_) return run_board_process();
  if (*defaults_) {
    fmt::print("{}", write_machine(default_machine()));
    return 0;
  }
  throw MachineError(Errno::Einval, "machine run: which machine? perdure machine run NAME -- PROGRAM...");
}

int MachineCommands::up() {
  check_name(name_);
  MachineConfig config = configuration(config_);
  // From here on nobody dies between two steps: a signal ends the machine in an orderly way.
  sigset_t ends;
  sigemptyset(&ends);
  if (foreground_) {
    for (const int s : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&ends, s);
    sigprocmask(SIG_BLOCK, &ends, nullptr);
  }
  Claimed claimed = claim(name_);
  const std::string shown = config_.empty() ? std::string() : fs::absolute(config_).string();
  const BoardProcess board = BoardProcess::start({.name = name_,
                                                  .directory = claimed.directory,
                                                  .config = std::move(config),
                                                  .config_name = shown,
                                                  .stay = !foreground_,
                                                  .echo = foreground_,
                                                  .lock = std::move(claimed.lock)});
  fmt::print("machine {} is up: kernel {}, sockets in {}\n", name_, board.release(), claimed.directory.string());
  if (!foreground_) return 0;
  std::fflush(stdout);
  const host::Descriptor signals(signalfd(-1, &ends, SFD_CLOEXEC));
  pollfd fds[] = {{signals.get(), POLLIN, 0}, {board.line(), POLLIN, 0}};
  while (poll(fds, 2, -1) < 0 && errno == EINTR) {
  }
  return 0;
}

int MachineCommands::down() {
  Found found;
  if (!name_.empty()) {
    found = find_machine(name_);
    if (found.state == Found::State::Stale) {
      if (!tidy(found)) throw MachineError(Errno::Ebusy, "machine " + name_ + " is being started or ended");
      fmt::print("machine {} had ended unexpectedly; what it left is removed\n", name_);
      return 0;
    }
  }
  if (found.state != Found::State::Running) found = choose_machine(name_);
  const ProcessId board = found.record.board;
  const std::string name = found.record.name;
  const host::Descriptor process(static_cast<int>(syscall(SYS_pidfd_open, board.pid, 0)));
  // Between the look and this it may have ended, and its number be another's.
  if (!process || !runs(found.record.board)) throw MachineError(Errno::Enoent, "the machine is gone already");
  try {
    Control(found.directory).ask({{"do", "down"}}, kAnswerMs);
  } catch (const MachineError&) {
    // It does not listen: it is told by other means.
    syscall(SYS_pidfd_send_signal, process.get(), SIGTERM, nullptr, 0);
  }
  pollfd gone = {process.get(), POLLIN, 0};
  int ready = 0;
  do {
    ready = poll(&gone, 1, kEndMs);
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) {
    syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
    poll(&gone, 1, kEndMs);
    found = find_machine(found.record.name);
    if (found.state == Found::State::Stale) tidy(found);
    throw MachineError(Errno::Etimedout,
                       "machine " + found.record.name + " did not end when it was told to; it was killed");
  }
  found = find_machine(found.record.name);
  if (found.state == Found::State::Stale && found.record.board == board && tidy(found)) {
    throw MachineError(Errno::Eio,
                       "machine " + found.record.name + " did not end as it should; what it left is removed");
  }
  fmt::print("machine {} is down\n", name);
  return 0;
}

int MachineCommands::list() {
  json all = json::array();
  for (const Found& found : find_machines()) {
    json one = {{"name", found.record.name}, {"directory", found.directory.string()}};
    switch (found.state) {
      case Found::State::Starting: one["state"] = "starting"; break;
      case Found::State::Stale: one["state"] = "stale"; break;
      case Found::State::Absent: continue;
      case Found::State::Running:
        one["state"] = "running";
        one["pid"] = found.record.board.pid;
        one["started"] = found.record.started;
        one["config"] = found.record.config;
        try {
          const json hello = Control(found.directory).ask({{"do", "hello"}}, kAnswerMs);
          one["release"] = hello.at("release");
          one["hop"] = hello.at("hop");
          if (hello.at("release") == "") one["state"] = "dead";
        } catch (const MachineError& e) {
          one["state"] = "silent";
          one["problem"] = e.what();
        }
    }
    all.push_back(std::move(one));
  }
  if (json_) {
    print_json(all);
    return 0;
  }
  for (const json& one : all) {
    const std::string state = one.at("state");
    fmt::print("{:<16} {:<9} ", one.at("name").get<std::string>(), state);
    if (state == "running") {
      fmt::print("{} (hop {}), process {}, since {}\n", one.at("release").get<std::string>(), one.at("hop").get<u32>(),
                 one.at("pid").get<int>(), one.at("started").get<std::string>());
    } else if (state == "stale") {
      fmt::print("ended unexpectedly; perdure machine log {0} shows its last words, down {0} removes it\n",
                 one.at("name").get<std::string>());
    } else if (state == "dead") {
      fmt::print("its kernel ended; perdure machine log {0} says why, down {0} ends the rest\n",
                 one.at("name").get<std::string>());
    } else {
      fmt::print("{}\n", one.value("problem", "not there yet, or about to end"));
    }
  }
  return 0;
}

int MachineCommands::status() {
  const Found found = choose_machine(name_);
  const json tree = Control(found.directory).ask({{"do", "status"}}, kAnswerMs).at("tree");
  std::string there;
  const json* part = find_part(tree, path_, there);
  if (part == nullptr) {
    std::string below;
    std::string ignored;
    const json* last = find_part(tree, there, ignored);
    if (last != nullptr && last->is_object()) {
      for (const auto& [key, value] : last->items()) below += " " + key;
    }
    throw MachineError(Errno::Enoent, fmt::format("there is no {}; below {} are:{}", path_,
                                                  there.empty() ? "the root" : there, below.empty() ? " none" : below));
  }
  if (json_) {
    print_json(*part);
  } else {
    fmt::print("{}", render_tree(*part));
  }
  return 0;
}

int MachineCommands::log() {
  if (!name_.empty() && !name_.starts_with('/')) {
    if (const Found found = find_machine(name_); found.state == Found::State::Stale) {
      print_files(found.directory);
      return 0;
    }
  }
  const Found found = choose_machine(name_);
  Control control(found.directory);
  control.ask({{"do", "log"}, {"follow", follow_}}, kAnswerMs);
  for (;;) {
    const auto line = control.more();
    if (!line || line->contains("end")) return 0;
    fmt::print("{}\n", line->value("line", ""));
    std::fflush(stdout);
  }
}

int MachineCommands::kexec() {
  const Found found = choose_machine(name_);
  json request = {{"do", "kexec"}};
  if (!kernel_.empty()) request["kernel"] = kernel_argument(kernel_);
  const KexecReport report = kexec_report(Control(found.directory).ask(request, kKexecMs).at("report"));
  std::optional<std::string> broke;
  if (!budget_.empty()) broke = report.broke(*duration_of(budget_));
  if (json_) {
    json all = to_json(report);
    if (!budget_.empty()) {
      all["budget_ns"] = *duration_of(budget_);
      all["broke_budget"] = broke ? json(*broke) : json(nullptr);
    }
    print_json(all);
  } else {
    fmt::print("{}", render(report));
  }
  if (!broke) return 0;
  fmt::print(stderr, "perdure: kexec took {}, more than the budget of {}: it ran out in phase {}\n",
             duration(report.total_ns()), duration(*duration_of(budget_)), *broke);
  return kOverBudget;
}

}  // namespace perdure::tool
