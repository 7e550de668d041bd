// The board's own reader of a KHO image: which frames must live through the jump. Written from the format alone and
// sharing nothing with the core, because an oracle that shares a parser shares its mistakes.
#pragma once
#include <string>
#include <vector>

#include "machine/board/physical_memory.h"

namespace perdure::board {

struct HandoverImage {
  bool valid = false;
  std::string problem;               // why not valid, or what was odd in a valid one
  std::vector<PhysRange> preserved;  // sorted, disjoint, merged
  std::vector<u64> nodes;            // frames of the radix tree, which the tree does not contain
  u64 keys = 0;
  u64 bytes = 0;  // preserved, counted once
};

// Reads the root FDT at `fdt` and the tree behind it. `fdt` = 0: no handover, nothing preserved, valid. On a broken
// image `valid` is false and the lists hold what was found before it broke.
HandoverImage read_handover(const PhysicalMemory& memory, u64 fdt);

// Sorts and merges overlapping or touching ranges.
std::vector<PhysRange> merge_ranges(std::vector<PhysRange> ranges);

}  // namespace perdure::board
