#include "machine/board/toml_table.h"

#include <charconv>
#include <cstdio>
#include <sstream>

namespace perdure::board {

std::string hex(u64 v) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
  return text;
}

std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04X", unsigned{static_cast<unsigned char>(c)});
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::optional<u64> number_of(std::string_view text, int base) {
  u64 v = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), v, base);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return v;
}

std::optional<Bdf> bdf_of(std::string_view text) {
  u64 segment = 0;
  const auto part = [&](usize length, char after) -> std::optional<u64> {
    if (text.size() < length + 1 || text[length] != after) return std::nullopt;
    const auto v = number_of(text.substr(0, length), 16);
    text.remove_prefix(length + 1);
    return v;
  };
  if (text.size() == 12) {
    const auto s = part(4, ':');
    if (!s) return std::nullopt;
    segment = *s;
  }
  const auto bus = part(2, ':');
  const auto device = bus ? part(2, '.') : std::nullopt;
  const auto function = number_of(text, 16);
  if (!device || !function || text.size() != 1 || *device > 31 || *function > 7) return std::nullopt;
  return Bdf(static_cast<unsigned>(*bus), static_cast<unsigned>(*device), static_cast<unsigned>(*function),
             static_cast<u16>(segment));
}

std::optional<u64> size_of(std::string_view text) {
  for (const SizeUnit& unit : kSizeUnits) {
    if (!text.ends_with(unit.name)) continue;
    text.remove_suffix(unit.name.size());
    while (text.ends_with(' ')) text.remove_suffix(1);
    const auto v = number_of(text, 10);
    if (!v || *v > ~u64{0} >> unit.shift) return std::nullopt;
    return *v << unit.shift;
  }
  return std::nullopt;
}

void Source::fail(const toml::source_position& at, const std::string& key, const std::string& what) const {
  std::ostringstream line;
  line << name_ << ":" << at.line << ":" << at.column << ": " << (key.empty() ? "" : key + ": ") << what;
  throw ConfigError(line.str());
}

}  // namespace perdure::board
