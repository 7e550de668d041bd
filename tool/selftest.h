// `perdure selftest`: the series' two-stage selftest, with board, kernels and programs as processes of their own.
#pragma once

namespace perdure::tool {

// Prints what went wrong; 0 only if nothing did.
int run_selftest();

}  // namespace perdure::tool
