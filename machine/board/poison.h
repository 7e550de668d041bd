// What happens to memory when a kernel is gone: everything that was not handed over is destroyed.
#pragma once
#include <string>
#include <vector>

#include "machine/board/handover_reader.h"

namespace perdure::board {

// What the next kernel is started with, as far as the board must leave it alone.
struct HandoverRequest {
  u64 kho_fdt = 0;                   // 0: cold start of the next kernel, nothing is preserved
  std::vector<PhysRange> boot_data;  // boot information, memory map, scratch table
  std::vector<PhysRange> segments;   // the loaded next kernel
};

struct PoisonStats {
  bool image_valid = false;
  std::string image_problem;
  u64 poisoned_frames = 0;
  u64 preserved_frames = 0;  // of RAM, materialised or not
  u64 node_frames = 0;
  u64 kept_frames = 0;  // materialised and left alone
  u64 banks_kept = 0;
  u64 banks_detached = 0;
  u64 elapsed_ns = 0;
};

// Overwrites with kPoisonWord every materialised frame of RAM outside firmware's that is neither preserved, nor a node
// of the tree, nor boot data, nor a segment; detaches banks without a preserved byte. Of an image that breaks off, what
// was found before the damage is left alone, so that people can look at it.
PoisonStats poison(PhysicalMemory& memory, const HandoverRequest& request);

}  // namespace perdure::board
