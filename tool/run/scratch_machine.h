// A machine for one run, in child processes.
#pragma once
#include <sys/types.h>

#include <memory>
#include <string>

#include "machine/host/descriptor.h"
#include "tool/run_directory.h"

namespace perdure::tool {

class ScratchMachine {
 public:
  // Null when it does not start. It ends with this process.
  static std::unique_ptr<ScratchMachine> start();
  ~ScratchMachine();
  std::string socket() const { return (directory_.path() / "kernel").string(); }

 private:
  RunDirectory directory_;
  pid_t pid_ = -1;
  host::Descriptor line_;
};

}  // namespace perdure::tool
