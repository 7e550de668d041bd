#include "machine/process/boot_data.h"

#include <algorithm>
#include <vector>

namespace perdure::process {

namespace {

abi::MemoryType type_of(board::MemoryRegion::Type type) {
  switch (type) {
    case board::MemoryRegion::Type::Ram: return abi::MemoryType::Ram;
    case board::MemoryRegion::Type::Reserved: return abi::MemoryType::Reserved;
    case board::MemoryRegion::Type::Bank: return abi::MemoryType::Bank;
  }
  return abi::MemoryType::Reserved;
}

}  // namespace

Result<void> write_boot_info(board::Board& board, abi::BootInfo info, Phys at) {
  std::vector<abi::MemoryMapEntry> map;
  for (const board::MemoryRegion& r : board.memory_map()) {
    map.push_back({.base = r.base,
                   .length = r.length,
                   .type = static_cast<u32>(type_of(r.type)),
                   .reserved = 0,
                   .host_id = r.host_id,
                   .host_offset = r.host_offset});
  }
  if (map.size() > info.memory_map_count) return fail(Errno::Enospc);
  info.memory_map_count = static_cast<u32>(map.size());
  info.rsdp = board.rsdp().value;
  abi::seal(info);
  if (!board.memory().write(info.memory_map, std::as_bytes(std::span(map))) ||
      !board.memory().write(at.value, std::as_bytes(std::span(&info, 1)))) {
    return fail(Errno::Efault);
  }
  return {};
}

Result<void> write_cold_boot_info(board::Board& board, std::string_view command_line) {
  abi::BootInfo info;
  if (command_line.size() >= sizeof info.command_line) return fail(Errno::Einval);
  std::ranges::copy(command_line, info.command_line);
  info.memory_map = kColdMemoryMap.value;
  info.memory_map_count = kColdMapEntries;
  return write_boot_info(board, info, kColdBootInfo);
}

board::HandoverRequest handover_of(const board::Board&, const abi::BootInfo& info, Phys at) {
  board::HandoverRequest request;
  request.kho_fdt = info.kho_fdt;
  request.boot_data = {
      {align_down(at.value, kPageSize), kPageSize},
      {info.memory_map, align_up(u64{info.memory_map_count} * sizeof(abi::MemoryMapEntry), kPageSize)}};
  if (info.kho_scratch_length != 0) {
    request.boot_data.push_back(
        {align_down(info.kho_scratch, kPageSize), align_up(info.kho_scratch_length, kPageSize)});
  }
  return request;
}

namespace {

Result<Phys> walked_table_page(board::Board& board, board::IommuModel& unit, board::Bdf device) {
  constexpr u64 kRootTable = 0x20;  // RTADDR
  constexpr u64 kAddress = 0x000F'FFFF'FFFF'F000;
  constexpr unsigned kEntries = 512;
  board::PhysicalMemory& memory = board.memory();
  const u64 rtaddr = unit.read(kRootTable, 8);
  u64 word = 0;
  const auto follow = [&](u64 at) { return memory.load64(at, word) && (word & 1) != 0; };
  u64 top = 0;
  if ((rtaddr >> 10 & 3) == 0) {
    if (!follow((rtaddr & kAddress) + u64{device.bus()} * 16)) return fail(Errno::Enoent);
    if (!follow((word & kAddress) + u64{device.devfn()} * 16)) return fail(Errno::Enoent);
    top = word & kAddress;
  } else {
    // Scalable mode: half a bus, context, PASID directory, PASID 0's entry; the first or the second stage's table.
    if (!follow((rtaddr & kAddress) + u64{device.bus()} * 16 + (device.devfn() >= 0x80 ? 8 : 0))) {
      return fail(Errno::Enoent);
    }
    if (!follow((word & kAddress) + u64{device.devfn() & 0x7Fu} * 32)) return fail(Errno::Enoent);
    if (!follow(word & kAddress)) return fail(Errno::Enoent);
    const u64 entry = word & kAddress;
    if (!follow(entry)) return fail(Errno::Enoent);
    if ((word >> 6 & 7) == 1 && !memory.load64(entry + 16, word)) return fail(Errno::Enoent);
    top = word & kAddress;
  }
  for (unsigned slot = 0; slot < kEntries; ++slot) {
    if (!memory.load64(top + slot * 8, word)) return fail(Errno::Enoent);
    if ((word & 3) != 0 && (word & 0x80) == 0) return Phys(word & kAddress);
  }
  return fail(Errno::Enoent);
}

}  // namespace

Result<Phys> walked_table_page(board::Board& board, board::Bdf device) {
  const board::Device* const function = board.device(device);
  if (!function) return fail(Errno::Enodev);
  // Only the unit that it is behind has an entry for it.
  for (usize i = 0; i < board.units(); ++i) {
    if (const auto page = walked_table_page(board, board.unit(i), function->requester(true))) return page;
  }
  return fail(Errno::Enoent);
}

}  // namespace perdure::process
