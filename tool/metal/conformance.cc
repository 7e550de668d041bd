#include "tool/metal/conformance.h"

#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <map>
#include <nlohmann/json.hpp>

#include "tool/machine/run_directory.h"
#include "tool/metal/guest.h"
#include "tool/metal/lines.h"
#include "tool/progress.h"
#include "tool/report.h"

namespace perdure::tool::metal {

namespace {

using nlohmann::json;

constexpr const char* kVerdicts[] = {"conforms", "differs as documented", "fails", "not applicable"};
constexpr usize kMostBehaviours = 100'000;

struct Behaviour {
  std::string name;
  std::string verdict;
  std::string why;  // what was seen, expected, or is missing
};

std::string text_of(const json& said, const char* key) {
  const auto found = said.find(key);
  if (found == said.end()) return {};
  return printable(found->is_string() ? found->get<std::string>()
                                      : found->dump(-1, ' ', true, json::error_handler_t::replace));
}

// What the image says, and what is wrong with it.
class List {
 public:
  void line(std::string_view text) {
    if (text.empty() || text.front() != '{') return;
    const json said = shallow(text) ? json::parse(text, nullptr, false) : json();
    const std::string event = said.is_object() ? text_of(said, "event") : std::string();
    if (event == "behaviour") {
      behaviour(said);
    } else if (event == "problem") {
      problems.push_back("guest: " + text_of(said, "what"));
    } else if (event == "end") {
      end(said);
    } else if (event != "unit") {
      problems.push_back("the guest printed an unknown event: " + cut(printable(text)));
    }
  }
  // No more will come.
  void finish() {
    if (!ended_) problems.emplace_back("the guest stopped without saying that it is done");
    if (counts["conforms"] == 0) problems.emplace_back("no behaviour was looked at");
    if (counts["fails"] != 0) problems.push_back(fmt::format("{} behaviours fail", counts["fails"]));
  }

  std::vector<Behaviour> behaviours;
  std::map<std::string, u64> counts;
  std::vector<std::string> problems;

 private:
  void behaviour(const json& said) {
    Behaviour b{.name = text_of(said, "name"), .verdict = text_of(said, "verdict"), .why = {}};
    const bool known = std::find(std::begin(kVerdicts), std::end(kVerdicts), b.verdict) != std::end(kVerdicts);
    if (!known || b.name.empty() || ended_ || behaviours.size() == kMostBehaviours) {
      problems.push_back("a verdict that is none: " + cut(b.name + " " + b.verdict));
      return;
    }
    for (const char* key : {"seen", "expected", "problem", "why"}) {
      if (const std::string text = text_of(said, key); !text.empty()) {
        b.why += fmt::format("{}{} {}", b.why.empty() ? "" : ", ", key, text);
      }
    }
    ++counts[b.verdict];
    behaviours.push_back(std::move(b));
  }
  // It counted, too.
  void end(const json& said) {
    ended_ = true;
    constexpr const char* kNames[] = {"conforms", "differs", "fails", "not_applicable"};
    for (usize i = 0; i < std::size(kNames); ++i) {
      if (said.value(kNames[i], json()) != counts[kVerdicts[i]]) {
        problems.push_back(fmt::format("the guest counts {} that are '{}', {} came", text_of(said, kNames[i]),
                                       kVerdicts[i], counts[kVerdicts[i]]));
      }
    }
  }
  bool ended_ = false;
};

void print(const MetalOptions& options, const Qemu& qemu, const List& list) {
  fmt::print("QEMU {} (q35, TCG, intel-iommu), {} tables: what its unit does, one behaviour after the other\n\n",
             qemu.version.to_string(), options.tables);
  for (const Behaviour& b : list.behaviours) {
    if (b.verdict == "conforms") {
      fmt::print("  {:<44} conforms\n", b.name);
    } else {
      fmt::print("  {:<44} {}: {}\n", b.name, b.verdict, b.why);
    }
  }
  fmt::print("\n");
  for (const std::string& p : list.problems) fmt::print("  problem: {}\n", p);
}

}  // namespace

int run_conformance(const MetalOptions& options) {
  if (!options.breakage.empty() || !options.dump.empty() || !options.devices.empty()) {
    fmt::print(stderr, "perdure metal: --conformance makes no update that --break, --dump or --device could be for\n");
    return kUsage;
  }
  // An edu's transfer takes 100 ms of the machine's time; there are hundreds.
  const MachineSpec machine{.devices = {},
                            .scalable = options.tables == "scalable",
                            .seabios = options.firmware == "seabios",
                            .icount_shift = 10,
                            .probes = true};
  const RunDirectory directory;
  Attachments with{.kernel = image_directory(options) / "perdure-metal-conformance.elf",
                   .modules = {},
                   .disk = {},
                   .trace = directory.path() / "trace",
                   .words = {}};
  if (!std::filesystem::exists(with.kernel)) {
    return skip(options, with.kernel.string() + " is not there: builds with sanitizers have no images for bare metal");
  }
  const auto qemu = find_qemu(options.qemu, machine, options.any_version);
  if (!qemu) return skip(options, qemu.error());
  with.words = qemu->version.major == 7 && qemu->version.minor == 2 ? "unit=qemu-7.2" : "unit=qemu";

  List list;
  Lines lines;
  std::signal(SIGPIPE, SIG_IGN);
  {
    Progress progress(options.json || options.verbose);
    progress.step(fmt::format("QEMU {}: power on", qemu->version.to_string()));
    Guest guest(*qemu, machine, with, static_cast<u32>(options.seed));
    guest.on_serial = [&](std::string_view bytes, u64) {
      const auto take = [&](std::string_view text) {
        if (options.verbose) fmt::print(stderr, "{}\n", printable(text));
        list.line(text);
      };
      lines.take(bytes, take, [&](std::string_view) { list.problems.emplace_back("a line without end"); });
    };
    const GuestRun run = guest.run(u64{options.timeout != 0 ? options.timeout : 300} * 1'000'000'000);
    list.finish();
    if (std::string fault = judge(run); !fault.empty()) list.problems.push_back(std::move(fault));
  }

  const bool clean = list.problems.empty();
  if (options.json) {
    json out = {{"clean", clean},
                {"qemu", {{"version", qemu->version.to_string()}, {"says", qemu->says}}},
                {"tables", options.tables},
                {"counts", list.counts},
                {"problems", list.problems},
                {"behaviours", json::array()}};
    for (const Behaviour& b : list.behaviours) {
      out["behaviours"].push_back({{"name", b.name}, {"verdict", b.verdict}, {"why", b.why}});
    }
    fmt::print("{}\n", out.dump(2, ' ', true, json::error_handler_t::replace));
  } else {
    print(options, *qemu, list);
    fmt::print("{} ({} conform, {} differ as documented, {} fail, {} do not apply here)\n",
               clean ? "as documented" : "FAILED: see above", list.counts["conforms"],
               list.counts["differs as documented"], list.counts["fails"], list.counts["not applicable"]);
  }
  return clean ? kClean : kFailed;
}

}  // namespace perdure::tool::metal
