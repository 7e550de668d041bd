// What a program has mapped where, as /proc/PID/maps tells it.
#pragma once
#include "machine/intercept/target.h"

namespace perdure::intercept {

struct MappedArea {
  u64 start = 0;
  u64 end = 0;
  bool readable = false;
  bool writable = false;
  bool shared = false;
  u64 offset = 0;
  FileId file;  // inode 0: none
};

// The area that holds `at`. Efault.
Result<MappedArea> area_at(const Target& target, u64 at);
// A descriptor of the shared memory that is mapped there; none where it is no shared memory, or nobody has it open.
host::Descriptor open_area(const Target& target, const MappedArea& area);

}  // namespace perdure::intercept
