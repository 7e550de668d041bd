// A program and all that it starts, served for as long as one kernel runs. This is a process of its own, an ancestor of
// the programs: who may look into them, and is there when their kernel is replaced.
#pragma once
#include <string>

#include "machine/intercept/kernel_link.h"
#include "machine/intercept/launch.h"

namespace perdure::intercept {

// Registers of devices in programs' address spaces.
enum class Mmio : u8 {
  Auto,  // Trap where the host lets one process trace another, else Off
  Trap,
  Off,  // there are none: programs read and write them by system calls
};

// The library that is preloaded into programs, in place of a filter (machine/agent).
enum class Agent : u8 {
  Auto,  // where the host refuses the filter
  Only,
  Off,
};

struct SessionConfig {
  Connect connect;
  Program program;
  bool files = true;     // sysfs, too
  std::string log_file;  // empty: none
  Mmio mmio = Mmio::Auto;
  Agent agent = Agent::Off;
  std::string agent_library = {};  // absolute
};

// Between a session and who started it, over a socket of wire::Message.
enum class Said : u32 {
  // from the session
  Failed = 1,  // result: why; payload: what was tried. Nothing was started
  NoProgram,   // result: why it could not be executed
  ByAgent,     // result: why there is no filter; it is served by the agent. Others follow
  Started,     // a: its process
  Ended,       // a: its status, as waitpid() has it. What it started may still run
  Rebooted,    // the kernel is replaced, and all programs are gone. a: as above
  PowerOff,    // the kernel went for good, and all programs are gone
  // to the session
  Signal,  // a: send it to the program
  Finish,  // end what still runs, and go
  Leave,   // go on alone, until the last of them ends
};

// Does not come back before everything has ended. When `starter` hangs up without a word, everything is ended.
int run_session(SessionConfig config, host::Descriptor starter);

}  // namespace perdure::intercept
