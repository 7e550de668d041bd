// The kernels that can be jumped to: one file that the loader puts into memory, a tar archive of ELF files.
#pragma once
#include <string_view>

#include "core/base/machine.h"

namespace perdure::metal {

struct Member {
  std::string_view name;
  std::string_view contents;
};
// Enoent.
Result<Member> find_member(std::string_view archive, std::string_view name);

// A kernel in the archive, which nobody writes to: what was checked is what runs.
class ElfImage {
 public:
  // Enoexec: no program for this machine, or one that does not lie in the image part of a slot.
  static Result<ElfImage> open(std::string_view file);
  std::string_view note() const { return note_; }
  Phys slot() const { return slot_; }
  u64 entry() const { return entry_; }
  // Copies the segments to where they belong. Nothing of the slot is used any more.
  void place(const Machine& machine) const;

 private:
  std::string_view file_;
  std::string_view note_;
  Phys slot_;
  u64 entry_ = 0;
};

}  // namespace perdure::metal
