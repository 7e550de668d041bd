// What tells the two builds of this kernel apart: A writes version 1 of Perdure's records, B version 2.
#pragma once
#include "core/kernel/config.h"

namespace perdure::metal {

extern const Config kBuild;
extern const std::string_view kNextKernel;  // the other one

}  // namespace perdure::metal
