// Firmware's and the board's part of starting a kernel.
#pragma once
#include <string_view>

#include "core/abi/boot_info.h"
#include "machine/board/board.h"

namespace perdure::process {

// Where the first kernel's boot information lies: in the memory that the board's firmware reserves.
inline constexpr Phys kColdBootInfo{0x20000};
inline constexpr Phys kColdMemoryMap{0x21000};
inline constexpr u32 kColdMapEntries = 1024;

// Completes `info` with the board's memory map (at info.memory_map, at most info.memory_map_count entries) and
// ACPI root, seals it and writes it to `at`. Enospc: more regions than fit. Efault: the places are no memory.
Result<void> write_boot_info(board::Board& board, abi::BootInfo info, Phys at);
// The same for the first kernel, with its command line. Einval: one that is too long.
Result<void> write_cold_boot_info(board::Board& board, std::string_view command_line = {});
// What a jump with this boot information leaves to the next kernel.
board::HandoverRequest handover_of(const board::Board& board, const abi::BootInfo& info, Phys at);

// A page of a table that the unit walks for this device now, below the top page. Enoent. Reads legacy tables as
// hardware does.
Result<Phys> walked_table_page(board::Board& board, board::Bdf device);

}  // namespace perdure::process
