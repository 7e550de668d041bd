// What somebody who reads this machine's memory after the jump must find there, told on the serial line by the objects
// that it is written from (perdure metal --dump).
#pragma once
#include "core/kernel/kernel.h"

namespace perdure::metal {

// One event, "expect". At the jump, when nothing can change any more.
void tell_expectations(Kernel& kernel);

}  // namespace perdure::metal
