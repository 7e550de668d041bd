// The HPET's main counter: one clock for all kernels, which nobody sets back.
#pragma once
#include "core/base/types.h"

namespace perdure::metal {

// Starts it when nobody has. False: there is none at the address of PC chipsets.
bool clock_init();
u64 clock_ns();

}  // namespace perdure::metal
