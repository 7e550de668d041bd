#include "tool/machine/machine_config.h"

#include "core/abi/boot_info.h"
#include "machine/board/toml_table.h"

namespace perdure::tool {

namespace {

using board::Named;
using board::NamedFlag;

constexpr std::array kLevels{Named<LogLevel>{"debug", LogLevel::Debug}, Named<LogLevel>{"info", LogLevel::Info},
                             Named<LogLevel>{"warn", LogLevel::Warn}, Named<LogLevel>{"error", LogLevel::Error}};
constexpr std::array kModes{Named<vtd::TableModePolicy>{"auto", vtd::TableModePolicy::Auto},
                            Named<vtd::TableModePolicy>{"legacy", vtd::TableModePolicy::Legacy},
                            Named<vtd::TableModePolicy>{"scalable", vtd::TableModePolicy::Scalable}};
constexpr std::array kStages{Named<vtd::StagePolicy>{"second", vtd::StagePolicy::SecondStage},
                             Named<vtd::StagePolicy>{"first", vtd::StagePolicy::FirstStage}};
constexpr std::array kContainers{Named<vfio::Vfio::Container>{"type1", vfio::Vfio::Container::Type1},
                                 Named<vfio::Vfio::Container>{"iommufd", vfio::Vfio::Container::Iommufd}};

constexpr u64 kLeastLog = u64{4} << 10;

template <class V>
void describe_kernel(V& v, MachineConfig& m) {
  v.text("directory", m.directory);
  v.text("first", m.first);
  v.texts("next", m.next);
}

template <class V>
void describe_policy(V& v, MachineConfig& m) {
  process::KernelOptions& o = m.options;
  v.names("capabilities",
          std::array{NamedFlag{"ipc_lock", &o.creds.cap_ipc_lock}, NamedFlag{"sys_rawio", &o.creds.cap_sys_rawio},
                     NamedFlag{"sys_resource", &o.creds.cap_sys_resource}});
  v.number("uid", o.creds.uid, 0, 0xFFFF'FFFF);
  v.name("tables", o.table_mode, std::span(kModes));
  v.name("stage", o.stage, std::span(kStages));
  v.flag("interrupt_remapping", o.interrupt_remapping);
  v.name("vfio_container", o.vfio_container, std::span(kContainers));
  v.flag("iommufd_test", o.iommufd_test);
}

template <class V>
void describe_log(V& v, MachineConfig& m) {
  v.name("level", m.options.log, std::span(kLevels));
  v.size("size", m.log_bytes);
}

board::DeviceConfig device(board::DeviceKind kind, unsigned slot, const char* name) {
  board::DeviceConfig d;
  d.kind = kind;
  d.bdf = board::Bdf(0, slot, 0);
  d.name = name;
  return d;
}

template <class Describe>
board::OtherTable table(std::string_view key, MachineConfig& machine, Describe describe) {
  return {key, [key, &machine, describe](const board::Source& source, const toml::table& from) {
            board::TableReader reader(source, from, std::string(key));
            describe(reader, machine);
            reader.refuse_others();
          }};
}

template <class Describe>
std::string written(std::string_view key, MachineConfig config, Describe describe) {
  const auto tell = [&](board::TableWriter& v) { describe(v, config); };
  return "\n[" + std::string(key) + "]\n" + board::lines_of(tell, tell, {}, true);
}

constexpr auto kDescribeKernel = [](auto& v, MachineConfig& m) { describe_kernel(v, m); };
constexpr auto kDescribePolicy = [](auto& v, MachineConfig& m) { describe_policy(v, m); };
constexpr auto kDescribeLog = [](auto& v, MachineConfig& m) { describe_log(v, m); };

}  // namespace

MachineConfig default_machine() {
  MachineConfig m;
  m.board.devices = {device(board::DeviceKind::Streamer, 3, "streamer0"),
                     device(board::DeviceKind::Streamer, 4, "streamer1"), device(board::DeviceKind::Edu, 5, "edu"),
                     device(board::DeviceKind::Ioat, 6, "ioat"), device(board::DeviceKind::Nvme, 7, "nvme")};
  m.board.devices[1].streamer.memory = u64{64} << 10;
  m.board.devices[4].virtual_functions = 4;  // the last one: those that come have the numbers after all others
  // As servers of these years have it.
  m.board.units.front().model.scalable = true;
  m.board.units.front().model.haw = static_cast<u8>(m.board.window_log2);
  return m;
}

MachineConfig parse_machine(std::string_view text, std::string_view name) {
  MachineConfig m;
  m.board = board::parse_board(text, name,
                               {table("kernel", m, kDescribeKernel), table("policy", m, kDescribePolicy),
                                table("log", m, [](auto& v, MachineConfig& to) {
                                  describe_log(v, to);
                                  const toml::node* size = v.find("size");
                                  if (to.log_bytes < kLeastLog) v.fail(*size, "size", "is less than 4 KiB");
                                })});
  if (process::write_options(m.options).size() >= sizeof(abi::BootInfo::command_line)) {
    throw board::ConfigError(std::string(name) +
                             ": policy: too much that differs from the defaults for a command line");
  }
  return m;
}

MachineConfig read_machine(const std::filesystem::path& file) {
  MachineConfig m = parse_machine(board::read_text(file), file.string());
  // Paths in it are from where it is, not from where somebody happens to be who names it.
  const std::filesystem::path here = std::filesystem::absolute(file).parent_path();
  const auto resolve = [&](std::string& path) { path = (here / path).lexically_normal().string(); };
  if (!m.directory.empty()) resolve(m.directory);
  if (m.first.find('/') != std::string::npos) resolve(m.first);
  for (std::string& next : m.next) {
    if (next.find('/') != std::string::npos) resolve(next);
  }
  return m;
}

std::string write_machine(const MachineConfig& config) {
  return board::write_board_keys(config.board, true) + written("kernel", config, kDescribeKernel) +
         written("policy", config, kDescribePolicy) + written("log", config, kDescribeLog) +
         board::write_board_tables(config.board, true);
}

}  // namespace perdure::tool
