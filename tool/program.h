// A program of the demo as a process of its own: `perdure program …`, started by the rig and told what to do on its
// standard input, one word a line; it answers on its standard output.
#pragma once
#include <string>

#include "scenarios/streams.h"

namespace perdure::tool {

struct ProgramOptions {
  std::string socket;  // of a kernel process; empty: the system calls of an ordinary program
  u32 hop = 0;
  std::string plan;  // plan_text()
  bool selftest = false;
};

std::string plan_text(const scenarios::StreamsPlan& plan);
// Returns the process's exit status: 0 asked to end, 9 killed with its kernel, 1 something went wrong.
int run_program(const ProgramOptions& options);

}  // namespace perdure::tool
