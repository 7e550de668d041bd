// Tables of a TOML file, read and written field by field: what a machine's files have in common. A key that nobody
// describes is refused with its place.
#pragma once
#include <toml++/toml.h>

#include <algorithm>
#include <concepts>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "machine/board/config_fields.h"
#include "machine/board/config_file.h"

namespace perdure::board {

using fields::Named;
using fields::NamedFlag;
using fields::NumberedBit;

inline constexpr std::string_view kHowToName = "write \"BB:DD.F\" or \"SSSS:BB:DD.F\", in hexadecimal";

std::string hex(u64 v);
std::string in_quotes(std::string_view text);
std::optional<u64> number_of(std::string_view text, int base);
std::optional<Bdf> bdf_of(std::string_view text);

struct SizeUnit {
  std::string_view name;
  unsigned shift;
};
inline constexpr SizeUnit kSizeUnits[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
// "64 MiB"
std::optional<u64> size_of(std::string_view text);

template <class List>
std::string joined(const List& list) {
  std::string all;
  for (const auto& one : list) all += (all.empty() ? "" : ", ") + std::string(one);
  return all;
}

// One file: where messages come from.
class Source {
 public:
  explicit Source(std::string_view name) : name_(name) {}
  // Throw ConfigError.
  [[noreturn]] void fail(const toml::source_position& at, const std::string& key, const std::string& what) const;
  [[noreturn]] void fail(const toml::node& at, const std::string& key, const std::string& what) const {
    fail(at.source().begin, key, what);
  }

 private:
  std::string name_;
};

// Reads one table: each key that is described may be there, others may not.
class TableReader {
 public:
  TableReader(const Source& source, const toml::table& table, std::string path)
      : source_(source), table_(table), path_(std::move(path)) {}

  void flag(std::string_view key, bool& value) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    const auto v = node->value_exact<bool>();
    if (!v) fail(*node, key, "is not true or false");
    value = *v;
  }
  void flag(std::string_view key, u8& mask, unsigned bit) {
    bool value = (mask >> bit & 1) != 0;
    flag(key, value);
    mask = static_cast<u8>((mask & ~(1u << bit)) | (value ? 1u << bit : 0));
  }
  template <class T, class Low, class High>
  void number(std::string_view key, T& value, Low lowest, High highest) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    const std::string allowed = "choose " + std::to_string(lowest) + " to " + std::to_string(highest);
    if constexpr (std::signed_integral<T>) {
      const auto v = node->value_exact<s64>();
      if (!v || *v < lowest || *v > highest) fail(*node, key, "is no number that fits; " + allowed);
      value = static_cast<T>(*v);
    } else {
      const auto v = unsigned_of(*node);
      if (!v || *v < static_cast<u64>(lowest) || *v > static_cast<u64>(highest)) {
        fail(*node, key, "is no number that fits; " + allowed);
      }
      value = static_cast<T>(*v);
    }
  }
  void address(std::string_view key, u64& value) { number(key, value, u64{0}, ~u64{0}); }
  void size(std::string_view key, u64& value) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    std::optional<u64> v = unsigned_of(*node);
    if (const auto* text = node->as_string(); !v && text != nullptr) v = size_of(text->get());
    if (!v) fail(*node, key, "is no size; write a number of bytes, or one with a unit, like \"64 MiB\" (KiB to TiB)");
    value = *v;
  }
  void text(std::string_view key, std::string& value) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    if (!node->is_string()) fail(*node, key, "is not a text");
    value = node->as_string()->get();
  }
  void texts(std::string_view key, std::vector<std::string>& values) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    values.clear();
    for (const toml::node& element : array(*node, key)) {
      if (!element.is_string()) fail(element, key, "has one that is not a text");
      values.push_back(element.as_string()->get());
    }
    if (values.empty()) fail(*node, key, "is empty; name at least one");
  }
  template <class E, usize N>
  void name(std::string_view key, E& value, std::span<const Named<E>, N> names) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    std::vector<std::string_view> allowed;
    for (const Named<E>& one : names) {
      allowed.push_back(one.name);
      if (node->is_string() && node->as_string()->get() == one.name) {
        value = one.value;
        return;
      }
    }
    fail(*node, key, "is none of " + joined(allowed));
  }
  template <usize N>
  void names(std::string_view key, const std::array<NamedFlag, N>& flags) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    std::vector<std::string_view> allowed;
    for (const NamedFlag& one : flags) {
      allowed.push_back(one.name);
      *one.flag = false;
    }
    for (const toml::node& element : array(*node, key)) {
      const auto* text = element.as_string();
      const auto known = std::find_if(flags.begin(), flags.end(),
                                      [&](const NamedFlag& one) { return text != nullptr && text->get() == one.name; });
      if (known == flags.end()) fail(element, key, "has one that is none of " + joined(allowed));
      *known->flag = true;
    }
  }
  template <usize N>
  void numbers(std::string_view key, const std::array<NumberedBit, N>& bits, u8& mask) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    std::vector<std::string> allowed;
    allowed.reserve(N);
    for (const NumberedBit& one : bits) allowed.push_back(std::to_string(one.number));
    u8 read = 0;
    for (const toml::node& element : array(*node, key)) {
      const auto v = unsigned_of(element);
      const auto known =
          std::find_if(bits.begin(), bits.end(), [&](const NumberedBit& one) { return v && *v == one.number; });
      if (known == bits.end()) fail(element, key, "has one that is none of " + joined(allowed));
      read = static_cast<u8>(read | 1u << known->bit);
    }
    if (read == 0) fail(*node, key, "is empty; name at least one of " + joined(allowed));
    mask = read;
  }
  void range(std::string_view key, u32& lowest, u32& highest) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    const toml::array& pair = array(*node, key);
    const auto low = pair.size() == 2 ? unsigned_of(pair[0]) : std::nullopt;
    const auto high = pair.size() == 2 ? unsigned_of(pair[1]) : std::nullopt;
    if (!low || !high || *low > *high || *high > 0xFFFF'FFFF) {
      fail(*node, key, "is not two numbers, the smaller first, like [0, 8]");
    }
    lowest = static_cast<u32>(*low);
    highest = static_cast<u32>(*high);
  }
  void place(std::string_view key, Bdf& value) {
    const toml::node* node = find(key);
    if (node == nullptr) source_.fail(table_, path_ + "." + std::string(key), "is missing; " + std::string(kHowToName));
    value = place_of(*node, key);
  }
  void places(std::string_view key, std::vector<Bdf>& values) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    values.clear();
    for (const toml::node& element : array(*node, key)) {
      values.push_back(place_of(element, key));
      mentioned_.emplace_back(values.back(), &element);
    }
  }

  // Arrays of tables are read by the caller.
  void allow(std::string_view key) { known_.emplace_back(key); }
  void refuse_others() const {
    for (const auto& [key, node] : table_) {
      if (std::find(known_.begin(), known_.end(), key.str()) != known_.end()) continue;
      source_.fail(key.source().begin, full(key.str()), "there is no such key here; allowed are " + joined(known_));
    }
  }
  // Functions that this table names, and where.
  const std::vector<std::pair<Bdf, const toml::node*>>& mentioned() const { return mentioned_; }
  std::string full(std::string_view key) const {
    return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
  }
  const toml::node* find(std::string_view key) {
    known_.emplace_back(key);
    return table_.get(key);
  }
  [[noreturn]] void fail(const toml::node& at, std::string_view key, const std::string& what) const {
    source_.fail(at, full(key), what);
  }

 private:
  // Also as text, "0x…", since TOML's integers have 63 bits.
  static std::optional<u64> unsigned_of(const toml::node& node) {
    if (const auto v = node.value_exact<s64>(); v && *v >= 0) return static_cast<u64>(*v);
    const auto* text = node.as_string();
    if (text == nullptr || !text->get().starts_with("0x")) return std::nullopt;
    return number_of(std::string_view(text->get()).substr(2), 16);
  }
  const toml::array& array(const toml::node& node, std::string_view key) const {
    if (!node.is_array()) fail(node, key, "is not a list, like [ … ]");
    return *node.as_array();
  }
  Bdf place_of(const toml::node& node, std::string_view key) const {
    const auto* text = node.as_string();
    const auto bdf = text == nullptr ? std::nullopt : bdf_of(text->get());
    if (!bdf) fail(node, key, "is no function; " + std::string(kHowToName));
    return *bdf;
  }

  const Source& source_;
  const toml::table& table_;
  std::string path_;
  std::vector<std::string> known_;
  std::vector<std::pair<Bdf, const toml::node*>> mentioned_;
};

