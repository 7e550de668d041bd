// The `perdure` program.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "tool/demo.h"
#include "tool/program.h"
#include "tool/selftest.h"

namespace {

constexpr int kUsage = 2;

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
  demo_command->add_option("--hops", demo.hops, "live updates to make")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  demo_command
      ->add_option("--stretch", demo.stretch_ms, "milliseconds that devices stream before and after each update")
      ->check(CLI::Range(1, 100'000));
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
  program_command->add_option("--socket", program.socket)->required();
  program_command->add_option("--hop", program.hop)->required();
  program_command->add_option("--plan", program.plan)->required();
  program_command->add_flag("--selftest", program.selftest);

  CLI::App* selftest_command = app.add_subcommand(
      "selftest", "the two-stage test of the kernel series, around kexecs there and back, every refusal included");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kUsage;
  }
  if (*demo_command) return perdure::tool::run_demo(demo);
  if (*selftest_command) return perdure::tool::run_selftest();
  if (*program_command) return perdure::tool::run_program(program);
  return kUsage;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "perdure: %s\n", e.what());
    return 1;
  }
}
