#include "metal/options.h"

#include "sabotage/saboteur.h"

namespace perdure::metal {

namespace {

// Of "name=value", the value.
bool value_of(std::string_view word, std::string_view name, std::string_view& value) {
  if (word.size() <= name.size() || !word.starts_with(name) || word[name.size()] != '=') return false;
  value = word;
  value.remove_prefix(name.size() + 1);
  return true;
}

bool number_of(std::string_view text, u64& number) {
  number = 0;
  if (text.empty() || text.size() > 18) return false;
  for (char c : text) {
    if (c < '0' || c > '9') return false;
    number = number * 10 + static_cast<u64>(c - '0');
  }
  return true;
}

}  // namespace

Options::Options(const char* command_line) {
  for (const char* at = command_line; *at != '\0';) {
    usize length = 0;
    while (at[length] != '\0' && at[length] != ' ') ++length;
    const std::string_view word(at, length);
    at += at[length] == ' ' ? length + 1 : length;
    if (word.empty()) continue;
    std::string_view value;
    u64 number = 0;
    bool known = true;
    if (value_of(word, "hops", value)) {
      known = number_of(value, number) && number < u64{1} << 32;
      hops = static_cast<u32>(number);
    } else if (value_of(word, "seed", value)) {
      known = number_of(value, number);  // the host's, for what it feeds devices with
    } else if (value_of(word, "stretch_us", value)) {
      known = number_of(value, stretch_us);
    } else if (value_of(word, "devices", value)) {
      devices = value;
    } else if (value_of(word, "break", value)) {
      breakage = value;
      known = sabotage::Saboteur::known(value);
    } else if (value_of(word, "tables", value)) {
      known = value == "legacy" || value == "scalable";
      tables = value == "legacy" ? vtd::TableModePolicy::Legacy : vtd::TableModePolicy::Scalable;
    } else if (word == "pause=jump") {
      pause_at_jump = true;
    } else if (word == "irq") {
      interrupts = true;
    } else if (word == "quiet") {
      quiet = true;
    } else {
      known = false;
    }
    if (!known) unknown = word;
  }
}

bool Options::wants(std::string_view device) const {
  std::string_view rest = devices;
  while (!rest.empty()) {
    usize length = 0;
    while (length < rest.size() && rest[length] != ',') ++length;
    if (std::string_view(rest.data(), length) == device) return true;
    rest.remove_prefix(length < rest.size() ? length + 1 : length);
  }
  return devices.empty();
}

}  // namespace perdure::metal
