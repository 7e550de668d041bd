// What a unit's tables let devices reach, read from its registers and memory by the architecture's rules: the pages
// that the unit itself reads, and where writes can go.
#pragma once
#include <set>
#include <vector>

#include "machine/board/board.h"

namespace perdure::fuzz {

struct Reach {
  struct Leaf {
    u64 phys = 0;
    u64 bytes = 0;
    bool write = false;
  };
  std::set<u64> pages;  // tables, and the pages of the invalidation queue: hardware reads or writes them
  std::vector<Leaf> leaves;
};

// Tables of either mode; `devices`: only what these can reach. Stops at a bound, so that tables may be anything.
Reach reach_of(board::Board& board, const std::vector<board::Bdf>& devices);

}  // namespace perdure::fuzz
