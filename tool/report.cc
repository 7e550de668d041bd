#include "tool/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace perdure::tool {

namespace {

using board::Cause;
using board::DeviceResult;
using board::Phase;
using board::PhaseResult;

constexpr Phase kAllPhases[] = {Phase::Before, Phase::During, Phase::After};
constexpr Cause kAllCauses[] = {Cause::NotScheduled, Cause::Faulted, Cause::Blocked, Cause::BusMasterOff,
                                Cause::Unbacked};

struct Style {
  bool on;
  std::string good(const std::string& s) const { return on ? "\x1b[32m" + s + "\x1b[0m" : s; }
  std::string bad(const std::string& s) const { return on ? "\x1b[1;31m" + s + "\x1b[0m" : s; }
  std::string head(const std::string& s) const { return on ? "\x1b[1m" + s + "\x1b[0m" : s; }
};

void render_timeline(std::string& out, const HopReport& hop, const Style& style) {
  if (hop.timeline.empty()) return;
  const u64 begin = hop.timeline.front().begin_ns;
  u64 end = begin;
  for (const TimedPhase& p : hop.timeline) end = std::max(end, p.end_ns);
  const double span = static_cast<double>(std::max<u64>(end - begin, 1));
  constexpr unsigned kWidth = 40;
  out += style.head(fmt::format("  {:<10} {:>10} {:>10}\n", "phase", "at", "took"));
  for (const TimedPhase& p : hop.timeline) {
    const auto from = static_cast<unsigned>(static_cast<double>(p.begin_ns - begin) / span * kWidth);
    const auto to = static_cast<unsigned>(static_cast<double>(p.end_ns - begin) / span * kWidth);
    const unsigned length = std::max(1U, to - std::min(from, to));
    out += fmt::format("  {:<10} {:>10} {:>10}  {}{}\n", p.name, "+" + duration(p.begin_ns - begin),
                       duration(p.end_ns - p.begin_ns), std::string(std::min(from, kWidth), ' '),
                       std::string(std::min(length, kWidth + 1 - std::min(from, kWidth)), '='));
  }
  out += fmt::format("  programs could not be served for {} (freeze to ready); devices went on\n",
                     duration(hop.blackout_ns()));
}

std::string not_done(const PhaseResult& p) {
  std::string s;
  for (Cause c : kAllCauses) {
    if (c == Cause::NotScheduled || p.not_done_by(c) == 0) continue;
    s += fmt::format("{}{} {}", s.empty() ? "" : ", ", p.not_done_by(c), board::cause_name(c));
  }
  return s.empty() ? "-" : s;
}

void render_audit(std::string& out, const HopReport& hop, const Style& style) {
  if (hop.audit.devices.empty()) return;
  out += style.head(fmt::format("  {:<12} {:<7} {:>10} {:>6} {:>6} {:>6} {:>6} {:>11}  {}\n", "device", "phase", "done",
                                "lost", "dup.", "corr.", "misd.", "longest gap", "not done, by cause"));
  for (const DeviceResult& d : hop.audit.devices) {
    bool device_clean = true;
    bool at_work = false;
    for (Phase phase : kAllPhases) {
      const PhaseResult& p = d.in(phase);
      device_clean &= p.clean();
      at_work |= p.done != 0;
      const std::string line =
          fmt::format("  {:<12} {:<7} {:>10} {:>6} {:>6} {:>6} {:>6} {:>11}  {}", phase == Phase::Before ? d.name : "",
                      board::phase_name(phase), p.done, p.lost, p.duplicated, p.corrupted, p.misdirected,
                      duration(p.longest_gap_ns), not_done(p));
      out += (p.clean() ? line : style.bad(line)) + "\n";
    }
    if (!device_clean) {
      out += style.bad(fmt::format("  {:<12} verdict: DMA did not survive", "")) + "\n";
    } else if (at_work) {
      out += style.good(fmt::format("  {:<12} verdict: nothing lost", "")) + "\n";
    } else {
      out += fmt::format("  {:<12} did no DMA: it took no part\n", "");
    }
  }
}

std::string_view verdict_of(const DeviceEvidence& e) {
  if (!e.ok) return "DMA did not survive";
  return e.lost ? "given up; stands still" : "nothing lost";
}

void render_evidence(std::string& out, const HopReport& hop, const Style& style) {
  if (hop.evidence.empty()) return;
  out += style.head(fmt::format("  {:<12} {:<22} {}\n", "device", "verdict", "its own evidence"));
  for (const DeviceEvidence& e : hop.evidence) {
    std::string line = fmt::format("  {:<12} {:<22}", e.device, verdict_of(e));
    for (usize i = 0; i < e.numbers.size(); ++i) {
      line += fmt::format("{} {} {}", i == 0 ? "" : ",", e.numbers[i].first, e.numbers[i].second);
    }
    if (!e.what.empty()) line += fmt::format("{} {}", e.numbers.empty() ? "" : ":", e.what);
    out += (e.ok && !e.lost ? style.good(line) : style.bad(line)) + "\n";
  }
}

void render_quarantined(std::string& out, const HopReport& hop, const Style& style) {
  for (const QuarantinedDevice& q : hop.quarantined) {
    out += style.bad(fmt::format("  {:<12} quarantined, {}{}{}", q.bdf,
                                 q.stopped ? "proven to stand still" : "not proven to stand still",
                                 q.what.empty() ? "" : ": ", q.what)) +
           "\n";
  }
}

// The first of many lines; --json has all.
void render_some(std::string& out, const std::vector<std::string>& lines, std::string_view what, const Style& style) {
  constexpr usize kMost = 8;
  for (usize i = 0; i < lines.size() && i < kMost; ++i) out += style.bad(fmt::format("  {}{}", what, lines[i])) + "\n";
  if (lines.size() > kMost) out += fmt::format("  ... and {} more like that (--json has all)\n", lines.size() - kMost);
}

}  // namespace

