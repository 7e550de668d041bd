// The tests as an ordinary Linux program: on a real Linux with these devices, or under `perdure run`. Prints TAP.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "client/libc/libc_syscalls.h"
#include "tests/uapi/case.h"

namespace perdure::uapi_test {
namespace {

constexpr unsigned kSeconds = 60;  // for one test

struct Options {
  bool list = false;
  bool fork = true;
  int stage = 0;
  std::string kernel;
  std::vector<std::string> filters;
  std::vector<std::string> devices;
};

[[noreturn]] void usage(int code) {
  std::fputs(
      "uapi_test [OPTIONS] [FILTER…]: tests of /dev/iommu, /dev/vfio and /dev/liveupdate; TAP\n"
      "  FILTER            only tests whose \"ROW: NAME\" contains it\n"
      "  --list            \"ROW<TAB>NAME<TAB>needs\", nothing is run\n"
      "  --device PATH     a VFIO device that tests may use (any number; else all of /dev/vfio/devices)\n"
      "  --stage 1         the first halves of tests over a live update, then kexec; needs --kernel\n"
      "  --kernel FILE     the kernel for --stage 1\n"
      "  --stage 2         their second halves, under the new kernel\n"
      "  --no-fork         all in one process, for debuggers\n"
      "Exit status: 0 all passed, 1 some failed, 77 nothing could be run here.\n",
      code == 0 ? stdout : stderr);
  std::exit(code);
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const auto value = [&] {
      if (++i == argc) usage(2);
      return std::string(argv[i]);
    };
    if (arg == "--help") usage(0);
    if (arg == "--list") {
      o.list = true;
    } else if (arg == "--no-fork") {
      o.fork = false;
    } else if (arg == "--device") {
      o.devices.push_back(value());
    } else if (arg == "--kernel") {
      o.kernel = value();
    } else if (arg == "--stage") {
      const std::string stage = value();
      if (stage != "1" && stage != "2") usage(2);
      o.stage = stage == "1" ? 1 : 2;
    } else if (arg.starts_with("-")) {
      usage(2);
    } else {
      o.filters.emplace_back(arg);
    }
  }
  if (o.stage == 1 && o.kernel.empty()) usage(2);
  return o;
}

std::vector<std::string> find_devices() {
  constexpr unsigned kMost = 64;
  std::vector<std::string> found;
  for (unsigned i = 0; i < kMost; ++i) {
    std::string path = "/dev/vfio/devices/vfio" + std::to_string(i);
    if (access(path.c_str(), R_OK | W_OK) == 0) found.push_back(std::move(path));
  }
  return found;
}

struct Outcome {
  enum class Kind { Passed, Failed, Skipped } kind = Kind::Passed;
  std::vector<std::string> said;
};

Outcome run_half(void (*half)(Case&), Case& t) {
  Outcome out;
  try {
    half(t);
  } catch (const Skip& skip) {
    if (t.failures().empty()) return {Outcome::Kind::Skipped, {skip.reason}};
  } catch (const Stop&) {  // NOLINT(bugprone-empty-catch): the case knows why
  } catch (const std::exception& e) {
    t.fail(__FILE__, __LINE__, e.what());
  }
  if (!t.failures().empty()) out = {Outcome::Kind::Failed, t.failures()};
  return out;
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n <= 0) return;
    text.remove_prefix(static_cast<usize>(n));
  }
}

