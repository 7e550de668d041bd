#include "tool/metal/lines.h"

#include <fmt/format.h>

#include <utility>

namespace perdure::tool::metal {

namespace {
constexpr usize kMostShown = 300;
constexpr unsigned kDeepest = 32;
}  // namespace

std::string printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == '\t' || (byte >= 0x20 && byte < 0x7F)) {
      out += c;
    } else {
      out += fmt::format("\\x{:02x}", byte);
    }
  }
  return out;
}

bool shallow(std::string_view json) {
  unsigned depth = 0;
  bool quoted = false;
  for (usize i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (c == '"') quoted = !quoted;
    if (!quoted) {
      if ((c == '[' || c == '{') && ++depth > kDeepest) return false;
      if ((c == ']' || c == '}') && depth > 0) --depth;
    } else if (c == '\\') {
      ++i;  // whatever it is, it does not end the text
    }
  }
  return true;
}

std::string cut(std::string_view text) {
  return text.size() <= kMostShown ? std::string(text) : std::string(text.substr(0, kMostShown)) + "...";
}

void Lines::take(std::string_view bytes, const std::function<void(std::string_view)>& line,
                 const std::function<void(std::string_view)>& too_long) {
  while (!bytes.empty()) {
    const usize end = bytes.find('\n');
    const std::string_view piece = bytes.substr(0, end);
    bytes.remove_prefix(end == std::string_view::npos ? bytes.size() : end + 1);
    if (!skipping_) rest_ += piece;
    if (rest_.size() > kLongest) {
      too_long(std::string_view(rest_).substr(0, kMostShown));
      rest_.clear();
      skipping_ = true;
    }
    if (end == std::string_view::npos) continue;
    if (!skipping_) {
      std::string whole = std::exchange(rest_, {});
      while (!whole.empty() && whole.back() == '\r') whole.pop_back();
      line(whole);
    }
    rest_.clear();
    skipping_ = false;
  }
}

}  // namespace perdure::tool::metal
