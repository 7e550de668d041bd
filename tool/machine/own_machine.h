// A machine for one run: no name, no daemon; its processes and its files go with it, also when this process is killed.
#pragma once
#include <filesystem>

#include "tool/machine/run_directory.h"
#include "tool/machine/runtime_directory.h"
#include "tool/machine/start.h"

namespace perdure::tool {

class OwnMachine {
 public:
  // When it returns the first kernel serves. Throws MachineError. See BoardProcess::start().
  explicit OwnMachine(const MachineConfig& config = default_machine(), bool echo = false,
                      const std::filesystem::path& program = "/proc/self/exe")
      : board_(BoardProcess::start({.name = "own",
                                    .directory = directory_.path(),
                                    .config = config,
                                    .config_name = {},
                                    .stay = false,
                                    .echo = echo,
                                    .lock = {},
                                    .program = program})) {}

  // Where the kernel listens for front ends (machine/wire).
  std::filesystem::path socket() const { return directory_.path() / kKernelSocket; }
  // Its control socket and log are in it: control.h.
  const std::filesystem::path& directory() const { return directory_.path(); }
  // Readable when the machine has ended by itself.
  int ended() const { return board_.line(); }

 private:
  RunDirectory directory_;
  BoardProcess board_;
};

}  // namespace perdure::tool
