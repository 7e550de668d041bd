// What an image of this folder brings along: where it goes on when memory, clock, serial line and gates are there.
#pragma once
#include "metal/machine.h"

namespace perdure::metal {

// Never returns: the run ends by end_run() or by the jump.
[[noreturn]] void run(MetalMachine& machine);

}  // namespace perdure::metal
