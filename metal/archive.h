// The kernels that can be jumped to: one file that the loader puts into memory, a tar archive of ELF files.
#pragma once
#include <string_view>

#include "core/abi/elf_program.h"
#include "core/base/machine.h"

namespace perdure::metal {

struct Member {
  std::string_view name;
  std::string_view contents;
};
// Enoent.
Result<Member> find_member(std::string_view archive, std::string_view name);

// The slot whose image part all of it lies in. Enoexec.
Result<Phys> slot_of(const abi::ElfProgram& program);
// Copies the segments to where they belong. Nothing of the slot is used any more.
void place(const abi::ElfProgram& program, const Machine& machine);

}  // namespace perdure::metal
