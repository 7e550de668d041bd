#include "metal/start.h"

#include <new>

#include "core/base/log.h"
#include "metal/clock.h"
#include "metal/report.h"
#include "metal/serial.h"

namespace perdure::metal {

namespace {

// Ends with the image.
alignas(MetalMachine) constinit std::byte machine_storage[sizeof(MetalMachine)] = {};

}  // namespace

// From entry.S: one of both addresses is 0.
extern "C" [[noreturn]] void metal_start(u64 boot_info, u64 start_info);

extern "C" void metal_start(u64 boot_info, u64 start_info) {
  serial_init();
  cpu_init();
  if (!clock_init()) {
    log(LogLevel::Error, "no HPET at 0xfed00000: this is no machine that can be timed");
    end_run(Verdict::Broken);
  }
  if (boot_info == 0) keep_facts(Phys(start_info));
  auto* const machine = new (machine_storage) MetalMachine;
  if (auto opened = machine->open(Phys(boot_info)); !opened) {
    log(LogLevel::Error, (Line() << "the machine cannot be opened: " << opened.error()).view());
    end_run(Verdict::Broken);
  }
  run(*machine);
}

}  // namespace perdure::metal