std::string counted(u64 n, std::string_view what) {
  return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
}

std::string bytes(u64 n) {
  if (n >= u64{1} << 30) return fmt::format("{:.4g} GiB", static_cast<double>(n) / static_cast<double>(u64{1} << 30));
  if (n >= u64{1} << 20) return fmt::format("{:.4g} MiB", static_cast<double>(n) / static_cast<double>(u64{1} << 20));
  return fmt::format("{:.4g} KiB", static_cast<double>(n) / 1024.0);
}

bool HopReport::clean() const {
  const bool witnessed = !audit.devices.empty() || !evidence.empty() || evidence_is_later;
  bool clean = violations.empty() && problems.empty() && quarantined.empty() && witnessed;
  for (const DeviceEvidence& e : evidence) clean &= e.ok && !e.lost;
  for (Phase phase : kAllPhases) clean &= audit.clean(phase);
  return clean;
}

u64 HopReport::blackout_ns() const {
  const auto freeze =
      std::find_if(timeline.begin(), timeline.end(), [](const TimedPhase& p) { return p.name == "freeze"; });
  if (freeze == timeline.end()) return 0;
  u64 end = freeze->end_ns;
  for (auto p = freeze; p != timeline.end(); ++p) end = std::max(end, p->end_ns);
  return end - freeze->begin_ns;
}

bool DemoReport::clean() const {
  return !hops.empty() && std::all_of(hops.begin(), hops.end(), [](const HopReport& h) { return h.clean(); }) &&
         std::all_of(checks.begin(), checks.end(), [](const RunCheck& c) { return c.ok; });
}