// One line a field, in the order of description.
class TableWriter {
 public:
  void flag(std::string_view key, bool value) { put(key, value ? "true" : "false"); }
  void flag(std::string_view key, u8 mask, unsigned bit) { flag(key, (mask >> bit & 1) != 0); }
  template <class T, class Low, class High>
  void number(std::string_view key, T value, Low, High) {
    const bool fits = std::signed_integral<T> || static_cast<u64>(value) <= ~u64{0} >> 1;
    put(key, fits ? std::to_string(value) : in_quotes(hex(static_cast<u64>(value))));
  }
  void address(std::string_view key, u64 value) {
    put(key, value <= ~u64{0} >> 1 ? hex(value) : in_quotes(hex(value)));
  }
  void size(std::string_view key, u64 value) {
    for (usize i = std::size(kSizeUnits); i-- > 0;) {
      const SizeUnit& unit = kSizeUnits[i];
      if (value == 0 || value % (u64{1} << unit.shift) != 0) continue;
      return put(key, in_quotes(std::to_string(value >> unit.shift) + " " + std::string(unit.name)));
    }
    number(key, value, 0, 0);
  }
  void text(std::string_view key, const std::string& value) { put(key, in_quotes(value)); }
  void texts(std::string_view key, const std::vector<std::string>& values) {
    std::vector<std::string> all;
    all.reserve(values.size());
    for (const std::string& value : values) all.push_back(in_quotes(value));
    put(key, "[" + joined(all) + "]");
  }
  template <class E, usize N>
  void name(std::string_view key, const E& value, std::span<const Named<E>, N> names) {
    for (const Named<E>& one : names) {
      if (one.value == value) return put(key, in_quotes(one.name));
    }
    throw ConfigError("board: a configuration with a value that has no name (" + std::string(key) + ")");
  }
  template <usize N>
  void names(std::string_view key, const std::array<NamedFlag, N>& flags) {
    std::vector<std::string> set;
    for (const NamedFlag& one : flags) {
      if (*one.flag) set.push_back(in_quotes(one.name));
    }
    put(key, "[" + joined(set) + "]");
  }
  template <usize N>
  void numbers(std::string_view key, const std::array<NumberedBit, N>& bits, u8 mask) {
    std::vector<std::string> set;
    for (const NumberedBit& one : bits) {
      if ((mask >> one.bit & 1) != 0) set.push_back(std::to_string(one.number));
    }
    put(key, "[" + joined(set) + "]");
  }
  void range(std::string_view key, u32 lowest, u32 highest) {
    put(key, "[" + std::to_string(lowest) + ", " + std::to_string(highest) + "]");
  }
  void place(std::string_view key, Bdf value) { put(key, in_quotes(value.to_string())); }
  void places(std::string_view key, const std::vector<Bdf>& values) {
    std::vector<std::string> all;
    all.reserve(values.size());
    for (Bdf bdf : values) all.push_back(in_quotes(bdf.to_string()));
    put(key, "[" + joined(all) + "]");
  }

