#include "machine/board/config_file.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>

#include "machine/board/toml_table.h"

namespace perdure::board {
namespace {

class FileReader {
 public:
  FileReader(const Source& source, const toml::table& root, const std::vector<OtherTable>& others)
      : source_(source), root_(root), others_(others) {}

  BoardConfig read() {
    BoardConfig board;
    TableReader top(source_, root_, "");
    fields::describe(top, board);
    for (std::string_view key : {"unit", "device", "reserved"}) top.allow(key);
    for (const OtherTable& other : others_) top.allow(other.key);
    top.refuse_others();
    board.units.clear();
    read_array("device", board.devices, [this](DeviceConfig& d, const toml::table& table, TableReader& reader) {
      if (table.get("kind") == nullptr) {
        source_.fail(table, reader.full("kind"), "is missing; name one of " + joined(kind_names()));
      }
      if (!places_.emplace(d.bdf, d.kind).second) {
        source_.fail(*table.get("at"), reader.full("at"), "there is a device at " + d.bdf.to_string() + " already");
      }
    });
    read_array("unit", board.units, [&](UnitConfig& u, const toml::table& table, TableReader& reader) {
      u.model.haw = static_cast<u8>(board.window_log2);
      check_places(reader, u.bridges);
      for (const UnitConfig& other : board.units) {
        if (other.model.base == u.model.base) {
          source_.fail(table, reader.full("registers"),
                       "another unit has its registers there, at " + hex(u.model.base));
        }
        if (other.include_all && u.include_all && other.segment == u.segment) {
          source_.fail(table, reader.full("include_all"), "another unit of the segment includes all; say false here");
        }
      }
    });
    read_array("reserved", board.reserved, [&](ReservedConfig& r, const toml::table& table, TableReader& reader) {
      check_places(reader, r.bridges);
      for (std::string_view key : {"base", "length"}) {
        if (table.get(key) == nullptr) source_.fail(table, reader.full(key), "is missing");
      }
      if (r.endpoints.empty() && r.bridges.empty()) {
        source_.fail(table, reader.full("endpoints"), "is missing, and bridges, too: name whom the region is for");
      }
    });
    return board;
  }

 private:
  static std::vector<std::string_view> kind_names() {
    std::vector<std::string_view> names;
    names.reserve(std::size(fields::kKinds));
    for (const auto& kind : fields::kKinds) names.push_back(kind.name);
    return names;
  }
  template <class Config, class Check>
  void read_array(std::string_view key, std::vector<Config>& list, Check check) {
    const toml::node* node = root_.get(key);
    if (node == nullptr) return;
    const auto wrong = [&](const toml::node& at) {
      source_.fail(at, std::string(key), "is not a list of tables; write [[" + std::string(key) + "]] above each");
    };
    if (!node->is_array()) wrong(*node);
    for (const toml::node& element : *node->as_array()) {
      if (!element.is_table()) wrong(element);
      TableReader reader(source_, *element.as_table(), std::string(key) + "[" + std::to_string(list.size()) + "]");
      Config config;
      fields::describe(reader, config);
      reader.refuse_others();
      check(config, *element.as_table(), reader);
      list.push_back(std::move(config));
    }
  }
  // What a scope names must be there, and a bridge where a bridge is meant.
  void check_places(const TableReader& reader, const std::vector<Bdf>& bridges) const {
    for (const auto& [bdf, node] : reader.mentioned()) {
      const auto at = places_.find(bdf);
      if (at == places_.end()) source_.fail(*node, reader.full("scope"), "there is no device at " + bdf.to_string());
      if (std::find(bridges.begin(), bridges.end(), bdf) != bridges.end() && at->second != DeviceKind::Bridge) {
        source_.fail(*node, reader.full("bridges"), bdf.to_string() + " is not a bridge; name it under endpoints");
      }
    }
  }

  const Source& source_;
  const toml::table& root_;
  const std::vector<OtherTable>& others_;
  std::map<Bdf, DeviceKind> places_;
};

template <class Config>
std::string lines(Config config, Config defaults, std::initializer_list<std::string_view> always, bool all) {
  return lines_of([&](TableWriter& v) { fields::describe(v, config); },
                  [&](TableWriter& v) { fields::describe(v, defaults); }, always, all);
}

}  // namespace

BoardConfig parse_board(std::string_view text, std::string_view name) {
  return parse_board(text, name, {});
}

BoardConfig parse_board(std::string_view text, std::string_view name, const std::vector<OtherTable>& others) {
  const Source source(name);
  try {
    const toml::table root = toml::parse(text, name);
    BoardConfig board = FileReader(source, root, others).read();
    for (const OtherTable& other : others) {
      const toml::node* node = root.get(other.key);
      if (node == nullptr) continue;
      if (!node->is_table()) {
        source.fail(*node, std::string(other.key), "is not a table; write [" + std::string(other.key) + "] above it");
      }
      other.read(source, *node->as_table());
    }
    return board;
  } catch (const toml::parse_error& e) {
    source.fail(e.source().begin, "", std::string("is not TOML: ") + std::string(e.description()));
  }
}

std::string read_text(const std::filesystem::path& file) {
  const ConfigError cannot(file.string() + ": cannot be read");
  try {
    std::ifstream in(file, std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    if (in) return text;
  } catch (const std::ios_base::failure&) {
    throw ConfigError(cannot);  // a directory opens
  }
  throw ConfigError(cannot);
}

BoardConfig read_board(const std::filesystem::path& file) {
  return parse_board(read_text(file), file.string());
}

std::string write_board_keys(const BoardConfig& config, bool all) {
  // The default of the window's width is another one in some builds.
  return lines(config, BoardConfig{}, {"window_log2"}, all);
}

std::string write_board_tables(const BoardConfig& config, bool all) {
  std::string text;
  for (const UnitConfig& unit : config.units) text += "\n[[unit]]\n" + lines(unit, UnitConfig{}, {"registers"}, all);
  for (const DeviceConfig& device : config.devices) {
    DeviceConfig defaults;
    defaults.kind = device.kind;
    defaults.bridge.kind = device.bridge.kind;
    text += "\n[[device]]\n" + lines(device, defaults, {"kind", "at"}, all);
  }
  for (const ReservedConfig& region : config.reserved) {
    text += "\n[[reserved]]\n" + lines(region, ReservedConfig{}, {"base", "length"}, all);
  }
  return text;
}

std::string write_board(const BoardConfig& config, bool all) {
  return write_board_keys(config, all) + write_board_tables(config, all);
}

}  // namespace perdure::board
