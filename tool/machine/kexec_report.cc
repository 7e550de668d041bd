#include "tool/machine/kexec_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "tool/machine/duration.h"

namespace perdure::tool {

using nlohmann::json;

namespace {

constexpr std::string_view kLoad = "load";  // nobody waits for it
constexpr std::string_view kJump = "jump";

// Of the phases that count, with what each took since the one before it ended.
template <class Visit>
void each_step(const KexecReport& report, Visit visit) {
  std::optional<u64> last;
  for (const KexecPhase& p : report.phases) {
    if (p.name == kLoad) continue;
    if (!last) last = p.begin_ns;
    const u64 end = std::max(*last, p.end_ns);
    visit(p, end - *last);
    last = end;
  }
}

}  // namespace

u64 KexecReport::total_ns() const {
  u64 total = 0;
  each_step(*this, [&](const KexecPhase&, u64 took) { total += took; });
  return total;
}

std::optional<std::string> KexecReport::broke(u64 budget_ns) const {
  std::optional<std::string> culprit;
  u64 total = 0;
  each_step(*this, [&](const KexecPhase& p, u64 took) {
    total += took;
    if (total > budget_ns && !culprit) culprit = p.name;
  });
  return culprit;
}

std::vector<KexecPhase> phases_of(const json& status) {
  std::vector<KexecPhase> phases;
  for (const json& p : status.at("timeline")) {
    KexecPhase phase{p.at("phase"), p.at("begin_ns"), p.at("end_ns")};
    // What the former kernel waits for between its own last work and the jump is the end of its programs.
    if (phase.name == kJump && !phases.empty() && phases.back().end_ns < phase.begin_ns) {
      phases.push_back({"programs", phases.back().end_ns, phase.begin_ns});
    }
    phases.push_back(std::move(phase));
  }
  return phases;
}

json to_json(const KexecReport& report) {
  json phases = json::array();
  for (const KexecPhase& p : report.phases) {
    phases.push_back({{"phase", p.name}, {"begin_ns", p.begin_ns}, {"end_ns", p.end_ns}});
  }
  return {{"from", report.from},
          {"to", report.to},
          {"hop", report.hop},
          {"total_ns", report.total_ns()},
          {"asked_ns", report.asked_ns},
          {"phases", std::move(phases)},
          {"log", report.log}};
}

KexecReport kexec_report(const json& j) {
  KexecReport report{.from = j.at("from"),
                     .to = j.at("to"),
                     .hop = j.at("hop"),
                     .phases = {},
                     .asked_ns = j.at("asked_ns"),
                     .log = j.at("log")};
  for (const json& p : j.at("phases")) report.phases.push_back({p.at("phase"), p.at("begin_ns"), p.at("end_ns")});
  return report;
}

std::string render(const KexecReport& report) {
  std::string text = fmt::format("{} -> {} (hop {})\n\n", report.from, report.to, report.hop);
  u64 longest = 1;
  each_step(report, [&](const KexecPhase&, u64 took) { longest = std::max(longest, took); });
  constexpr u64 kWidth = 40;
  each_step(report, [&](const KexecPhase& p, u64 took) {
    text += fmt::format("  {:<10} {:>10}  {}\n", p.name, duration(took), std::string(took * kWidth / longest, '#'));
  });
  text += fmt::format("  {:<10} {:>10}\n", "total", duration(report.total_ns()));
  for (const std::string& line : report.log) text += "\nlog: " + line;
  if (!report.log.empty()) text += "\n";
  return text;
}

}  // namespace perdure::tool
