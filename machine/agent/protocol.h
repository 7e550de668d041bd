// What the library that is preloaded into programs (libperdure-agent.so) and the supervisor say to each other, over a
// connection of a unix SOCK_SEQPACKET socket. It stands for seccomp's user notification: the library shows the
// supervisor the system calls that the filter selects, and does with them what it is told.
#pragma once
#include "core/base/types.h"

namespace perdure::agent {

// In the program's environment: the path of the supervisor's socket.
inline constexpr char kSocketVariable[] = "PERDURE_AGENT";
// Beside the tool.
inline constexpr char kLibraryName[] = "libperdure-agent.so";

enum class Say : u32 {
  // The library.
  Hello = 1,  // asks for the filter
  Call,       // number, thread, args: a system call that waits for an answer
  Put,        // answers Install. value: the descriptor's number, or a negative errno
  // The supervisor.
  Filter = 100,  // number: so many instructions of a classic BPF program, as seccomp takes it, follow in the message
  Resume,        // make the call
  Value,         // do not; it returns value (a negative errno: it fails)
  Install,       // with a descriptor. number: O_CLOEXEC or 0; value: the number that it gets, or -1 for the lowest one
};

struct Word {
  Say say = {};
  u32 number = 0;
  s64 value = 0;
  u64 args[6] = {};
  s32 thread = 0;
  u32 zero = 0;
};
static_assert(sizeof(Word) == 72);

inline constexpr usize kMostInstructions = 1024;

}  // namespace perdure::agent
