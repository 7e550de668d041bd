#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "machine/process/board_server.h"
#include "machine/wire/program.h"
#include "tool/child.h"
#include "tool/machine/run_directory.h"
#include "tool/program.h"
#include "tool/rig.h"

namespace perdure::tool {

namespace {

using nlohmann::json;

constexpr int kProgramTimeoutMs = 60'000;
constexpr u64 kBootTimeoutNs = 30'000'000'000;

// The board is in this process; kernel and program are processes of their own.
class HostedRig final : public Rig {
 public:
  explicit HostedRig(const RigConfig& config)
      : config_(config),
        server_({.board = config.board,
                 .kernel_directory = std::filesystem::read_symlink("/proc/self/exe").parent_path(),
                 .program_socket = directory_.path() / "kernel",
                 .first_kernel = "a"}) {}

  board::Board& board() override { return server_.board(); }

  Result<void> power_on(std::string_view) override {
    server_.board().start();
    TRY(server_.power_on());
    ready_ = TRY(server_.wait_ready(std::nullopt, kBootTimeoutNs));
    return {};
  }

  Result<void> start_program(u32 hop) override {
    std::vector<std::string> words;
    if (config_.wire) {
      words = {"program", "--socket", socket()};
    } else {
      words = {"run",    "--socket", socket(), "--no-sysfs", "--", std::filesystem::read_symlink("/proc/self/exe"),
               "program"};
    }
    for (const std::string& word :
         {std::string("--hop"), std::to_string(hop), std::string("--plan"), plan_text(config_.plan)}) {
      words.push_back(word);
    }
    if (config_.selftest) words.emplace_back("--selftest");
    program_.emplace(TRY(Child::start(words)));
    return await("begin");
  }
  void end_program() override {
    if (!program_) return;
    if (const auto told = program_->tell("quit"); !told || program_->wait() != 0) {
      add_problem("the program did not end as it was told");
    }
    program_.reset();
  }

  Result<void> verify() override { return order("verify"); }
  Result<void> preserve() override { return order("preserve"); }

  Result<void> kexec(std::string_view kernel) override {
    {
      auto admin = TRY(wire::ProgramSyscalls::connect(socket(), 1000));
      TRY(admin->kexec_load(kernel));
      const auto gone = admin->kexec();
      if (gone || gone.error() != Errno::Ekilled) return gone ? Result<void>(fail(Errno::Eproto)) : gone;
    }
    ready_ = TRY(server_.wait_ready(ready_.hop, kBootTimeoutNs));
    if (program_) {
      // A program that knows of the kernel notices that it is gone; others are killed, as a reboot does it.
      const int expected = config_.wire ? 9 : 128 + SIGKILL;
      if (const int status = program_->wait(); status != expected) {
        add_problem(fmt::format("the program ended with status {} instead of dying with its kernel", status));
      }
      program_.reset();
    }
    return {};
  }

  void forget_table_page(board::Bdf device) override { server_.forget_table_page(device); }
  board::PoisonStats poison() override { return server_.last_poison(); }
  std::string release() override { return ready_.release; }

  std::vector<TimedPhase> timeline() override {
    std::vector<TimedPhase> all;
    auto admin = wire::ProgramSyscalls::connect(socket(), 1000);
    if (!admin) return all;
    const auto status = (*admin)->status();
    if (!status) return all;
    const json parsed = json::parse(*status);
    for (const json& p : parsed.at("timeline")) {
      all.push_back({p.at("phase"), p.at("begin_ns"), p.at("end_ns")});
    }
    return all;
  }

  void run_for(u64 ns) override { poll(nullptr, 0, static_cast<int>(ns / 1'000'000)); }

 private:
  std::string socket() const { return (directory_.path() / "kernel").string(); }

  Result<void> order(std::string_view command) {
    if (!program_) return fail(Errno::Ekilled);
    TRY(program_->tell(command));
    return await(command);
  }

  // Takes what the program says until it says that it has done this.
  Result<void> await(std::string_view command) {
    for (;;) {
      const auto line = program_->line(kProgramTimeoutMs);
      if (!line) {
        add_problem(fmt::format("the program did not finish '{}': {}", command, errno_name(line.error())));
        return fail(line.error());
      }
      const json said = json::parse(*line, nullptr, false);
      if (said.is_discarded()) {
        add_problem("the program said: " + *line);
      } else if (said.contains("problem")) {
        add_problem("program: " + said["problem"].get<std::string>());
      } else if (said.contains("intend")) {
        const json& i = said["intend"];
        declare(config_, {.device = i.at("device"),
                          .iova = i.at("iova"),
                          .length = i.at("length"),
                          .memory_id = i.at("memory"),
                          .offset = i.at("offset")});
      } else if (said.contains("done") && said["done"] == command) {
        const int error = said.at("error");
        if (error != 0) return fail(static_cast<Errno>(error));
        return {};
      }
    }
  }

  RunDirectory directory_;
  RigConfig config_;
  process::BoardServer server_;
  process::BoardServer::Ready ready_;
  std::optional<Child> program_;
};

}  // namespace

std::unique_ptr<Rig> hosted_rig(const RigConfig& config) {
  return std::make_unique<HostedRig>(config);
}

}  // namespace perdure::tool
