#include "tool/metal/dump.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tool/metal/core_file.h"
#include "tool/metal/lines.h"

namespace perdure::tool::metal {

namespace {

using nlohmann::json;

// All that QEMU's unit has (hardware.md §12.1).
constexpr u64 kUnitWindow = 0x230;

struct Register {
  const char* name;
  unsigned offset;
  unsigned bytes;
};
// VT-d, hardware.md §1.
constexpr Register kRegisters[] = {{"VER", 0x00, 4},    {"CAP", 0x08, 8},  {"ECAP", 0x10, 8},  {"GSTS", 0x1C, 4},
                                   {"RTADDR", 0x20, 8}, {"FSTS", 0x34, 4}, {"FECTL", 0x38, 4}, {"IQH", 0x80, 8},
                                   {"IQT", 0x88, 8},    {"IQA", 0x90, 8},  {"ICS", 0x9C, 4},   {"IECTL", 0xA0, 4},
                                   {"IRTA", 0xB8, 8}};

u64 value_at(const std::vector<char>& bytes, Register r) {
  u64 value = 0;
  for (unsigned i = 0; i < r.bytes; ++i) value |= u64{static_cast<unsigned char>(bytes[r.offset + i])} << (8 * i);
  return value;
}

std::expected<std::vector<char>, std::string> contents(const std::filesystem::path& file, u64 length) {
  std::vector<char> bytes(length);
  std::ifstream in(file, std::ios::binary);
  in.read(bytes.data(), static_cast<std::streamsize>(length));
  if (!in) return std::unexpected(fmt::format("QEMU wrote less than {} bytes to {}", length, file.string()));
  return bytes;
}

std::expected<std::vector<UnitRegisters>, std::string> read_units(Monitor& monitor, const json& expectations,
                                                                  const std::filesystem::path& scratch) {
  constexpr usize kMostUnits = 8;
  std::vector<UnitRegisters> units;
  const auto told = expectations.find("units");
  if (told == expectations.end() || !told->is_array()) return units;
  for (const json& unit : *told) {
    const auto base = unit.is_object() ? unit.find("base") : unit.end();
    const bool good = unit.is_object() && base != unit.end() && base->is_number_unsigned() && units.size() < kMostUnits;
    if (!good) return std::unexpected("the guest tells of an IOMMU unit without a base: " + printable(unit.dump()));
    const std::filesystem::path file = scratch / fmt::format("unit{}", units.size());
    if (auto saved = monitor.save(base->get<u64>(), kUnitWindow, file); !saved) return std::unexpected(saved.error());
    auto bytes = contents(file, kUnitWindow);
    if (!bytes) return std::unexpected(bytes.error());
    units.push_back({.base = base->get<u64>(), .bytes = std::move(*bytes)});
  }
  return units;
}

std::expected<void, std::string> write_dump(Monitor& monitor, const Qemu& qemu, unsigned hop, const json& expectations,
                                            const DumpRequest& request) {
  const std::filesystem::path image = request.scratch / "memory";
  if (auto saved = monitor.save(0, kMemoryBytes, image); !saved) return saved;
  auto units = read_units(monitor, expectations, request.scratch);
  if (!units) return std::unexpected(units.error());

  CoreFile core;
  core.jump.hop = hop;
  const auto boot_info = expectations.find("boot_info");
  if (boot_info != expectations.end() && boot_info->is_number_unsigned()) core.jump.boot_info = boot_info->get<u64>();
  core.units = std::move(*units);
  json beside = {{"file", request.file.filename().string()},
                 {"format", request.raw ? "raw" : "elf"},
                 {"hop", hop},
                 {"qemu", qemu.version.to_string()},
                 {"ram", json::array()},
                 {"units", json::array()},
                 {"expect", expectations}};
  for (const auto& [base, length] : ram_ranges(kMemoryBytes)) {
    core.ram.push_back({.base = base, .length = length});
    beside["ram"].push_back({{"base", base}, {"length", length}});
  }
  for (const UnitRegisters& unit : core.units) {
    json registers = json::object();
    for (const Register& r : kRegisters) registers[r.name] = value_at(unit.bytes, r);
    beside["units"].push_back({{"base", unit.base}, {"registers", std::move(registers)}});
  }
  auto written = request.raw ? write_raw(request.file, image) : write_core(request.file, core, image);
  if (!written) return written;
  std::ofstream text(request.file.string() + ".json");
  text << beside.dump(1, ' ', true, json::error_handler_t::replace) << "\n";
  text.close();
  if (!text) return std::unexpected(fmt::format("cannot write {}.json", request.file.string()));
  return {};
}

}  // namespace

std::vector<std::pair<u64, u64>> ram_ranges(u64 bytes) {
  // Between them: the window of graphics cards and firmware.
  constexpr u64 kLowEnd = 0xA0000;
  constexpr u64 kHighBegin = u64{1} << 20;
  return {{0, kLowEnd}, {kHighBegin, bytes - kHighBegin}};
}

std::expected<void, std::string> dump(Monitor& monitor, const Qemu& qemu, unsigned hop, const json& expectations,
                                      const DumpRequest& request) {
  if (auto stopped = monitor.stop(); !stopped) return stopped;
  auto written = write_dump(monitor, qemu, hop, expectations, request);
  auto resumed = monitor.resume();
  return !written ? written : resumed;
}

}  // namespace perdure::tool::metal
