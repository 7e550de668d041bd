#include "core/abi/boot_info.h"

#include <functional>

namespace perdure::abi {
namespace {

constexpr u64 kWindow = u64{1} << 30;

BootInfo good() {
  BootInfo info;
  info.memory_map = 0x1000;
  info.memory_map_count = 3;
  info.rsdp = 0xe0010;
  info.kho_fdt = 0x200000;
  info.kho_scratch = 0x3000;
  info.kho_scratch_length = 48;
  std::strcpy(info.command_line, "perdure.quiet");
  return info;
}

// Error and reason after `spoil` and a new checksum.
std::string fault(const std::function<void(BootInfo&)>& spoil) {
  BootInfo info = good();
  spoil(info);
  const u32 size = info.size;
  seal(info);
  if (size != 0) info.size = size;
  std::string_view why;
  const auto r = check(info, kWindow, &why);
  return r ? "none" : std::string(errno_name(r.error())) + ": " + std::string(why);
}

TEST(BootInfo, ChecksEveryField) {
  EXPECT_EQ(fault([](BootInfo&) {}), "none");
  EXPECT_EQ(fault([](auto& b) { b.kho_fdt = b.kho_scratch = b.kho_scratch_length = b.rsdp = 0; }), "none");
  EXPECT_EQ(fault([](auto& b) { b.kho_fdt = 0; }), "none") << "scratch without a handover";
  EXPECT_EQ(fault([](auto& b) { b.magic ^= 1; }), "EPROTO: magic");
  EXPECT_EQ(fault([](auto& b) { b.version = 2; }), "EPROTO: version");
  EXPECT_EQ(fault([](auto& b) { b.size = 200; }), "EPROTO: size");
  EXPECT_EQ(fault([](auto& b) { b.padding = 1; }), "EINVAL: padding");
  EXPECT_EQ(fault([](auto& b) { std::memset(b.command_line, 'x', sizeof(b.command_line)); }),
            "EINVAL: command line without end");
  const std::string map = "EINVAL: place of the memory map", scratch = "EINVAL: place of the scratch table",
                    lone = "EINVAL: handover without scratch table", fdt = "EINVAL: address of the handover tree";
  EXPECT_EQ(fault([](auto& b) { b.memory_map = 0; }), map);
  EXPECT_EQ(fault([](auto& b) { b.memory_map = 0x1004; }), map);
  EXPECT_EQ(fault([](auto& b) { b.memory_map_count = 0; }), map);
  EXPECT_EQ(fault([](auto& b) { b.memory_map = kWindow - 112; }), map) << "the last entry sticks out";
  EXPECT_EQ(fault([](auto& b) { b.memory_map = kWindow - 120; }), "none");
  EXPECT_EQ(fault([](auto& b) { b.memory_map = ~u64{7}; }), map);
  EXPECT_EQ(fault([](auto& b) { b.memory_map_count = ~u32{0}; }), map);
  EXPECT_EQ(fault([](auto& b) { b.rsdp = kWindow; }), "EINVAL: ACPI root pointer");
  EXPECT_EQ(fault([](auto& b) { b.kho_fdt = 0x200010; }), fdt);
  EXPECT_EQ(fault([](auto& b) { b.kho_fdt = kWindow; }), fdt);
  EXPECT_EQ(fault([](auto& b) { b.kho_scratch = 0; }), lone);
  EXPECT_EQ(fault([](auto& b) { b.kho_scratch_length = 0; }), lone);
  EXPECT_EQ(fault([](auto& b) { b.kho_scratch = b.kho_scratch_length = 0; }), lone);
  EXPECT_EQ(fault([](auto& b) { b.kho_scratch = 0x3004; }), scratch);
  EXPECT_EQ(fault([](auto& b) { b.kho_scratch_length = 40; }), scratch);
  EXPECT_EQ(fault([](auto& b) { b.kho_scratch_length = ~u64{15}; }), scratch);
}

TEST(BootInfo, AnyFlippedBitIsRefused) {
  BootInfo info = good();
  seal(info);
  ASSERT_TRUE(check(info, kWindow));
  auto* bytes = reinterpret_cast<unsigned char*>(&info);
  for (usize i = 0; i < sizeof(info) * 8; ++i) {
    bytes[i / 8] ^= static_cast<unsigned char>(1u << (i % 8));
    const auto r = check(info, kWindow);
    ASSERT_FALSE(r) << "bit " << i;
    EXPECT_EQ(r.error(), Errno::Eproto);
    bytes[i / 8] ^= static_cast<unsigned char>(1u << (i % 8));
  }
  EXPECT_TRUE(check(info, kWindow));
}

constexpr u32 kRam = 1, kReserved = 2, kBank = 3;

std::string map_fault(const std::vector<MemoryMapEntry>& map) {
  std::string_view why = "none";
  const auto r = check_memory_map(map, kWindow, &why);
  if (!r) {
    EXPECT_EQ(r.error(), Errno::Einval);
  }
  EXPECT_EQ(static_cast<bool>(r), why == "none");
  return std::string(why.starts_with("memory map: ") ? why.substr(12) : why);
}

MemoryMapEntry entry(u64 base, u64 length, u32 type) {
  return {.base = base, .length = length, .type = type};
}

TEST(MemoryMap, WhatABoardReports) {
  EXPECT_EQ(map_fault({entry(0, 0xa0000, kRam), entry(0x1000, 0x10, kReserved), entry(0x9fc00, 0x400, kReserved),
                       entry(0xe0000, 0x20000, kReserved), entry(0x100000, 0x100000, kRam),
                       entry(0x10000000, 0x200000, kBank), entry(0x20000000, 0x1000, kBank)}),
            "none");
}

TEST(MemoryMap, Refuses) {
  EXPECT_EQ(map_fault({}), "no RAM");
  EXPECT_EQ(map_fault({entry(0, 0x1000, kBank)}), "no RAM");
  EXPECT_EQ(map_fault({entry(0, 0x1000, kRam), entry(0x1000, 0x1000, 0)}), "unknown type");
  EXPECT_EQ(map_fault({entry(0, 0x1000, kRam), entry(0x1000, 0x1000, 4)}), "unknown type");
  EXPECT_EQ(map_fault({entry(0x1000, 0x1000, kRam), entry(0, 0x1000, kRam)}), "not sorted");
  EXPECT_EQ(map_fault({entry(0, 0x2000, kRam), entry(0x1000, 0x1000, kRam)}), "overlap");
  EXPECT_EQ(map_fault({entry(0, 0x2000, kRam), entry(0x1000, 0x1000, kBank)}), "overlap");
  EXPECT_EQ(map_fault({entry(0, 0x2000, kRam), entry(0, 0x2000, kRam)}), "overlap");
  EXPECT_EQ(map_fault({entry(0, 0x1800, kRam)}), "part of a page");
  EXPECT_EQ(map_fault({entry(0x10, 0x1000, kRam)}), "part of a page");
  EXPECT_EQ(map_fault({entry(0, 0x1000, kRam), entry(0x1800, 0x1000, kBank)}), "part of a page");
  EXPECT_EQ(map_fault({entry(0, 0x1000, kRam), entry(0x4000, 0x2000, kBank), entry(0x5000, 1, kReserved)}),
            "bank overlaps reserved memory");
  EXPECT_EQ(map_fault({entry(0, 0x1000, kRam), entry(0x3000, 0x2000, kReserved), entry(0x4000, 0x2000, kBank)}),
            "bank overlaps reserved memory");
  const std::string outside = "empty entry, or beyond the physical address space";
  EXPECT_EQ(map_fault({entry(0, 0, kRam)}), outside);
  EXPECT_EQ(map_fault({entry(0, kWindow + 0x1000, kRam)}), outside);
  EXPECT_EQ(map_fault({entry(kWindow, 0x1000, kRam)}), outside);
  EXPECT_EQ(map_fault({entry(~u64{0xfff}, 0x2000, kRam)}), outside);
  EXPECT_EQ(map_fault({entry(0x1000, ~u64{0xfff}, kRam)}), outside);
  MemoryMapEntry e = entry(0, 0x1000, kRam);
  e.reserved = 1;
  EXPECT_EQ(map_fault({e}), "reserved field");
  EXPECT_FALSE(check_memory_map({}, kWindow)) << "nobody asks why";
}

}  // namespace
}  // namespace perdure::abi