  const std::vector<std::pair<std::string, std::string>>& lines() const { return lines_; }

 private:
  void put(std::string_view key, const std::string& value) { lines_.emplace_back(key, value); }
  std::vector<std::pair<std::string, std::string>> lines_;
};

// One line for each of its fields, "key = value", when it differs from the defaults' or is one of `always`, or `all`
// are wanted. The two describe a configuration to a visitor.
template <class Describe, class DescribeDefaults>
std::string lines_of(Describe describe, DescribeDefaults describe_defaults,
                     std::initializer_list<std::string_view> always, bool all) {
  TableWriter mine;
  TableWriter theirs;
  describe(mine);
  describe_defaults(theirs);
  std::string text;
  for (const auto& line : mine.lines()) {
    const bool wanted = all || std::find(always.begin(), always.end(), line.first) != always.end();
    const auto& known = theirs.lines();
    if (!wanted && std::find(known.begin(), known.end(), line) != known.end()) continue;
    text += line.first + " = " + line.second + "\n";
  }
  return text;
}

// A table of a board's file that is no part of the board: whoever wants it reads it.
struct OtherTable {
  std::string_view key;
  std::function<void(const Source& source, const toml::table& table)> read;
};
BoardConfig parse_board(std::string_view text, std::string_view name, const std::vector<OtherTable>& others);

}  // namespace perdure::board
