// `perdure metal --conformance`: hardware's behaviours one by one, on QEMU's unit (docs/conformance.md).
#pragma once
#include "tool/metal/metal.h"

namespace perdure::tool::metal {

int run_conformance(const MetalOptions& options);

}  // namespace perdure::tool::metal
