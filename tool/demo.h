// `perdure demo`: live updates there and back under running DMA, with a verdict.
#pragma once
#include <string>

#include "core/base/types.h"

namespace perdure::tool {

struct DemoOptions {
  bool in_process = false;
  bool wire = false;     // programs that know of the kernel's socket
  bool cold = false;     // a plain kexec instead: nothing is preserved
  std::string breakage;  // "te-gap", "table-page", or empty
  bool json = false;
  bool verbose = false;
  unsigned hops = 2;
  unsigned stretch_ms = 0;     // devices stream this long before and after each hop; 0: as long as makes a good table
  u64 memory = u64{64} << 30;  // of guests, bytes
  u64 rate = 20'000;           // transfers a second of each ring, except in process
  u64 seed = 1;
  std::string kernel;             // to jump to, instead of b and a in turn: a name or a path
  std::string caches;             // policy of the model's caches, in process; empty: the board's own
  std::string tables = "legacy";  // or "scalable" (second stage) or "first-stage"
  std::string board;              // a file (docs/board.md); empty: four streamers behind one unit
};

// 0 only if nothing was lost.
int run_demo(const DemoOptions& options);

}  // namespace perdure::tool
