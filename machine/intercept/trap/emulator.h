// Carries out one instruction of a program on registers and memory that are given to it. docs/devices.md lists which.
#pragma once
#include "machine/intercept/trap/cpu_state.h"
#include "machine/intercept/trap/instruction.h"
#include "machine/intercept/trap/memory.h"
#include "machine/intercept/trap/vector_state.h"

namespace perdure::intercept {

enum class Verdict : u8 {
  Done,         // a long repetition may have got only part of the way: the instruction is to be run again
  Unsupported,  // not one of those that are carried out; nothing was accessed
  Fault,        // `address` is no memory, or not to be accessed so: SIGSEGV
  Bus,          // the registers at `address` do not answer: SIGBUS
};

struct Outcome {
  Verdict verdict = Verdict::Done;
  u64 address = 0;
  bool write = false;
};

// Whatever it did not finish leaves the state as before it, but for the repetitions that are done, as the processor
// leaves them. A read that came before a write that fails has happened. `vectors` may be empty when
// !instruction.uses_vectors().
Outcome emulate(const Instruction& instruction, CpuState& cpu, VectorState& vectors, Memory& memory);

}  // namespace perdure::intercept
