// A machine as a text file (TOML): the board's keys (machine/board/config_file.h) and three tables besides.
// docs/machine.md is the reference.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "machine/board/config_file.h"
#include "machine/process/kernel_options.h"

namespace perdure::tool {

struct MachineConfig {
  board::BoardConfig board;

  // [kernel]
  std::string directory;                    // of the kernels; empty: beside this program
  std::string first = "a";                  // a name (perdure-kernel-NAME in the directory), or a path
  std::vector<std::string> next{"b", "a"};  // what kexec jumps to when it is not told, in turn

  // [policy]
  process::KernelOptions options;

  // [log]
  u64 log_bytes = u64{1} << 20;  // the log and the one before it are at most so long, each
};

// What a machine is when nothing is said about it: a small PC with a device of each kind that programs can drive.
MachineConfig default_machine();

// Throw board::ConfigError: "FILE:LINE:COLUMN: KEY: what is wrong; what is allowed".
MachineConfig read_machine(const std::filesystem::path& file);
MachineConfig parse_machine(std::string_view text, std::string_view name);

// Everything, also what has its default value: reading it again gives the same machine.
std::string write_machine(const MachineConfig& config);

}  // namespace perdure::tool
