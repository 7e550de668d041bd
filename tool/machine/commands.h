// `perdure machine …` and `perdure kexec`.
#pragma once
#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "tool/machine/runtime_directory.h"

namespace perdure::tool {

// Which machine is meant: by name, by the path of its directory, or, empty, the one that PERDURE_MACHINE says or the
// only one that runs. Throws MachineError unless it runs.
Found choose_machine(const std::string& wanted);

class MachineCommands {
 public:
  // Adds them to the program's.
  explicit MachineCommands(CLI::App& app);
  // Runs the one that was given, and returns its exit status; nothing when there was none.
  std::optional<int> run();
  CLI::App& machine() { return *machine_; }

 private:
  int up();
  int down();
  int list();
  int status();
  int log();
  int kexec();

  CLI::App* machine_;
  CLI::App* up_;
  CLI::App* down_;
  CLI::App* list_;
  CLI::App* status_;
  CLI::App* log_;
  CLI::App* defaults_;
  CLI::App* board_;
  CLI::App* kexec_;

  std::string name_;
  std::string config_;
  std::string path_;
  std::string kernel_;
  std::string budget_;
  bool foreground_ = false;
  bool follow_ = false;
  bool json_ = false;
};

}  // namespace perdure::tool
