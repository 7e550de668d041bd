// The `perdure` program.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "tool/demo.h"
#include "tool/machine/commands.h"
#include "tool/metal/metal.h"
#include "tool/program.h"
#include "tool/run/run.h"
#include "tool/selftest.h"

namespace {

constexpr int kUsage = 2;

// `perdure run` is followed by another program's command line: takes off what comes after its own options, or after
// "--".
std::vector<std::string> split_program(const CLI::App& command, int& argc, char** argv) {
  if (argc < 2 || std::string_view(argv[1]) != command.get_name()) return {};
  int end = 2;
  while (end < argc && argv[end][0] == '-' && std::string_view(argv[end]) != "--") {
    const CLI::Option* option = command.get_option_no_throw(argv[end]);
    end += option && option->get_items_expected_min() > 0 ? 2 : 1;
  }
  end = std::min(end, argc);
  int begin = end;
  if (begin < argc && std::string_view(argv[begin]) == "--") ++begin;
  std::vector<std::string> program(argv + begin, argv + argc);
  argc = end;
  return program;
}

// `perdure machine run NAME …` is `perdure run --machine NAME …`.
std::vector<char*> without_alias(int argc, char** argv) {
  static char run[] = "run";
  static char machine[] = "--machine";
  std::vector<char*> words(argv, argv + argc);
  if (argc >= 3 && std::string_view(argv[1]) == "machine" && std::string_view(argv[2]) == "run" &&
      (argc == 3 || argv[3][0] != '-')) {
    words[1] = run;
    words[2] = machine;
  }
  words.push_back(nullptr);
  return words;
}

int run(int argc, char** argv) {
  CLI::App app{"Perdure: live update for machines whose devices keep doing DMA"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "perdure 0.1.0");

  perdure::tool::DemoOptions demo;
  CLI::App* demo_command =
      app.add_subcommand("demo", "replace the kernel under running DMA, there and back; prints a verdict");
  demo_command->add_flag("--cold", demo.cold, "a plain kexec: preserves nothing, and shows what that destroys");
  demo_command
      ->add_option(
          "--break", demo.breakage,
          "make the proof fail: te-gap (translation off for 5 ms) or table-page (one table page not preserved)")
      ->check(CLI::IsMember({"te-gap", "table-page"}));
  demo_command->add_flag("--json", demo.json, "the report as JSON");
  demo_command->add_flag("--in-process", demo.in_process, "one process, stepped, repeatable from --seed");
  demo_command->add_flag("--wire", demo.wire,
                         "programs talk to the kernel's socket instead of being ordinary ones under perdure run");
  demo_command->add_option("--hops", demo.hops, "live updates to make")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  demo_command
      ->add_option("--stretch", demo.stretch_ms, "milliseconds that devices stream before and after each update")
      ->check(CLI::Range(1, 100'000));
  demo_command
      ->add_option("--memory", demo.memory, "guest memory in all, from 16G; sparse, a 64th of it in leaves of 4 KiB")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(perdure::u64{16} << 30, perdure::u64{1} << 40))
      ->default_str("64G");
  demo_command
      ->add_option("--rate", demo.rate, "transfers a second of each of the devices' rings; not with --in-process")
      ->check(CLI::Range(1000, 1'000'000))
      ->capture_default_str();
  demo_command->add_option("--seed", demo.seed, "of everything random")->capture_default_str();
  demo_command->add_option("--caches", demo.caches, "with --in-process: the IOMMU's cache policy")
      ->check(CLI::IsMember({"sticky", "evict", "random"}));
  demo_command->add_option("--board", demo.board, "a board from this file (docs/board.md, configs/*.toml)");
  demo_command->add_option("--tables", demo.tables, "how the IOMMU translates")
      ->check(CLI::IsMember({"legacy", "scalable", "first-stage"}))
      ->capture_default_str();
  demo_command->add_option("--kernel", demo.kernel,
                           "jump to this kernel (a name, or a path to a binary) instead of b and a in turn");
  demo_command->add_flag("--verbose", demo.verbose, "with --in-process: the kernels' log on standard error");

  perdure::tool::ProgramOptions program;
  CLI::App* program_command = app.add_subcommand("program", "a program of the demo")->group("");
  program_command->add_option("--socket", program.socket);
  program_command->add_option("--hop", program.hop)->required();
  program_command->add_option("--plan", program.plan)->required();
  program_command->add_flag("--selftest", program.selftest);

  CLI::App* selftest_command = app.add_subcommand(
      "selftest", "the two-stage test of the kernel series, around kexecs there and back, every refusal included");

  perdure::tool::MachineCommands machine(app);

  namespace metal = perdure::tool::metal;
  metal::MetalOptions on_metal;
  CLI::App* metal_command = app.add_subcommand(
      "metal",
      "live updates on hardware that others wrote: bare metal in QEMU's q35 with its VT-d; status 77: none to run on");
  metal_command->add_option("--hops", on_metal.hops, "live updates to make")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  metal_command
      ->add_option("--device", on_metal.devices, "with these bus masters instead of all: ohci, edu, e1000e, nvme")
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(metal::kDeviceNames), std::end(metal::kDeviceNames))));
  metal_command->add_option("--tables", on_metal.tables, "how the IOMMU translates")
      ->check(CLI::IsMember({"legacy", "scalable"}))
      ->capture_default_str();
  metal_command->add_option("--firmware", on_metal.firmware, "what starts the machine")
      ->check(CLI::IsMember({"qboot", "seabios"}))
      ->capture_default_str();
  metal_command->add_flag("--icount", on_metal.icount,
                          "instructions are the clock, so that every run is the same (edu and ohci)");
  metal_command->add_flag("--interrupts", on_metal.interrupts,
                          "the edu's transfers interrupt, through the unit's remapping table");
  metal_command->add_option("--break", on_metal.breakage, "make the proof fail")
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(metal::kBreakages), std::end(metal::kBreakages))));
  metal_command->add_flag("--json", on_metal.json, "the report as JSON");
  metal_command
      ->add_option("--dump", on_metal.dump,
                   "save guest memory at the last jump as an ELF core, and to FILE.json what should be in it")
      ->option_text("FILE");
  metal_command->add_flag("--raw", on_metal.raw, "with --dump: plain bytes from address 0 on");
  metal_command->add_option("--qemu", on_metal.qemu, "this QEMU")->capture_default_str();
  metal_command->add_flag("--any-version", on_metal.any_version, "on a QEMU newer than those that are known, too");
  metal_command->add_flag("--conformance", on_metal.conformance,
                          "instead: hardware's behaviours, one by one, as the model has them");
  metal_command->add_option("--seed", on_metal.seed, "of everything random")
      ->check(CLI::Range(perdure::u64{0}, perdure::u64{0xFFFFFFFF}))
      ->capture_default_str();
  metal_command
      ->add_option("--stretch-us", on_metal.stretch_us,
                   "microseconds that devices run before and after each jump, in the guest's time")
      ->check(CLI::Range(1, 100'000'000));
  metal_command->add_option("--timeout", on_metal.timeout, "seconds after which QEMU is ended")
      ->check(CLI::Range(1, 100'000));
  metal_command->add_option("--images", on_metal.images, "directory of the guest's images")->group("");
  metal_command->add_flag("--verbose", on_metal.verbose, "everything that the guest prints, on standard error");

  perdure::tool::RunOptions on_machine;
  CLI::App* run_command = app.add_subcommand("run",
                                             "a program, unmodified, with /dev/iommu, /dev/vfio and /dev/liveupdate of "
                                             "a machine: run [OPTIONS] -- PROGRAM ARGUMENTS…");
  run_command->add_option("--machine", on_machine.machine, "a machine that is up; else one of its own, for this run")
      ->option_text("NAME");
  run_command->add_option("--config", on_machine.config, "what a machine of its own is made of (docs/machine.md)")
      ->option_text("FILE")
      ->excludes("--machine");
  run_command->add_option("--socket", on_machine.socket, "a machine by the socket of its kernel process")
      ->option_text("PATH")
      ->excludes("--machine");
  run_command
      ->add_option("--restart", on_machine.restarts, "start the program again under the next kernel, so many times")
      ->option_text("TIMES");
  run_command->add_option("--log", on_machine.log, "append every system call that was served to this file")
      ->option_text("FILE");
  run_command
      ->add_option("--mmio", on_machine.mmio,
                   "registers that the program maps: trap carries its loads and stores out, off leaves it none to map, "
                   "auto is trap where the host allows it")
      ->check(CLI::IsMember({"auto", "trap", "off"}))
      ->capture_default_str();
  run_command
      ->add_option(
          "--agent", on_machine.agent,
          "a library that is preloaded into dynamic programs, instead of seccomp: auto is where the host refuses "
          "the latter")
      ->check(CLI::IsMember({"auto", "only", "off"}))
      ->capture_default_str();
  run_command->add_flag("!--no-sysfs", on_machine.files, "leave the host's sysfs alone: only the device nodes");

  std::vector<std::string> program_of_run = split_program(*run_command, argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kUsage;
  }
  if (const auto status = machine.run()) return *status;
  if (*demo_command) return perdure::tool::run_demo(demo);
  if (*metal_command) return metal::run_metal(on_metal);
  if (*run_command) {
    on_machine.program = std::move(program_of_run);
    if (on_machine.program.empty()) {
      std::fprintf(stderr, "perdure run: which program? perdure run [OPTIONS] -- PROGRAM ARGUMENTS...\n");
      return kUsage;
    }
    return perdure::tool::run_run(on_machine);
  }
  if (*selftest_command) return perdure::tool::run_selftest();
  if (*program_command) return perdure::tool::run_program(program);
  return kUsage;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::vector<char*> words = without_alias(argc, argv);
    return run(argc, words.data());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "perdure: %s\n", e.what());
    return 1;
  }
}
