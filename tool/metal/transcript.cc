#include "tool/metal/transcript.h"

#include <fmt/format.h>

#include <algorithm>

namespace perdure::tool::metal {

namespace {

using json = nlohmann::ordered_json;  // numbers stay in the guest's order

constexpr usize kMostProblems = 200;  // of one hop
constexpr usize kMostPhases = 64;

// ASCII, whatever is in it.
std::string shown(const json& value) {
  return cut(value.dump(-1, ' ', true, json::error_handler_t::replace));
}

std::string text_of(const json& said, const char* key) {
  const auto found = said.find(key);
  return found != said.end() && found->is_string() ? found->get<std::string>() : std::string();
}

bool flag_of(const json& said, const char* key) {
  const auto found = said.find(key);
  return found != said.end() && found->is_boolean() && found->get<bool>();
}

std::optional<u64> number_of(const json& said, const char* key) {
  const auto found = said.find(key);
  if (found == said.end() || !found->is_number_integer()) return std::nullopt;
  if (found->is_number_unsigned()) return found->get<u64>();
  const s64 value = found->get<s64>();
  return value < 0 ? std::nullopt : std::optional(static_cast<u64>(value));
}

}  // namespace

void Transcript::problem(std::string what) {
  std::vector<std::string>& to = hops_.empty() ? early_problems_ : hops_.back().problems;
  if (to.size() < kMostProblems) to.push_back(std::move(what));
}

void Transcript::take(std::string_view bytes, u64 now_ns) {
  lines_.take(
      bytes, [&](std::string_view text) { line(text, now_ns); },
      [&](std::string_view begin) {
        problem(fmt::format("the guest printed a line of more than {}: {}", tool::bytes(Lines::kLongest),
                            printable(begin)));
      });
}

void Transcript::line(std::string_view text, u64 now_ns) {
  if (text.empty()) return;
  if (on_line) on_line(printable(text));
  if (ended_) {
    problem("the guest went on after its end: " + cut(printable(text)));
    return;
  }
  if (text.front() != '{') {
    log_line(text);
    return;
  }
  if (!shallow(text)) {
    problem("the guest printed an event that is nested too deep: " + cut(printable(text)));
    return;
  }
  const json said = json::parse(text, nullptr, false);
  if (said.is_discarded() || !said.is_object()) {
    problem("the guest printed an event that is no JSON: " + cut(printable(text)));
    return;
  }
  event(said, now_ns);
}

void Transcript::log_line(std::string_view text) {
  // "[   0.001234] warn: text"; what firmware prints has another form.
  const usize close = text.find("] ");
  if (text.front() != '[' || close == std::string_view::npos) return;
  const std::string_view said = text.substr(close + 2);
  for (const std::string_view level : {"warn:", "error:", "panic:"}) {
    if (said.starts_with(level)) problem("guest: " + cut(printable(said)));
  }
}

void Transcript::event(const json& said, u64 now_ns) {
  const std::string name = text_of(said, "event");
  if (name != "boot" && !booted_) {
    problem(fmt::format("the guest said '{}' before 'boot'", printable(name)));
  }
  if (name == "boot") {
    on_boot(said, now_ns);
  } else if (name == "hop") {
    on_hop_event(said, now_ns);
  } else if (name == "evidence") {
    on_evidence(said);
  } else if (name == "quarantined") {
    on_quarantined(said);
  } else if (name == "problem") {
    problem("guest: " + cut(printable(text_of(said, "what"))));
  } else if (name == "jump") {
    const auto number = number_of(said, "number");
    if (!number || *number != hops_.size() + 1) {
      problem(fmt::format("the guest jumps to hop {} after hop {}", shown(said.value("number", json())), hops_.size()));
    }
    jumping_ = true;
    if (on_jump) on_jump(static_cast<unsigned>(hops_.size() + 1));
  } else if (name == "expect") {
    expectations_ = said;
  } else if (name == "end") {
    on_end(said);
  } else if (name == "memory") {
    on_memory(said);
  } else {
    problem("the guest printed an unknown event: " + shown(said));
  }
}

void Transcript::on_boot(const json& said, u64 now_ns) {
  if (booted_) {
    // The machine was reset: whatever comes now is another run.
    problem(fmt::format("the guest booted a second time, after hop {}", hops_.size()));
    return;
  }
  booted_ = true;
  heard_.boot_ns = now_ns;
  if (on_boot_event) on_boot_event();
  if (number_of(said, "hop") != 0U) problem("the first kernel does not call itself hop 0");
}

bool Transcript::overrun() {
  if (hops_.size() < expected_.hops) return false;
  problem(fmt::format("the guest made more than the {} hops it was asked for", expected_.hops));
  return true;
}

void Transcript::on_hop_event(const json& said, u64 now_ns) {
  jumping_ = false;
  if (overrun()) return;
  const auto number = number_of(said, "number");
  const usize due = hops_.size() + 1;
  HopReport hop;
  hop.number = static_cast<unsigned>(due);
  hop.from = printable(text_of(said, "from"));
  hop.to = printable(text_of(said, "to"));
  if (!number || *number != due) {
    hop.problems.push_back(fmt::format("the guest calls it hop {}", shown(said.value("number", json()))));
  }
  // Each kernel is the other build.
  if (hop.from.empty() || hop.to.empty() || hop.from == hop.to) {
    hop.problems.push_back(fmt::format("it led from '{}' to '{}'", hop.from, hop.to));
  }
  if (!hops_.empty() && hops_.back().to != hop.from) {
    hop.problems.push_back(fmt::format("the former one led to '{}', this one is from '{}'", hops_.back().to, hop.from));
  }
  if (const auto timeline = said.find("timeline"); timeline != said.end() && timeline->is_array()) {
    for (const json& p : *timeline) {
      const auto began = p.is_object() ? number_of(p, "begin_ns") : std::nullopt;
      const auto ended = p.is_object() ? number_of(p, "end_ns") : std::nullopt;
      const u64 begin = began.value_or(0);
      const u64 end = ended.value_or(0);
      const std::string name = p.is_object() ? printable(text_of(p, "name")) : std::string();
      const bool ordered = hop.timeline.empty() || begin >= hop.timeline.front().begin_ns;
      if (name.empty() || !began || !ended || end < begin || !ordered || hop.timeline.size() == kMostPhases) {
        hop.problems.push_back("its timeline has a phase that cannot be: " + shown(p));
        break;
      }
      hop.timeline.push_back({name, begin, end});
    }
  }
  if (hop.timeline.empty()) hop.problems.emplace_back("it has no timeline");
  heard_.hops_ns.push_back(now_ns);
  hops_.push_back(std::move(hop));
  if (on_hop) on_hop(static_cast<unsigned>(due));
}

void Transcript::on_evidence(const json& said) {
  DeviceEvidence e{.device = printable(text_of(said, "device")),
                   .ok = flag_of(said, "ok"),
                   .lost = flag_of(said, "lost"),
                   .numbers = {},
                   .what = printable(text_of(said, "what"))};
  if (const auto numbers = said.find("numbers"); numbers != said.end() && numbers->is_object()) {
    for (const auto& [name, value] : numbers->items()) {
      if (value.is_number_integer()) e.numbers.emplace_back(printable(name), value.get<s64>());
    }
  }
  const auto known = [&](const std::string& device) { return device == e.device; };
  if (std::none_of(expected_.devices.begin(), expected_.devices.end(), known)) {
    problem(fmt::format("the guest gives evidence of '{}', which the machine does not have", cut(e.device)));
    return;
  }
  if (jumping_) problem(fmt::format("evidence of {} came from a kernel that was about to jump", e.device));
  const auto hop = number_of(said, "hop");
  if (!hop || *hop != hops_.size()) {
    problem(fmt::format("evidence of {} belongs to hop {} and came after hop {}", e.device,
                        shown(said.value("hop", json())), hops_.size()));
  }
  if (hops_.empty()) {
    // Of the devices before the first update: only what is wrong matters.
    if (!e.ok) problem(fmt::format("{} did not work before the first hop: {}", e.device, e.what));
    return;
  }
  const auto told = [&](const DeviceEvidence& other) { return other.device == e.device; };
  std::vector<DeviceEvidence>& all = hops_.back().evidence;
  if (std::any_of(all.begin(), all.end(), told)) {
    problem(fmt::format("evidence of {} came twice in one hop", e.device));
    return;
  }
  all.push_back(std::move(e));
}

void Transcript::on_quarantined(const json& said) {
  QuarantinedDevice q{.bdf = printable(text_of(said, "bdf")),
                      .stopped = flag_of(said, "stopped") && !flag_of(said, "translated"),
                      .what = printable(text_of(said, "what"))};
  if (q.what.empty()) q.what = printable(text_of(said, "device"));
  if (hops_.empty()) {
    problem(fmt::format("{} was quarantined before the first hop", q.bdf));
  } else if (hops_.back().quarantined.size() < kMostProblems) {
    hops_.back().quarantined.push_back(std::move(q));
  }
}

void Transcript::on_memory(const json& said) {
  MemoryUse use{.hop = number_of(said, "hop").value_or(~u64{0}), .amounts = {}};
  if (use.hop != hops_.size()) {
    problem(fmt::format("how much memory is in use was told of hop {} after hop {}", shown(said.value("hop", json())),
                        hops_.size()));
    return;
  }
  for (const char* key : {"frames", "kept", "heap", "share"}) {
    use.amounts.emplace_back(key, number_of(said, key).value_or(~u64{0}));
  }
  if (memory_.size() <= hops_.size()) memory_.push_back(std::move(use));
}

std::optional<RunCheck> Transcript::nothing_leaks() const {
  // The first kernel has nothing to take over; of the others, each has what its predecessor of the same build had.
  if (memory_.size() < 4) return std::nullopt;
  RunCheck check{.what = "each kernel has as much memory in use as its predecessors", .ok = true, .detail = {}};
  for (usize i = 3; i < memory_.size(); ++i) {
    if (memory_[i].hop != i || memory_[i - 2].hop != i - 2) return std::nullopt;
    for (usize k = 0; k < memory_[i].amounts.size() && check.ok; ++k) {
      const auto& [name, now] = memory_[i].amounts[k];
      const u64 before = memory_[i - 2].amounts[k].second;
      if (now == before) continue;
      check.ok = false;
      check.detail = fmt::format("{}: {} after hop {}, {} after hop {}", name, before, i - 2, now, i);
    }
  }
  if (check.ok) {
    for (const auto& [name, amount] : memory_.back().amounts) {
      check.detail += fmt::format("{}{} {}", check.detail.empty() ? "" : ", ", name, amount);
    }
  }
  return check;
}

void Transcript::on_end(const json& said) {
  ended_ = true;
  end_ok_ = flag_of(said, "ok");
  if (!end_ok_) problem("the guest says that something went wrong");
  if (number_of(said, "hops") != hops_.size()) {
    problem(fmt::format("the guest counts {} hops and reported {}", shown(said.value("hops", json())), hops_.size()));
  }
}

void Transcript::end() {
  if (std::exchange(finished_, true)) return;
  if (!lines_.rest().empty()) {
    problem("the guest's output breaks off in a line: " + cut(printable(lines_.rest())));
  }
  if (!booted_) problem("the guest did not boot");
  if (!ended_) {
    problem(fmt::format("the guest stopped without saying that it is done, after {} of {} hops", hops_.size(),
                        expected_.hops));
  } else if (hops_.size() != expected_.hops) {
    problem(fmt::format("{} of {} hops were made", hops_.size(), expected_.hops));
  }
  if (hops_.empty() || !end_ok_) return;
  // Whoever is missing in the last hop was not looked at.
  for (const std::string& device : expected_.devices) {
    const auto told = [&](const DeviceEvidence& e) { return e.device == device; };
    for (usize i = 0; i < hops_.size(); ++i) {
      HopReport& hop = hops_[i];
      if (std::any_of(hop.evidence.begin(), hop.evidence.end(), told)) continue;
      if (expected_.quiet && i + 1 < hops_.size()) {
        hop.evidence_is_later = true;
      } else if (hop.problems.size() < kMostProblems) {
        hop.problems.push_back(fmt::format("there is no evidence of {}", device));
      }
    }
  }
}

std::vector<HopReport> Transcript::take_hops() {
  if (hops_.empty() && !early_problems_.empty()) hops_.emplace_back();
  if (!early_problems_.empty()) {
    std::vector<std::string>& first = hops_.front().problems;
    first.insert(first.begin(), early_problems_.begin(), early_problems_.end());
    early_problems_.clear();
  }
  return std::move(hops_);
}

}  // namespace perdure::tool::metal
