// The two kernels of the hosted machine: A writes version 1 of Perdure's records, B version 2; both read both.
#pragma once
#include "core/kernel/config.h"

#ifndef PERDURE_KERNEL_RELEASE
#error "PERDURE_KERNEL_RELEASE and PERDURE_KERNEL_WRITES come from CMakeLists.txt"
#endif

namespace perdure::process {

inline constexpr Config kKernelConfig{.release = PERDURE_KERNEL_RELEASE, .write_version = PERDURE_KERNEL_WRITES};

}  // namespace perdure::process
