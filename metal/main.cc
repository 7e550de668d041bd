// A kernel on bare metal and its one program.
#include <new>

#include "core/base/log.h"
#include "metal/build.h"
#include "metal/options.h"
#include "metal/program.h"
#include "metal/report.h"
#include "metal/serial.h"
#include "metal/start.h"

namespace perdure::metal {

namespace {

// Never destroyed: a kernel ends by the jump, or with the run.
alignas(Kernel) constinit std::byte kernel_storage[sizeof(Kernel)] = {};
alignas(Program) constinit std::byte program_storage[sizeof(Program)] = {};

[[noreturn]] void finish(bool ok, u32 hops) {
  Event("end").flag("ok", ok).field("hops", hops);
  end_run(ok ? Verdict::Passed : Verdict::Failed);
}

[[noreturn]] void give_up(std::string_view what, Errno why, u32 hop) {
  Event("problem").field("what", (Line() << what << ": " << why).view());
  finish(false, hop);
}

}  // namespace

void run(MetalMachine& machine) {
  const Options options(machine.boot().command_line);
  const u32 hop = machine.boot().hop;
  Config config = kBuild;
  config.table_mode = options.tables;
  auto* const kernel = new (kernel_storage) Kernel(machine, config);
  if (auto booted = kernel->boot(); !booted) give_up("boot", booted.error(), hop);
  machine.irq_enable();
  if (hop == 0) {
    Event("boot")
        .field("hop", hop)
        .field("release", kBuild.release)
        .field("firmware", machine.facts().firmware)
        .field("devices", kernel->bus().size());
  }
  auto* const program = new (program_storage) Program(*kernel, machine);
  if (hop == options.hops) finish(true, hop);
  if (auto loaded = program->kexec_load(kNextKernel); !loaded) give_up("load the next kernel", loaded.error(), hop);
  Event("jump").field("number", hop + 1);
  const auto jumped = program->kexec();
  give_up("kexec", jumped.error(), hop);
}

}  // namespace perdure::metal
