// What the guest says on its serial line, made into the demo's report (docs/metal.md). The guest may be anything: what
// it says is checked for order and form, and a line that is wrong is a problem of the run, never skipped.
#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tool/metal/lines.h"
#include "tool/report.h"

namespace perdure::tool::metal {

// What was asked of the guest.
struct Expected {
  unsigned hops = 1;
  std::vector<std::string> devices;  // each gives evidence in the last hop
  bool quiet = false;                // evidence of the last hop only, and of what is wrong
};

// When things were heard, by the host's clock.
struct Heard {
  std::optional<u64> boot_ns;
  std::vector<u64> hops_ns;
};

class Transcript {
 public:
  explicit Transcript(Expected expected) : expected_(std::move(expected)) {}

  // The guest is about to jump to this hop and, when it was asked to, waits for a byte.
  std::function<void(unsigned number)> on_jump;
  std::function<void()> on_boot_event;
  std::function<void(unsigned number)> on_hop;
  // Every whole line, as printable text.
  std::function<void(std::string_view line)> on_line;

  // Bytes as they come.
  void take(std::string_view bytes, u64 now_ns);
  // No more will come. What is missing is a problem.
  void end();

  bool ended() const { return ended_; }
  bool guest_content() const { return ended_ && end_ok_; }
  const Heard& heard() const { return heard_; }
  // What a dump of memory at the last jump should hold; null: nothing was said.
  const nlohmann::json& expectations() const { return expectations_; }
  // With evidence, quarantines and problems at the hops that they belong to; one hop without a number when there is
  // nothing else to hang a problem on.
  std::vector<HopReport> take_hops();
  void problem(std::string what);
  // None: too few hops to tell.
  std::optional<RunCheck> nothing_leaks() const;

 private:
  struct MemoryUse {
    u64 hop = 0;
    std::vector<std::pair<std::string, u64>> amounts;
  };
  void line(std::string_view text, u64 now_ns);
  void event(const nlohmann::ordered_json& said, u64 now_ns);
  void on_boot(const nlohmann::ordered_json& said, u64 now_ns);
  void on_hop_event(const nlohmann::ordered_json& said, u64 now_ns);
  void on_evidence(const nlohmann::ordered_json& said);
  void on_quarantined(const nlohmann::ordered_json& said);
  void on_memory(const nlohmann::ordered_json& said);
  void on_end(const nlohmann::ordered_json& said);
  void log_line(std::string_view text);
  bool overrun();

  const Expected expected_;
  Lines lines_;
  std::vector<HopReport> hops_;
  std::vector<std::string> early_problems_;  // before the first hop
  bool booted_ = false;
  nlohmann::json expectations_;
  Heard heard_;
  bool jumping_ = false;
  std::vector<MemoryUse> memory_;
  bool ended_ = false;
  bool end_ok_ = false;
  bool finished_ = false;
};

}  // namespace perdure::tool::metal
