// A kernel on bare metal and its one program.
#include <new>

#include "metal/build.h"
#include "metal/report.h"
#include "metal/serial.h"
#include "metal/stage.h"
#include "metal/start.h"

namespace perdure::metal {

namespace {

// Never destroyed: a kernel ends by the jump, or with the run.
template <class T>
struct Place {
  alignas(T) std::byte bytes[sizeof(T)];
};
constinit Place<Options> options_place = {};
constinit Place<Kernel> kernel_place = {};
constinit Place<Stage> stage_place = {};

}  // namespace

void run(MetalMachine& machine) {
  auto* const options = new (options_place.bytes) Options(machine.boot().command_line);
  if (!options->unknown.empty()) {
    Event("problem").field("what", "unknown word on the command line").field("word", options->unknown);
    end_run(Verdict::Failed);
  }
  if (options->quiet) machine.be_quiet();
  Config config = kBuild;
  config.table_mode = options->tables;
  auto* const kernel = new (kernel_place.bytes) Kernel(machine, config);
  if (!kernel->boot()) end_run(Verdict::Failed);
  machine.irq_enable();
  auto* const stage = new (stage_place.bytes) Stage(*kernel, machine, *options);
  stage->run();
}

}  // namespace perdure::metal