// In a child, so that a test may die, run out of time, or change what belongs to the process.
Outcome run_in_child(void (*half)(Case&), Case& t) {
  int ends[2] = {};
  if (pipe(ends) != 0) return {Outcome::Kind::Failed, {std::string("pipe: ") + std::strerror(errno)}};
  std::fflush(stdout);
  const pid_t child = fork();
  if (child < 0) return {Outcome::Kind::Failed, {std::string("fork: ") + std::strerror(errno)}};
  if (child == 0) {
    close(ends[0]);
    alarm(kSeconds);
    const Outcome out = run_half(half, t);
    for (const std::string& line : out.said) write_all(ends[1], line + "\n");
    _exit(static_cast<int>(out.kind));
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n = 0; (n = read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<usize>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  Outcome out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) out.said.push_back(line);
  if (WIFEXITED(status)) {
    out.kind = static_cast<Outcome::Kind>(WEXITSTATUS(status));
  } else {
    out.kind = Outcome::Kind::Failed;
    out.said.push_back(WTERMSIG(status) == SIGALRM ? "not done after " + std::to_string(kSeconds) + " s"
                                                   : std::string("ended by signal: ") + strsignal(WTERMSIG(status)));
  }
  return out;
}

bool selected(const Row& row, const std::vector<std::string>& filters) {
  if (filters.empty()) return true;
  const std::string name = row.full_name();
  for (const std::string& filter : filters) {
    if (name.find(filter) != std::string::npos) return true;
  }
  return false;
}

// Names are for people in TAP, and short enough for sessions.
std::string short_name(const Row& row) {
  return std::string(row.name) + "@" + std::string(row.id);
}

const char* needs(const Row& row) {
  switch (row.needs) {
    case Needs::Calls: return "calls";
    case Needs::Program: return "program";
    case Needs::Update: return "update";
  }
  return "";
}

class Tap {
 public:
  explicit Tap(usize count) { std::printf("TAP version 13\n1..%zu\n", count); }
  void report(const Row& row, const Outcome& out) {
    ++number_;
    const std::string name = row.full_name();
    if (out.kind == Outcome::Kind::Skipped) {
      ++skipped_;
      std::printf("ok %u - %s # SKIP %s\n", number_, name.c_str(), out.said.empty() ? "" : out.said[0].c_str());
    } else {
      const bool passed = out.kind == Outcome::Kind::Passed;
      ++(passed ? passed_ : failed_);
      std::printf("%s %u - %s\n", passed ? "ok" : "not ok", number_, name.c_str());
      for (const std::string& line : out.said) std::printf("# %s\n", line.c_str());
    }
    std::fflush(stdout);
  }
  int finish() const {
    std::printf("# %u passed, %u failed, %u skipped\n", passed_, failed_, skipped_);
    if (failed_ != 0) return 1;
    return passed_ == 0 && number_ != 0 ? 77 : 0;
  }

 private:
  unsigned number_ = 0, passed_ = 0, failed_ = 0, skipped_ = 0;
};

// Only comes back when there is no new kernel.
int first_stage(const std::vector<Row>& chosen, const Options& options, Syscalls& sys) {
  Tap tap(chosen.size());
  std::vector<Fd> kept;
  for (const Row& row : chosen) {
    Case t(sys, short_name(row), options.devices, true);
    const Outcome out = run_half(row.before, t);
    for (Fd& fd : t.take_kept()) kept.push_back(std::move(fd));
    tap.report(row, out);
  }
  if (const int status = tap.finish(); status != 0) return status;
  auto jumped = sys.kexec_load(options.kernel);
  if (jumped) jumped = sys.kexec();
  std::printf("Bail out! kexec %s: %s\n", options.kernel.c_str(),
              jumped ? "came back" : std::string(errno_name(jumped.error())).c_str());
  return 1;
}

int run(Options options) {
  std::vector<Row> chosen;
  for (const Row& row : rows()) {
    const bool in_stage = options.stage == 0 || row.needs == Needs::Update;
    if (in_stage && selected(row, options.filters)) chosen.push_back(row);
  }
  if (options.list) {
    for (const Row& row : chosen) {
      std::printf("%.*s\t%.*s\t%s\n", static_cast<int>(row.id.size()), row.id.data(), static_cast<int>(row.name.size()),
                  row.name.data(), needs(row));
    }
    return 0;
  }
  if (chosen.empty()) {
    std::fputs("uapi_test: no test has such a name; see --list\n", stderr);
    return 2;
  }
  if (options.devices.empty()) options.devices = find_devices();
  client::LibcSyscalls sys;
  if (options.stage == 1) return first_stage(chosen, options, sys);
  Tap tap(chosen.size());
  for (const Row& row : chosen) {
    if (row.needs == Needs::Update && options.stage == 0) {
      tap.report(row, {Outcome::Kind::Skipped, {"needs a live update: --stage 1, then --stage 2"}});
      continue;
    }
    Case t(sys, short_name(row), options.devices, true);
    tap.report(row, options.fork ? run_in_child(row.run, t) : run_half(row.run, t));
  }
  return tap.finish();
}

}  // namespace
}  // namespace perdure::uapi_test

int main(int argc, char** argv) {
  return perdure::uapi_test::run(perdure::uapi_test::parse(argc, argv));
}
