// A handover image built by hand: the FDT as a Linux 7.3 kernel left it, byte by byte, and trees of the tests' own
// making.
#pragma once
#include <cstring>
#include <string_view>

#include "machine/board/physical_memory.h"

namespace perdure::board::testing {

class HandoverFixture {
 public:
  explicit HandoverFixture(PhysicalMemory& m) : memory(m) {}

  // 285 bytes with two sub-blobs; the root of the tree at `root`.
  void put_fdt(u64 at, u64 root, std::string_view compatible = std::string_view("kho-v4", 7)) {
    std::vector<std::byte> b;
    const auto big = [&](u32 v) {
      for (int shift = 24; shift >= 0; shift -= 8) b.push_back(static_cast<std::byte>(v >> shift));
    };
    const auto text = [&](std::string_view s) {
      for (char c : s) b.push_back(static_cast<std::byte>(c));
    };
    const auto native = [&](u64 v) {
      for (int i = 0; i < 8; ++i) b.push_back(static_cast<std::byte>(v >> (8 * i)));
    };
    const auto pad = [&] {
      while (b.size() % 4 != 0) b.push_back(std::byte{0});
    };
    for (u32 v : {0xD00DFEEDu, 0u, 0x38u, 0u, 0x28u, 0x11u, 0x10u, 0u, 0x39u, 0u}) big(v);
    native(0);
    native(0);
    big(1), big(0);
    big(3), big(static_cast<u32>(compatible.size())), big(0x15), text(compatible), pad();
    big(3), big(8), big(0), native(root);
    big(1), text(std::string_view("LUO", 4));
    big(3), big(8), big(0x2F), native(32);
    big(3), big(8), big(0x20), native(0x7B'A000);
    big(2);
    big(1), text(std::string_view("kexec-metadata", 15)), pad();
    big(3), big(8), big(0x2F), native(0x49);
    big(3), big(8), big(0x20), native(0x7B'B000);
    big(2), big(2), big(9);
    const auto strings = static_cast<u32>(b.size());
    text(std::string_view("preserved-memory-map\0compatible\0preserved-data\0blob-size", 57));
    fdt_bytes = static_cast<u32>(b.size());
    const auto patch = [&](usize where, u32 v) {
      for (int i = 0; i < 4; ++i) b[where + static_cast<usize>(i)] = static_cast<std::byte>(v >> (24 - 8 * i));
    };
    patch(4, fdt_bytes);
    patch(12, strings);
    patch(36, strings - 0x38);
    memory.fill({at, 4096}, 0);
    memory.write(at, b);
  }

  // Sets a key at the indices that its 53 bits say; nodes come from next_node.
  void put_key(u64 root, u64 key) {
    u64 table = root;
    for (unsigned level = 5; level >= 1; --level) {
      const u64 slot = table + 8 * (key >> (15 + 9 * (level - 1)) & 0x1FF);
      u64 child = 0;
      memory.load64(slot, child);
      if (child == 0) {
        child = next_node;
        next_node += 4096;
        memory.fill({child, 4096}, 0);
        memory.fill({slot, 8}, child);
      }
      table = child;
    }
    const u64 bit = key & 0x7FFF;
    u64 word = 0;
    memory.load64(table + bit / 64 * 8, word);
    memory.fill({table + bit / 64 * 8, 8}, word | u64{1} << (bit % 64));
  }
  static u64 key_of(u64 phys, unsigned order) { return u64{1} << (52 - order) | phys >> (12 + order); }
  void preserve(u64 root, u64 phys, unsigned order) { put_key(root, key_of(phys, order)); }

  PhysicalMemory& memory;
  u64 next_node = 0x60'0000;
  u32 fdt_bytes = 0;
};

}  // namespace perdure::board::testing
