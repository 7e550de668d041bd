// Guest memory as a file: an ELF core with a note of what matters besides, or the plain bytes.
//
// The core has one PT_LOAD for each range of RAM, at its physical address (p_paddr = p_vaddr), and one PT_NOTE with
// notes of the name "Perdure": kJumpNote, a JumpNote; kUnitNote, a UnitNote and behind it the register window as read.
#pragma once
#include <expected>
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/types.h"

namespace perdure::tool::metal {

// Beside abi::kKernelNoteType.
inline constexpr u32 kJumpNote = 0x100;
inline constexpr u32 kUnitNote = 0x101;

struct JumpNote {
  u64 version = 1;
  u64 hop = 0;        // that the jump leads to
  u64 boot_info = 0;  // physical address of what the next kernel is started with; 0: not told
};

struct UnitNote {
  u64 base = 0;    // physical address of the registers
  u64 length = 0;  // bytes that follow
};

struct MemoryRange {
  u64 base = 0;
  u64 length = 0;
};

struct UnitRegisters {
  u64 base = 0;
  std::vector<char> bytes;
};

struct CoreFile {
  JumpNote jump;
  std::vector<UnitRegisters> units;
  std::vector<MemoryRange> ram;  // sorted; each lies in the image
};

// `image`: physical memory from 0 on. What is all zero becomes a hole in the file. The text is what did not work.
std::expected<void, std::string> write_core(const std::filesystem::path& to, const CoreFile& core,
                                            const std::filesystem::path& image);
std::expected<void, std::string> write_raw(const std::filesystem::path& to, const std::filesystem::path& image);

}  // namespace perdure::tool::metal