std::string render(const DemoReport& report, bool colour) {
  // A long chain of equals says no more than its ends; what is wrong is always shown.
  constexpr usize kAllShown = 60;
  const Style style{colour};
  std::string out = report.what + "\n";
  usize left_out = 0;
  for (usize i = 0; i < report.hops.size(); ++i) {
    const HopReport& hop = report.hops[i];
    if (report.hops.size() > kAllShown && i > 0 && i + 1 < report.hops.size() && hop.clean()) {
      ++left_out;
      continue;
    }
    if (left_out != 0) out += fmt::format("\n{} hops, nothing lost (--json has them)\n", left_out);
    left_out = 0;
    out += "\n" +
           style.head(hop.number == 0 ? std::string("before the first hop")
                                      : fmt::format("hop {}: {} -> {}", hop.number, hop.from, hop.to)) +
           "\n";
    render_timeline(out, hop, style);
    if (hop.poison.poisoned_frames != 0) {
      out += fmt::format("  {} of the old kernel's memory overwritten, {} kept\n",
                         bytes(hop.poison.poisoned_frames * kPageSize), bytes(hop.poison.kept_frames * kPageSize));
    }
    render_audit(out, hop, style);
    render_evidence(out, hop, style);
    render_quarantined(out, hop, style);
    std::vector<std::string> findings;
    findings.reserve(hop.audit.findings.size());
    for (const board::Finding& f : hop.audit.findings) findings.push_back(f.to_string());
    render_some(out, findings, "", style);
    render_some(out, hop.violations, "hardware rule broken: ", style);
    for (const std::string& p : hop.problems) out += style.bad("  problem: " + p) + "\n";
  }
  if (!report.checks.empty()) out += "\n";
  for (const RunCheck& c : report.checks) {
    const std::string line =
        fmt::format("{}: {}{}{}", c.what, c.ok ? "yes" : "NO", c.detail.empty() ? "" : "; ", c.detail);
    out += (c.ok ? style.good(line) : style.bad(line)) + "\n";
  }
  out += "\n" + (report.clean() ? style.good("nothing was lost") : style.bad("FAILED: see above")) +
         fmt::format(" ({}, {})\n", counted(report.hops.size(), "hop"), duration(report.elapsed_ns));
  return out;
}

nlohmann::json to_json(const DemoReport& report) {
  using nlohmann::json;
  json out = {{"what", report.what},
              {"clean", report.clean()},
              {"elapsed_ns", report.elapsed_ns},
              {"seed", report.seed},
              {"hops", json::array()}};
  if (!report.checks.empty()) out["checks"] = json::array();
  for (const RunCheck& c : report.checks) {
    out["checks"].push_back({{"what", c.what}, {"ok", c.ok}, {"detail", c.detail}});
  }
  for (const HopReport& hop : report.hops) {
    json h = {{"number", hop.number},
              {"from", hop.from},
              {"to", hop.to},
              {"clean", hop.clean()},
              {"blackout_ns", hop.blackout_ns()},
              {"violations", hop.violations},
              {"problems", hop.problems},
              {"timeline", json::array()},
              {"devices", json::array()},
              {"findings", json::array()}};
    for (const TimedPhase& p : hop.timeline) {
      h["timeline"].push_back({{"phase", p.name}, {"begin_ns", p.begin_ns}, {"end_ns", p.end_ns}});
    }
    h["poison"] = {{"poisoned_frames", hop.poison.poisoned_frames},
                   {"kept_frames", hop.poison.kept_frames},
                   {"banks_kept", hop.poison.banks_kept},
                   {"banks_detached", hop.poison.banks_detached}};
    if (!hop.evidence.empty()) h["evidence"] = json::array();
    for (const DeviceEvidence& e : hop.evidence) {
      json numbers = json::object();
      for (const auto& [name, value] : e.numbers) numbers[name] = value;
      h["evidence"].push_back(
          {{"device", e.device}, {"ok", e.ok}, {"lost", e.lost}, {"numbers", numbers}, {"what", e.what}});
    }
    if (!hop.quarantined.empty()) h["quarantined"] = json::array();
    for (const QuarantinedDevice& q : hop.quarantined) {
      h["quarantined"].push_back({{"bdf", q.bdf}, {"stopped", q.stopped}, {"what", q.what}});
    }
    for (const DeviceResult& d : hop.audit.devices) {
      json device = {{"name", d.name}};
      for (Phase phase : kAllPhases) {
        const PhaseResult& p = d.in(phase);
        json causes = json::object();
        for (Cause c : kAllCauses) causes[std::string(board::cause_name(c))] = p.not_done_by(c);
        device[std::string(board::phase_name(phase))] = {{"done", p.done},
                                                         {"lost", p.lost},
                                                         {"duplicated", p.duplicated},
                                                         {"corrupted", p.corrupted},
                                                         {"misdirected", p.misdirected},
                                                         {"read_errors", p.read_errors},
                                                         {"slots_checked", p.slots_checked},
                                                         {"longest_gap_ns", p.longest_gap_ns},
                                                         {"interrupts", p.interrupts},
                                                         {"not_done", causes}};
      }
      h["devices"].push_back(std::move(device));
    }
    for (const board::Finding& f : hop.audit.findings) h["findings"].push_back(f.to_string());
    out["hops"].push_back(std::move(h));
  }
  return out;
}

}  // namespace perdure::tool
