#include "tool/metal/metal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "tool/machine/run_directory.h"
#include "tool/metal/conformance.h"
#include "tool/metal/dump.h"
#include "tool/metal/gcmd_trace.h"
#include "tool/metal/guest.h"
#include "tool/metal/lines.h"
#include "tool/metal/transcript.h"
#include "tool/progress.h"
#include "tool/report.h"

namespace perdure::tool::metal {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Linux 7.3.4 with the IOMMU series, one kexec with a preserved domain in the same QEMU (docs/performance.md).
constexpr u64 kPeerHopNs = 1'580'000'000;
// With more hops, devices' patient checks and their evidence come now and then only.
constexpr unsigned kShortChain = 10;

bool contains(const std::vector<std::string>& all, std::string_view one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

// What the host feeds at its own pace is not the same each time.
bool deterministic(std::string_view device) {
  return device == "ohci" || device == "edu";
}

struct Plan {
  MachineSpec machine;
  Expected expected;
  std::string words;
  fs::path kernel;
  fs::path modules;
  u64 deadline_ns = 0;
};

// An unexpected is what is wrong with the options.
std::expected<Plan, std::string> plan_of(const MetalOptions& options) {
  Plan plan;
  plan.machine = {.devices = options.devices,
                  .scalable = options.tables == "scalable",
                  .seabios = options.firmware == "seabios",
                  .interrupts = options.interrupts,
                  .icount_shift = options.icount ? 7U : 0U};
  for (const char* name : kDeviceNames) {
    const bool wanted = options.devices.empty() && (!options.icount || deterministic(name));
    if (wanted) plan.machine.devices.emplace_back(name);
  }
  for (const std::string& name : plan.machine.devices) {
    if (options.icount && !deterministic(name)) {
      return std::unexpected(fmt::format("--icount repeats nothing with {}: the host feeds it at its own pace", name));
    }
    if (std::count(plan.machine.devices.begin(), plan.machine.devices.end(), name) > 1) {
      return std::unexpected(fmt::format("--device {} is given twice", name));
    }
  }
  if (options.interrupts && !contains(plan.machine.devices, "edu")) {
    return std::unexpected("--interrupts are the edu's, which is not there");
  }
  if (options.raw && options.dump.empty()) return std::unexpected("--raw is for --dump");

  plan.expected = {.hops = options.hops, .devices = plan.machine.devices, .quiet = options.hops > kShortChain};
  // The guest drives what it finds, and takes the mode that its unit offers.
  plan.words = fmt::format("hops={} seed={}", options.hops, options.seed);
  const unsigned stretch_us = options.stretch_us != 0 ? options.stretch_us : plan.expected.quiet ? 0 : 50'000;
  if (stretch_us != 0) plan.words += fmt::format(" stretch_us={}", stretch_us);
  if (plan.expected.quiet) plan.words += " quiet";
  if (options.interrupts) plan.words += " irq";
  if (!options.breakage.empty()) plan.words += " break=" + options.breakage;
  if (!options.dump.empty()) plan.words += " pause=jump";

  const fs::path directory = options.images.empty()
                                 ? fs::read_symlink("/proc/self/exe").parent_path().parent_path() / "metal"
                                 : fs::path(options.images);
  plan.kernel = directory / (options.conformance ? "perdure-metal-conformance.elf" : "perdure-metal-a.elf");
  plan.modules = directory / "metal-modules.bin";
  // Ten times what it takes on a machine that has other work to do.
  const u64 seconds = options.timeout != 0 ? options.timeout : 60 + u64{options.hops};
  plan.deadline_ns = seconds * 1'000'000'000;
  return plan;
}

std::string text_in(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace

std::filesystem::path image_directory(const MetalOptions& options) {
  if (!options.images.empty()) return options.images;
  return fs::read_symlink("/proc/self/exe").parent_path().parent_path() / "metal";
}

int skip(const MetalOptions& options, const std::string& why) {
  if (options.json) {
    fmt::print("{}\n", json{{"skipped", why}}.dump(2));
  } else {
    fmt::print("SKIPPED: {}\n", why);
  }
  return kSkipped;
}

namespace {

// By the host's clock.
struct Pace {
  u64 hop_ns = 0;  // on average, never 0
  u64 median_ns = 0;
  double ratio() const { return static_cast<double>(kPeerHopNs) / static_cast<double>(hop_ns); }
};

class MetalRun {
 public:
  MetalRun(const MetalOptions& options, const Plan& plan, const Qemu& qemu)
      : options_(options),
        plan_(plan),
        qemu_(qemu),
        progress_(options.json || options.verbose),
        transcript_(plan.expected) {}

  DemoReport run() {
    progress_.step(fmt::format("QEMU {}: power on", qemu_.version.to_string()));
    Attachments with{.kernel = plan_.kernel,
                     .modules = plan_.modules,
                     .disk = directory_.path() / "disk",
                     .trace = directory_.path() / "trace",
                     .words = plan_.words};
    if (contains(plan_.machine.devices, "nvme")) {
      if (auto written = write_disk(with.disk); !written) throw std::runtime_error(written.error());
    }
    Guest guest(qemu_, plan_.machine, with, static_cast<u32>(options_.seed));
    connect(guest);
    const GuestRun run = guest.run(plan_.deadline_ns);
    finish(run, text_in(with.trace));
    return std::move(report_);
  }

  // As the report's JSON, and besides.
  json details() const {
    json out = {{"qemu", {{"version", qemu_.version.to_string()}, {"says", qemu_.says}}},
                {"machine",
                 {{"devices", plan_.machine.devices},
                  {"tables", options_.tables},
                  {"firmware", options_.firmware},
                  {"icount", options_.icount},
                  {"interrupts", options_.interrupts}}},
                {"pace", nullptr}};
    if (pace_) {
      out["pace"] = {{"hop_ns", pace_->hop_ns},
                     {"median_hop_ns", pace_->median_ns},
                     {"peer_hop_ns", kPeerHopNs},
                     {"ratio", pace_->ratio()}};
    }
    return out;
  }

 private:
  void connect(Guest& guest) {
    guest.on_serial = [this](std::string_view bytes, u64 now_ns) { transcript_.take(bytes, now_ns); };
    transcript_.on_line = [this](std::string_view line) {
      if (options_.verbose) fmt::print(stderr, "{}\n", line);
    };
    transcript_.on_boot_event = [&guest] { guest.plug_in(); };
    transcript_.on_hop = [this](unsigned number) {
      if (number <= kShortChain || number % 50 == 0) {
        progress_.step(fmt::format("hop {} of {}", number, options_.hops));
      }
    };
    if (options_.dump.empty()) return;
    transcript_.on_jump = [this, &guest](unsigned number) {
      if (number == options_.hops) save(guest, number);
      if (!guest.send('\n')) transcript_.problem("the guest cannot be told to go on");
    };
  }

  void save(Guest& guest, unsigned hop) {
    progress_.step(fmt::format("hop {}: memory goes to {}", hop, options_.dump));
    if (transcript_.expectations().is_null()) {
      transcript_.problem("the guest did not say what a dump of its memory should hold");
      return;
    }
    auto opened = guest.monitor().open();
    if (opened) {
      opened = dump(guest.monitor(), qemu_, hop, transcript_.expectations(),
                    {.file = fs::absolute(options_.dump), .raw = options_.raw, .scratch = directory_.path()});
    }
    if (!opened) {
      transcript_.problem("no dump: " + opened.error());
    } else {
      dumped_ = true;
    }
  }

  void finish(const GuestRun& run, const std::string& trace) {
    transcript_.end();
    if (std::string fault = judge(run); !fault.empty()) {
      transcript_.problem(fault);
    } else if (!transcript_.guest_content()) {
      transcript_.problem("QEMU ended as if all were well");
    }
    const std::vector<std::string> words = last_lines(run.output);
    // Whatever it is: a unit or a device that QEMU complains of is no clean run.
    for (const std::string& line : words) transcript_.problem("QEMU said: " + cut(printable(line)));
    if (!options_.dump.empty() && !dumped_) transcript_.problem("no memory was saved");

    GcmdTrace gcmd;
    gcmd.take(trace);
    const Heard heard = transcript_.heard();
    report_.hops = transcript_.take_hops();
    const auto made = static_cast<unsigned>(
        std::count_if(report_.hops.begin(), report_.hops.end(), [](const HopReport& h) { return h.number != 0; }));
    report_.checks = {gcmd.never_dropped(), gcmd.remade(std::max(made, 1U))};
    if (auto leaks = transcript_.nothing_leaks()) report_.checks.push_back(std::move(*leaks));
    report_.seed = options_.seed;
    report_.elapsed_ns = run.elapsed_ns;
    report_.what =
        fmt::format("QEMU {} (q35, TCG, intel-iommu), {}, {} tables, {}; {}", qemu_.version.to_string(),
                    options_.firmware, options_.tables, options_.icount ? "instructions are the clock" : "real time",
                    fmt::join(plan_.machine.devices, ", "));
    set_pace(heard);
  }

  void set_pace(const Heard& heard) {
    if (!heard.boot_ns || heard.hops_ns.empty()) return;
    std::vector<u64> each;
    each.reserve(heard.hops_ns.size());
    u64 before = *heard.boot_ns;
    for (const u64 at : heard.hops_ns) each.push_back(at - std::exchange(before, at));
    pace_.emplace();
    pace_->hop_ns = std::max<u64>((heard.hops_ns.back() - *heard.boot_ns) / each.size(), 1);
    std::nth_element(each.begin(), each.begin() + static_cast<std::ptrdiff_t>(each.size() / 2), each.end());
    pace_->median_ns = each[each.size() / 2];
    report_.what += fmt::format(
        "\n{} a hop with devices' running time and checks (median {}): 1 : {:.0f} of Linux's {} in the same QEMU",
        duration(pace_->hop_ns), duration(pace_->median_ns), pace_->ratio(), duration(kPeerHopNs));
  }

  static std::vector<std::string> last_lines(const std::string& text) {
    constexpr usize kMost = 12;
    std::vector<std::string> all;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) all.push_back(line);
    if (all.size() > kMost) all.erase(all.begin(), all.end() - kMost);
    return all;
  }

  const MetalOptions& options_;
  const Plan& plan_;
  const Qemu& qemu_;
  Progress progress_;
  RunDirectory directory_;
  Transcript transcript_;
  DemoReport report_;
  std::optional<Pace> pace_;
  bool dumped_ = false;
};

}  // namespace

int run_metal(const MetalOptions& options) {
  if (options.conformance) return run_conformance(options);
  const auto plan = plan_of(options);
  if (!plan) {
    fmt::print(stderr, "perdure metal: {}\n", plan.error());
    return kUsage;
  }
  for (const fs::path& image : {plan->kernel, plan->modules}) {
    if (!fs::exists(image)) {
      return skip(options,
                  fmt::format("{} is not there: builds with sanitizers have no images for bare metal", image.string()));
    }
  }
  const auto qemu = find_qemu(options.qemu, plan->machine, options.any_version);
  if (!qemu) return skip(options, qemu.error());

  // A QEMU that is gone is noticed by what is read from it.
  std::signal(SIGPIPE, SIG_IGN);
  MetalRun run(options, *plan, *qemu);
  const DemoReport report = run.run();
  if (options.json) {
    json out = to_json(report);
    out.update(run.details());
    fmt::print("{}\n", out.dump(2, ' ', true, json::error_handler_t::replace));
  } else {
    fmt::print("{}", render(report, isatty(STDOUT_FILENO) == 1));
  }
  return report.clean() ? kClean : kFailed;
}

}  // namespace perdure::tool::metal
