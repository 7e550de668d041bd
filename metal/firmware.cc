#include "metal/firmware.h"

#include <algorithm>
#include <cstring>

#include "core/base/log.h"
#include "metal/layout.h"
#include "metal/report.h"
#include "metal/serial.h"

namespace perdure::metal {

namespace {

// Xen's public/arch-x86/hvm/start_info.h, version 1.
struct StartInfo {
  u32 magic, version, flags, modules;
  u64 module_list, command_line, rsdp, memory_map;
  u32 memory_map_entries, reserved;
};
struct Module {
  u64 address, size, command_line, reserved;
};
struct MapEntry {
  u64 address, size;
  u32 type, reserved;
};
constexpr u32 kStartInfoMagic = 0x336EC578;
constexpr u32 kUsable = 1;

template <class T>
T read_at(u64 at) {
  T value;
  // NOLINTNEXTLINE(performance-no-int-to-ptr): tables of firmware lie at any address
  std::memcpy(&value, reinterpret_cast<const void*>(kDirectMap + at), sizeof value);
  return value;
}

[[noreturn]] void give_up(std::string_view why) {
  log(LogLevel::Error, why);
  end_run(Verdict::Broken);
}

// Both firmwares that QEMU comes with leave the same tables; SeaBIOS has its name in the ROM.
std::string_view firmware_name() {
  constexpr std::string_view kName = "SeaBIOS";
  constexpr u64 kRom = 0xE0000;
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  const std::string_view rom(reinterpret_cast<const char*>(kDirectMap + kRom), kLowMemory - kRom);
  for (usize i = 0; i + kName.size() <= rom.size(); ++i) {
    if (std::memcmp(rom.data() + i, kName.data(), kName.size()) == 0) return "seabios";
  }
  return "qboot";
}

void add_region(Facts& facts, u64 base, u64 length, bool usable) {
  // RAM is made of whole pages and begins above what firmware keeps for itself.
  u64 end = base + length;
  if (usable) {
    base = std::max(align_up(base, kPageSize), kLowMemory);
    end = std::min(align_down(end, kPageSize), kMostMemory);
  }
  if (base >= end) return;
  if (facts.regions == Facts::kMostRegions) give_up("firmware's memory map has more regions than fit");
  u64 at = facts.regions++;
  for (; at > 0 && facts.region[at - 1].base > base; --at) facts.region[at] = facts.region[at - 1];
  facts.region[at] = {base, end - base, usable ? u64{1} : u64{0}};
}

// The upper half of the largest stretch of RAM, as far as the archive leaves it: loaders put that at the top.
void set_share_aside(Facts& facts) {
  constexpr u64 kSlotsEnd = kSlots[1].value + kSlotBytes;
  Facts::Region largest{};
  for (const Facts::Region& r : facts.memory()) {
    if (r.usable != 0 && r.length > largest.length) largest = r;
  }
  u64 end = largest.base + largest.length;
  if (facts.archive_bytes != 0) {
    if (ranges_overlap(facts.archive, facts.archive_bytes, kSlots[0].value, kSlotsEnd - kSlots[0].value)) {
      give_up("the archive of kernels lies where kernels go");
    }
    if (facts.archive >= largest.base && facts.archive < end) end = facts.archive;
  }
  const u64 half = align_up(largest.base + (end - largest.base) / 2, kHugePageSize);
  end = align_down(end, kHugePageSize);
  if (half < kSlotsEnd + kSlotBytes || half >= end) {
    give_up("too little memory: two kernels and what they hand over need 128 MiB beside their archive");
  }
  facts.share = half;
  facts.share_bytes = end - half;
}

}  // namespace

void keep_facts(Phys start_info) {
  // All of it is read before anything is written: it lies in memory that is called usable, too.
  const auto info = read_at<StartInfo>(start_info.value);
  if (info.magic != kStartInfoMagic || info.version < 1) give_up("no PVH start information, or one without memory map");
  Facts facts;
  facts.rsdp = info.rsdp;
  if (info.modules > 0) {
    const auto module = read_at<Module>(info.module_list);
    facts.archive = module.address;
    facts.archive_bytes = module.size;
  }
  for (u32 i = 0; i < info.memory_map_entries; ++i) {
    const auto entry = read_at<MapEntry>(info.memory_map + i * sizeof(MapEntry));
    add_region(facts, entry.address, entry.size, entry.type == kUsable);
  }
  for (usize i = 0; info.command_line != 0; ++i) {
    const char c = read_at<char>(info.command_line + i);
    if (c == '\0') break;
    if (i + 1 == sizeof facts.command_line) give_up("the command line is longer than 127 characters");
    facts.command_line[i] = c;
  }
  const std::string_view name = firmware_name();
  std::memcpy(facts.firmware, name.data(), name.size());
  set_share_aside(facts);
  if (!facts.is_ram(kSlots[0], 2 * kSlotBytes)) give_up("there is no RAM where the two kernels go");
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  std::memcpy(reinterpret_cast<void*>(kDirectMap + kFacts.value), &facts, sizeof facts);
}

Result<const Facts*> facts() {
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  const auto* kept = reinterpret_cast<const Facts*>(kDirectMap + kFacts.value);
  if (kept->magic != Facts::kMagic || kept->regions > Facts::kMostRegions) return fail(Errno::Eproto);
  return kept;
}

}  // namespace perdure::metal
