#include "machine/process/kernel_options.h"

#include <array>
#include <charconv>

namespace perdure::process {

namespace {

struct Capability {
  std::string_view name;
  bool Creds::* has;
};
constexpr std::array kCapabilities{Capability{"ipc_lock", &Creds::cap_ipc_lock},
                                   Capability{"sys_rawio", &Creds::cap_sys_rawio},
                                   Capability{"sys_resource", &Creds::cap_sys_resource}};

template <class E>
struct Word {
  std::string_view name;
  E value;
};
constexpr std::array kLevels{Word{"debug", LogLevel::Debug}, Word{"info", LogLevel::Info}, Word{"warn", LogLevel::Warn},
                             Word{"error", LogLevel::Error}};
constexpr std::array kModes{Word{"auto", vtd::TableModePolicy::Auto}, Word{"legacy", vtd::TableModePolicy::Legacy},
                            Word{"scalable", vtd::TableModePolicy::Scalable}};
constexpr std::array kStages{Word{"second", vtd::StagePolicy::SecondStage},
                             Word{"first", vtd::StagePolicy::FirstStage}};
constexpr std::array kContainers{Word{"type1", vfio::Vfio::Container::Type1},
                                 Word{"iommufd", vfio::Vfio::Container::Iommufd}};
constexpr std::array kSwitch{Word{"off", false}, Word{"on", true}};

// Calls visitor.word(key, value, words) or .number(key, value) for every option but the capabilities.
template <class Visitor, class Options>
void describe(Visitor& v, Options& o) {
  v.number("uid", o.creds.uid);
  v.word("log", o.log, kLevels);
  v.word("tables", o.table_mode, kModes);
  v.word("stage", o.stage, kStages);
  v.word("intremap", o.interrupt_remapping, kSwitch);
  v.word("container", o.vfio_container, kContainers);
  v.word("iommufd_test", o.iommufd_test, kSwitch);
}

class Writer {
 public:
  template <class E, usize N>
  void word(std::string_view key, E value, const std::array<Word<E>, N>& words) {
    for (const Word<E>& w : words) {
      if (w.value == value) values.emplace_back(key, w.name);
    }
  }
  void number(std::string_view key, u32 value) { values.emplace_back(key, std::to_string(value)); }
  std::vector<std::pair<std::string, std::string>> values;
};

class Reader {
 public:
  Reader(std::string_view key, std::string_view value) : key_(key), value_(value) {}
  template <class E, usize N>
  void word(std::string_view key, E& value, const std::array<Word<E>, N>& words) {
    if (key != key_) return;
    for (const Word<E>& w : words) {
      if (w.name != value_) continue;
      value = w.value;
      known = true;
    }
  }
  void number(std::string_view key, u32& value) {
    if (key != key_) return;
    u32 read = 0;
    const auto [end, error] = std::from_chars(value_.data(), value_.data() + value_.size(), read);
    if (error != std::errc{} || end != value_.data() + value_.size()) return;
    value = read;
    known = true;
  }
  bool known = false;

 private:
  std::string_view key_;
  std::string_view value_;
};

std::string names_of(const Creds& creds) {
  std::string names;
  for (const Capability& c : kCapabilities) {
    if (creds.*c.has) names += (names.empty() ? "" : ",") + std::string(c.name);
  }
  return names;
}

bool take_names(std::string_view names, Creds& creds) {
  Creds read = creds;
  for (const Capability& c : kCapabilities) read.*c.has = false;
  while (!names.empty()) {
    const std::string_view name = names.substr(0, names.find(','));
    bool known = false;
    for (const Capability& c : kCapabilities) {
      if (c.name != name) continue;
      read.*c.has = true;
      known = true;
    }
    if (!known) return false;
    names.remove_prefix(name.size() == names.size() ? name.size() : name.size() + 1);
  }
  creds = read;
  return true;
}

}  // namespace

bool KernelOptions::operator==(const KernelOptions& o) const {
  return write_options(*this) == write_options(o);
}

std::string write_options(const KernelOptions& options) {
  const KernelOptions usual;
  std::string line;
  const auto put = [&line](const std::string& key, const std::string& value) {
    line += (line.empty() ? "" : " ") + key + "=" + value;
  };
  if (const std::string names = names_of(options.creds); names != names_of(usual.creds)) put("caps", names);
  Writer mine;
  Writer theirs;
  describe(mine, options);
  describe(theirs, usual);
  for (usize i = 0; i < mine.values.size(); ++i) {
    if (mine.values[i] != theirs.values[i]) put(mine.values[i].first, mine.values[i].second);
  }
  return line;
}

KernelOptions read_options(std::string_view command_line, std::vector<std::string>& unknown) {
  KernelOptions options;
  while (!command_line.empty()) {
    const std::string_view word = command_line.substr(0, command_line.find(' '));
    command_line.remove_prefix(word.size() == command_line.size() ? word.size() : word.size() + 1);
    if (word.empty()) continue;
    const usize cut = word.find('=');
    const std::string_view key = word.substr(0, cut);
    const std::string_view value = cut == std::string_view::npos ? std::string_view() : word.substr(cut + 1);
    Reader reader(key, value);
    describe(reader, options);
    const bool known = key == "caps" && cut != std::string_view::npos ? take_names(value, options.creds) : reader.known;
    if (!known) unknown.emplace_back(word);
  }
  return options;
}

Config configure(Config built, const KernelOptions& options) {
  built.table_mode = options.table_mode;
  built.stage = options.stage;
  built.interrupt_remapping = options.interrupt_remapping;
  built.vfio_container = options.vfio_container;
  built.iommufd_test = options.iommufd_test;
  return built;
}

}  // namespace perdure::process
