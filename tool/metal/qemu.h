// The QEMU that is there: is it one that this can run on, and what to start it with.
#pragma once
#include <expected>
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/types.h"

namespace perdure::tool::metal {

struct Version {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned micro = 0;
  auto operator<=>(const Version&) const = default;
  std::string to_string() const;
};

struct MachineSpec {
  std::vector<std::string> devices;
  bool scalable = false;
  bool seabios = false;
  bool interrupts = false;    // the unit remaps them
  unsigned icount_shift = 0;  // instructions are the clock, 2^shift ns each; 0: they are not
  bool probes = false;        // what the list of behaviours asks the unit with: functions that do DMA on request
};

struct Qemu {
  std::string program;
  Version version;
  std::string says;  // the first line of --version
  std::filesystem::path qboot;
};

// What QEMU reads and writes beside its windows: descriptors that it inherits, files of the run.
struct Attachments {
  std::filesystem::path kernel;
  std::filesystem::path modules;
  std::filesystem::path disk;
  std::filesystem::path trace;
  std::string words;  // the guest's command line
  int monitor = -1;
  int network = -1;
};

// "QEMU emulator version 7.2.22 (Debian …)".
std::expected<Version, std::string> parse_version(std::string_view says);
// Has this version what is used here, and did anybody look at it? An empty text, or why not.
std::string unsuitable(const Version& version, bool any_version);
// An unexpected is why there can be no run on this host: the text of a skip.
std::expected<Qemu, std::string> find_qemu(const std::string& program, const MachineSpec& machine, bool any_version);

inline constexpr u64 kMemoryBytes = u64{256} << 20;

std::vector<std::string> arguments(const Qemu& qemu, const MachineSpec& machine, const Attachments& with);

}  // namespace perdure::tool::metal
