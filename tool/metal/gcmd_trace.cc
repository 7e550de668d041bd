#include "tool/metal/gcmd_trace.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "tool/metal/lines.h"

namespace perdure::tool::metal {

namespace {

// GCMD and GSTS (hardware.md §1).
constexpr u32 kTranslation = u32{1} << 31;
constexpr u32 kSetRoot = u32{1} << 30;
constexpr u32 kQueue = u32{1} << 26;

// The number behind "WORD 0x" in `text`.
std::optional<u32> hex_after(std::string_view text, std::string_view word) {
  const usize at = text.find(word);
  if (at == std::string_view::npos) return std::nullopt;
  text.remove_prefix(at + word.size());
  if (!text.starts_with(" 0x")) return std::nullopt;
  text.remove_prefix(3);
  u32 value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

}  // namespace

void GcmdTrace::take(std::string_view log) {
  while (!log.empty()) {
    const usize end = log.find('\n');
    if (end != 0) line(log.substr(0, end));
    log.remove_prefix(end == std::string_view::npos ? log.size() : end + 1);
  }
}

// "…vtd_reg_write_gcmd status 0xc4000000 value 0xc4000000"; status is GSTS before the write.
void GcmdTrace::line(std::string_view text) {
  ++lines_;
  const usize at = text.find(kGcmdEvent);
  const std::optional<u32> status = at == std::string_view::npos ? std::nullopt : hex_after(text.substr(at), " status");
  const std::optional<u32> value = at == std::string_view::npos ? std::nullopt : hex_after(text.substr(at), " value");
  if (!status || !value) {
    if (unreadable_.empty()) unreadable_ = fmt::format("line {}: {}", lines_, printable(text.substr(0, 200)));
    return;
  }
  ++writes_;
  if (enabled_ && ((*status & *value) & kTranslation) == 0) {
    ++drops_;
    if (dropped_.empty()) {
      dropped_ = fmt::format("write {} of {:#010x} while GSTS was {:#010x}", writes_, *value, *status);
    }
  }
  const bool was_on = enabled_;
  enabled_ |= (*value & kTranslation) != 0;
  if (was_on && (*value & kSetRoot) != 0) ++root_tables_;
  const bool queue = (*value & kQueue) != 0;
  if (was_on && queue && !queue_on_) ++queue_restarts_;
  queue_on_ = queue;
}

RunCheck GcmdTrace::never_dropped() const {
  RunCheck check{.what = "translation was on throughout, says QEMU's trace", .ok = false, .detail = {}};
  if (!unreadable_.empty()) {
    check.detail = "the trace cannot be read, " + unreadable_;
  } else if (!enabled_) {
    check.detail = fmt::format("it was never turned on ({} writes of GCMD)", writes_);
  } else if (drops_ != 0) {
    check.detail = fmt::format("turned off {} times: first by {}", drops_, dropped_);
  } else {
    check.ok = true;
    check.detail = fmt::format("{} writes of GCMD, TE in each since the first that set it", writes_);
  }
  return check;
}

RunCheck GcmdTrace::remade(unsigned jumps) const {
  return {.what = "each kernel made a queue and a root table of its own, live",
          .ok = queue_restarts_ >= jumps && root_tables_ >= jumps,
          .detail = fmt::format("queue turned on {} times in {} hops, root pointer set {} times, translation on",
                                queue_restarts_, jumps, root_tables_)};
}

}  // namespace perdure::tool::metal
