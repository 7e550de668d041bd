// Files of which only some pages exist.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/base/types.h"

namespace perdure::board {

// Calls visit(begin, end) for page-aligned stretches of the file that have pages, inside [from, to). A file system that
// cannot tell says that everything has. Moves the descriptor's position.
template <class Visit>
void each_data_stretch(int fd, u64 from, u64 to, Visit visit) {
  u64 at = from;
  while (at < to) {
    const off_t data = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0) {
      if (errno == ENXIO) return;  // nothing more up to the end of the file
      visit(at, to);
      return;
    }
    const u64 begin = std::max(at, align_down(static_cast<u64>(data), kPageSize));
    if (begin >= to) return;
    const off_t hole = lseek(fd, data, SEEK_HOLE);
    // The end of the file may cut a page.
    const u64 end = hole < 0 ? to : std::min(to, align_up(static_cast<u64>(hole), kPageSize));
    if (end <= begin) return;
    visit(begin, end);
    at = end;
  }
}

}  // namespace perdure::board
