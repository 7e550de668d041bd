// A whole live update in one process: programs' calls, LUO, iommufd, vfio, VT-d on the board's register model, PCI;
// everything but time for the devices. Processor time, so that a busy machine does not count.
#include <benchmark/benchmark.h>

#include <utility>
#include <vector>

#include "bench/measure.h"
#include "machine/process/boot_data.h"
#include "tool/in_process_rig.h"

namespace perdure {
namespace {

using bench::median;
using bench::need;

// Range: MiB in 4 KiB leaves.
void update(benchmark::State& state) {
  tool::RigConfig config = tool::demo_machine(u64{16} << 30, 1);
  config.board.devices.resize(1);
  config.plan.devices = 1;
  config.plan.domains = 1;
  config.plan.memory[0] = u64{4} << 30;
  config.plan.slots = 64;
  config.plan.small_leaves = static_cast<u64>(state.range(0)) << 20;
  tool::InProcessRig rig(config);
  rig.steps().step = false;
  need(rig.power_on("a").has_value(), "power on");
  need(rig.start_program(0).has_value(), "start");
  std::vector<double> parts[4];
  u32 hop = 0;
  for (auto _ : state) {
    const auto now = [] { return bench::now(CLOCK_PROCESS_CPUTIME_ID); };
    double at = now();
    double spent[4];
    const auto lap = [&] {
      const double end = now();
      return end - std::exchange(at, end);
    };
    need(rig.preserve().has_value(), "preserve");
    spent[0] = lap();
    need(rig.leave(hop % 2 == 0 ? "b" : "a").has_value(), "leave");
    spent[1] = lap();
    // The board's part, which no kernel waits for on a real machine: what was not preserved is overwritten.
    const auto jump = rig.next();
    rig.board().kernel_gone(process::handover_of(rig.board(), jump.next, jump.at));
    need(process::write_boot_info(rig.board(), jump.next, jump.at).has_value(), "boot data");
    (void)lap();
    need(rig.boot(jump.image, jump.at).has_value(), "boot");
    spent[2] = lap();
    need(rig.start_program(++hop).has_value(), "come back");
    spent[3] = lap();
    double sum = 0;
    for (unsigned i = 0; i < 4; ++i) {
      parts[i].push_back(1e6 * spent[i]);
      sum += spent[i];
    }
    state.SetIterationTime(sum);
  }
  need(rig.take_problems().empty(), "somebody complained");
  const char* const names[] = {"preserve_us", "leave_us", "boot_us", "back_us"};
  for (unsigned i = 0; i < 4; ++i) state.counters[names[i]] = median(parts[i]);
}

BENCHMARK(update)->ArgName("MiB")->Arg(4)->Arg(1024)->UseManualTime()->Unit(benchmark::kMicrosecond)->Iterations(20);

}  // namespace
}  // namespace perdure

BENCHMARK_MAIN();
