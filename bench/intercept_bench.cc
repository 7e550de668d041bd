// What interception costs: system calls of an unmodified program under `perdure run`, beside the least that the host
// asks for such a call (a notification that is answered at once) and beside the program alone.
//
// Time on the clock, not processor time: several processes take part. A busy machine does count, so what is compared
// runs in turns, and the figure to look at is the ratio.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "bench/measure.h"
#include "client/iommufd.h"
#include "client/libc/libc_syscalls.h"
#include "client/vfio_device.h"
#include "machine/intercept/answers.h"
#include "machine/intercept/launch.h"

extern char** environ;

namespace perdure {
namespace {

using bench::median;
using bench::need;

constexpr u32 kIoasAlloc = 0x3b81;
constexpr int kCalls = 2000;
constexpr int kRounds = 5;

std::string own_path() {
  char path[PATH_MAX] = {};
  need(readlink("/proc/self/exe", path, sizeof path - 1) > 0, "/proc/self/exe");
  return path;
}

std::string perdure_path() {
  const std::string here = own_path();
  return here.substr(0, here.rfind('/')) + "/../tool/perdure";
}

// --- inside: what the measured programs do ---------------------------------------------------------------------------

// Microseconds of an ioctl that allocates an object.
double ioctls(int fd) {
  std::vector<double> each;
  each.reserve(kCalls);
  for (int i = 0; i < kCalls; ++i) {
    u32 arg[3] = {sizeof arg, 0, 0};
    const double start = bench::now(CLOCK_MONOTONIC);
    need(ioctl(fd, kIoasAlloc, arg) == 0, "ioctl");
    each.push_back(1e6 * (bench::now(CLOCK_MONOTONIC) - start));
  }
  return median(each);
}

// Microseconds of mapping 1 GiB for a device that is attached.
double maps(bool file) {
  constexpr u64 kGiB = u64{1} << 30;
  constexpr u64 kIova = u64{4} << 30;
  client::LibcSyscalls sys;
  const auto iommu = client::Iommufd::open(sys);
  const auto device = client::VfioDevice::open(sys, "/dev/vfio/devices/vfio0");
  need(iommu && device && device->bind(*iommu).has_value(), "device");
  const u32 ioas = *iommu->ioas_alloc();
  need(device->attach(ioas).has_value(), "attach");
  const s32 memory = *sys.memfd_create("guest");
  need(sys.ftruncate(memory, kGiB).has_value(), "memory");
  void* const at = mmap(nullptr, kGiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  need(at != MAP_FAILED, "memory");
  std::vector<double> each;
  for (int i = 0; i < 50; ++i) {
    const double start = bench::now(CLOCK_MONOTONIC);
    const auto mapped = file ? iommu->map_file(ioas, memory, 0, kGiB, kIova) : iommu->map(ioas, at, kGiB, kIova);
    each.push_back(1e6 * (bench::now(CLOCK_MONOTONIC) - start));
    need(mapped.has_value() && iommu->unmap(ioas, kIova, kGiB).has_value(), "map");
  }
  return median(each);
}

int inside(const std::string& what) {
  double figure = 0;
  if (what == "bare") figure = ioctls(STDIN_FILENO);
  if (what == "ioctl") figure = ioctls(open("/dev/iommu", O_RDWR | O_CLOEXEC));
  if (what == "map_file") figure = maps(true);
  if (what == "map") figure = maps(false);
  std::printf("%.6f\n", figure);
  return 0;
}

// --- outside ---------------------------------------------------------------------------------------------------------

// Runs the words; what they print, as a number.
double figure_of(const std::vector<std::string>& words) {
  int pipe[2];
  need(pipe2(pipe, O_CLOEXEC) == 0, "pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe[1], STDOUT_FILENO);
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t pid = -1;
  const int failed = posix_spawnp(&pid, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(pipe[1]);
  std::string said;
  char piece[256];
  for (ssize_t n = 0; failed == 0 && (n = read(pipe[0], piece, sizeof piece)) > 0;)
    said.append(piece, static_cast<usize>(n));
  close(pipe[0]);
  int status = -1;
  need(failed == 0 && waitpid(pid, &status, 0) == pid && status == 0, words[0].c_str());
  return said.empty() ? 0 : std::stod(said);
}

double under_perdure(const std::string& what, const std::string& agent = "off") {
  return figure_of({perdure_path(), "run", "--agent=" + agent, "--", own_path(), "--inside", what});
}

// The least there is: each ioctl comes to this process, which answers it without looking.
double bare_round_trip() {
  int pipe[2];
  need(pipe2(pipe, 0) == 0, "pipe");
  const int kept = dup(STDOUT_FILENO);
  dup2(pipe[1], STDOUT_FILENO);
  const auto filter = intercept::build_filter({.files = false, .eventfds = false});
  intercept::Program program{.arguments = {own_path(), "--inside", "bare"}, .mask = {}};
  auto launched = intercept::Launched::prepare(program, filter);
  dup2(kept, STDOUT_FILENO);
  close(kept);
  close(pipe[1]);
  need(launched.has_value(), "seccomp listener");
  intercept::Listener listener(launched->take_listener());
  const pid_t pid = launched->pid();
  std::jthread starter([&] { (void)launched->go(); });
  for (int answered = 0;;) {
    // Who waits in receive() may not hear that nobody is left to call.
    pollfd p = {listener.fd(), POLLIN, 0};
    if (answered == kCalls && poll(&p, 1, -1) > 0 && (p.revents & POLLIN) == 0) break;
    const auto call = listener.receive();
    if (!call) continue;
    if (call->number == __NR_ioctl && static_cast<u32>(call->args[1]) == kIoasAlloc) {
      listener.answer(*call, 0);
      ++answered;
    } else {
      listener.resume(*call);
    }
  }
  char said[64] = {};
  const ssize_t n = read(pipe[0], said, sizeof said - 1);
  close(pipe[0]);
  waitpid(pid, nullptr, 0);
  need(n > 0, "the bare program");
  return std::stod(said);
}

double wall_us(const std::vector<std::string>& words) {
  const double start = bench::now(CLOCK_MONOTONIC);
  (void)figure_of(words);
  return 1e6 * (bench::now(CLOCK_MONOTONIC) - start);
}

// `what` and its yardstick in turns.
template <class What, class Yardstick>
void compare(benchmark::State& state, const char* name, What what, Yardstick yardstick) {
  std::vector<double> whats, yardsticks;
  for (auto _ : state) {
    yardsticks.push_back(yardstick());
    whats.push_back(what());
    state.SetIterationTime(1e-6 * whats.back());
  }
  state.counters[name] = median(yardsticks);
  state.counters["ratio"] = median(whats) / median(yardsticks);
}

void ioctl_row(benchmark::State& state) {
  compare(state, "notification_us", [] { return under_perdure("ioctl"); }, bare_round_trip);
}
void ioctl_by_agent(benchmark::State& state) {
  compare(state, "notification_us", [] { return under_perdure("ioctl", "only"); }, bare_round_trip);
}
void map_file_1gib(benchmark::State& state) {
  compare(state, "ioctl_us", [] { return under_perdure("map_file"); }, [] { return under_perdure("ioctl"); });
}
void map_private_1gib(benchmark::State& state) {
  compare(state, "ioctl_us", [] { return under_perdure("map"); }, [] { return under_perdure("ioctl"); });
}
void run_true(benchmark::State& state) {
  compare(state, "true_us", [] { return wall_us({perdure_path(), "run", "true"}); }, [] { return wall_us({"true"}); });
}

BENCHMARK(ioctl_row)->Name("ioctl")->UseManualTime()->Unit(benchmark::kMicrosecond)->Iterations(kRounds);
BENCHMARK(ioctl_by_agent)->UseManualTime()->Unit(benchmark::kMicrosecond)->Iterations(kRounds);
BENCHMARK(map_file_1gib)->UseManualTime()->Unit(benchmark::kMicrosecond)->Iterations(kRounds);
BENCHMARK(map_private_1gib)->UseManualTime()->Unit(benchmark::kMicrosecond)->Iterations(kRounds);
BENCHMARK(run_true)->UseManualTime()->Unit(benchmark::kMicrosecond)->Iterations(kRounds);

}  // namespace
}  // namespace perdure

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "--inside") == 0) return perdure::inside(argv[2]);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
