#include "tool/program.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "client/libc/libc_syscalls.h"
#include "machine/wire/program.h"
#include "scenarios/selftest.h"

namespace perdure::tool {

namespace {

using nlohmann::json;

void say(const json& line) {
  std::cout << line.dump() << std::endl;  // NOLINT(performance-avoid-endl): the reader waits for the line
}

class Telling final : public scenarios::Witness {
 public:
  void intend(const scenarios::Intended& i) override {
    say({{"intend",
          {{"device", i.device},
           {"iova", i.iova},
           {"length", i.length},
           {"memory", i.memory_id},
           {"offset", i.offset}}}});
  }
  void problem(std::string_view what, Errno why) override {
    say({{"problem", fmt::format("{}: {}", what, errno_name(why))}});
  }
};

scenarios::StreamsPlan plan_from(const std::string& text) {
  const json j = json::parse(text);
  scenarios::StreamsPlan plan;
  plan.first_device = j.at("first_device");
  plan.devices = j.at("devices");
  plan.domains = j.at("domains");
  for (u32 i = 0; i < plan.devices; ++i) plan.domain_of[i] = j.at("domain_of").at(i);
  for (u32 i = 0; i < scenarios::StreamsPlan::kMostDevices; ++i) plan.vfio[i] = j.at("vfio").at(i);
  for (u32 i = 0; i < plan.domains; ++i) plan.memory[i] = j.at("memory").at(i);
  plan.small_leaves = j.at("small_leaves");
  plan.slots = j.at("slots");
  plan.rate = j.at("rate");
  plan.seed = j.at("seed");
  plan.iova_bits = j.at("iova_bits");
  plan.irq_every = j.at("irq_every");
  plan.rest_ns = j.at("rest_ns");
  plan.take = static_cast<scenarios::Take>(j.at("take").get<unsigned>());
  return plan;
}

// The next line of standard input; empty when the kernel, if there is a socket to know it by, or whoever started us, is
// gone.
std::string next_command(int kernel) {
  pollfd fds[] = {{STDIN_FILENO, POLLIN, 0}, {kernel, POLLRDHUP, 0}};
  while (poll(fds, 2, -1) < 0) {
  }
  std::string line;
  if ((fds[0].revents & POLLIN) != 0 && std::getline(std::cin, line)) return line;
  return {};
}

// Says that `what` is done, or how it failed.
void answer(std::string_view what, const Result<void>& result) {
  say({{"done", what}, {"error", result ? 0 : static_cast<int>(result.error())}});
}

int run_stage(const ProgramOptions& options, client::Syscalls& sys, int kernel, Telling& witness) {
  scenarios::Selftest stage({sys, witness});
  answer("begin", options.hop == 0 ? stage.before("b") : stage.after());
  if (next_command(kernel) == "quit") return 0;
  // As a program dies with its kernel: nothing is closed in an orderly way.
  _exit(9);
}

}  // namespace

std::string plan_text(const scenarios::StreamsPlan& plan) {
  json j = {{"first_device", plan.first_device},
            {"devices", plan.devices},
            {"domains", plan.domains},
            {"small_leaves", plan.small_leaves},
            {"slots", plan.slots},
            {"rate", plan.rate},
            {"irq_every", plan.irq_every},
            {"rest_ns", plan.rest_ns},
            {"seed", plan.seed},
            {"take", static_cast<unsigned>(plan.take)},
            {"domain_of", json::array()},
            {"memory", json::array()},
            {"vfio", json::array()},
            {"iova_bits", plan.iova_bits}};
  for (u32 i = 0; i < plan.devices; ++i) j["domain_of"].push_back(plan.domain_of[i]);
  for (u32 number : plan.vfio) j["vfio"].push_back(number);
  for (u32 i = 0; i < plan.domains; ++i) j["memory"].push_back(plan.memory[i]);
  return j.dump();
}

namespace {

int run_on(const ProgramOptions& options, client::Syscalls& sys, int kernel) {
  Telling witness;
  if (options.selftest) return run_stage(options, sys, kernel, witness);
  scenarios::Streams streams({sys, witness}, plan_from(options.plan));
  answer("begin", streams.begin(options.hop));
  for (;;) {
    const std::string command = next_command(kernel);
    if (command == "preserve") {
      answer(command, streams.preserve());
    } else if (command == "verify") {
      answer(command, streams.verify());
    } else if (command == "quit") {
      return 0;
    } else {
      // As a program dies with its kernel: nothing is closed in an orderly way.
      _exit(9);
    }
  }
}

}  // namespace

int run_program(const ProgramOptions& options) {
  if (options.socket.empty()) {
    client::LibcSyscalls sys;
    return run_on(options, sys, -1);
  }
  const auto sys = wire::ProgramSyscalls::connect(options.socket, 5000);
  if (!sys) {
    say({{"problem", fmt::format("no kernel at {}: {}", options.socket, errno_name(sys.error()))}});
    return 1;
  }
  return run_on(options, **sys, (*sys)->socket());
}

}  // namespace perdure::tool
