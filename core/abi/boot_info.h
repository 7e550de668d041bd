// What a kernel is started with: one page in scratch memory, the same bytes on every machine. The machine fills the
// memory map, the former kernel the rest.
#pragma once
#include <cstddef>
#include <span>
#include <string_view>

#include "core/abi/schema.h"

namespace perdure::abi {

inline constexpr u64 kBootInfoMagic = 0x4f464e49544f4f42;  // "BOOTINFO"
inline constexpr u32 kBootInfoVersion = 1;

enum class MemoryType : u32 {
  Ram = 1,       // the frame allocator's
  Reserved = 2,  // never touched: boot data, the running image, firmware
  Bank = 3,      // host memory; never enters the frame allocator
};

struct MemoryMapEntry {
  u64 base = 0;
  u64 length = 0;
  u32 type = 0;  // MemoryType
  u32 reserved = 0;
  u64 host_id = 0;  // banks: identity of the host memory
  u64 host_offset = 0;
};
static_assert(sizeof(MemoryMapEntry) == 40);

struct BootInfo {
  u64 magic = kBootInfoMagic;
  u32 version = kBootInfoVersion;
  u32 size = 0;        // bytes of this structure
  u64 memory_map = 0;  // physical address of MemoryMapEntry[memory_map_count], in scratch or reserved memory
  u32 memory_map_count = 0;
  u32 hop = 0;          // kernels before this one
  u64 rsdp = 0;         // physical address of the ACPI root pointer
  u64 kho_fdt = 0;      // 0: cold boot
  u64 kho_scratch = 0;  // physical address of the scratch table (kho-luo §1.3)
  u64 kho_scratch_length = 0;
  u64 jump_ns = 0;  // machine time when the former kernel gave up control
  char command_line[128] = {};
  u32 checksum = 0;
  u32 padding = 0;
};
static_assert(sizeof(BootInfo) == 208);

// Stores the size and the checksum, last of all changes.
void seal(BootInfo& info);
// Eproto when this is no boot information that this kernel reads: magic, version, size, checksum. Einval when a field
// cannot be: an address beyond `window`, a handover without scratch table, a command line without end. `why`, if
// given, says which.
Result<void> check(const BootInfo& info, u64 window, std::string_view* why = nullptr);
// A memory map is sorted by base and lies in the window. RAM and banks are made of whole pages and disjoint; reserved
// stretches may lie in RAM, but not in a bank. There is some RAM. Einval.
Result<void> check_memory_map(std::span<const MemoryMapEntry> map, u64 window, std::string_view* why = nullptr);

// One area of the scratch table, as Linux lays it out.
struct KhoScratch {
  u64 address = 0;
  u64 size = 0;
};

}  // namespace perdure::abi
