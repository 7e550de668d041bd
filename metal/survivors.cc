#include "metal/survivors.h"

#include <algorithm>
#include <cstring>

#include "core/kho/fdt.h"
#include "core/kho/radix_tree.h"
#include "metal/layout.h"

namespace perdure::metal {

namespace {

constexpr u64 kPoison = 0x0BAD'0BAD'0BAD'0F87;  // as a table entry: present, writable, reserved bits set

// Not cleared at the start: each use begins with that, as far as there is RAM.
[[gnu::section(".noinit")]] u64 kept[kMostMemory / kPageSize / 64];
[[gnu::section(".noinit")]] u64 suspects[kMostMemory / kHugePageSize / 64];

bool test(const u64* bits, u64 i) {
  return (bits[i / 64] >> i % 64 & 1) != 0;
}
void set(u64* bits, u64 i) {
  bits[i / 64] |= u64{1} << i % 64;
}

template <class Visit>
void each_handed_over(const Machine& machine, Phys fdt, Visit visit) {
  if (!fdt) return;
  kho::FdtProblem problem;
  const auto reader = kho::FdtReader::open({machine.virt<const std::byte>(fdt), kPageSize}, problem);
  if (!reader) return;
  const auto root = reader->word(reader->root(), kho::kMapProperty);
  if (!root) return;
  const kho::RadixView tree(machine, Phys(*root));
  (void)tree.each([&](u64 key) -> Result<void> {
    const kho::Block block = kho::block_of(key);
    visit(block.base, block.bytes());
    return {};
  });
  tree.each_node([&](Phys node) { visit(node, kPageSize); });
}

}  // namespace

Survivors::Survivors(const Machine& machine, const Facts& facts)
    : machine_(machine), pages_(facts.end_of_ram() / kPageSize) {
  std::memset(kept, 0, (pages_ / 64 + 1) * sizeof kept[0]);
}

void Survivors::keep(Phys base, u64 bytes) {
  const u64 end = std::min(align_up(base.value + bytes, kPageSize) / kPageSize, pages_);
  for (u64 page = base.page(); page < end; ++page) {
    if (page % 64 == 0 && end - page >= 64) {
      kept[page / 64] = ~u64{0};
      page += 63;
    } else {
      set(kept, page);
    }
  }
}

void Survivors::keep_handover(Phys fdt) {
  each_handed_over(machine_, fdt, [this](Phys base, u64 bytes) { keep(base, bytes); });
}

bool Survivors::any(Phys base, u64 bytes) const {
  for (u64 page = base.page(); page < (base.value + bytes) / kPageSize; ++page) {
    if (test(kept, page)) return true;
  }
  return false;
}

// In 2 MiB: where this kernel wrote, as its own page tables say, and what it came into.
void Survivors::suspect(const abi::BootInfo& boot) const {
  const u64 blocks = pages_ * kPageSize / kHugePageSize + 1;
  std::memset(suspects, 0, (blocks / 64 + 1) * sizeof suspects[0]);
  const auto add = [&](Phys base, u64 bytes) {
    const u64 end = std::min(align_up(base.value + bytes, kHugePageSize) / kHugePageSize, blocks);
    for (u64 block = base.value / kHugePageSize; block < end; ++block) set(suspects, block);
  };
  each_handed_over(machine_, Phys(boot.kho_fdt), add);
  add(Phys(boot.memory_map), boot.memory_map_count * sizeof(abi::MemoryMapEntry));
  for (u64 block = 0; block < blocks; ++block) {
    if (written(Phys(block * kHugePageSize))) set(suspects, block);
  }
}

void Survivors::poison_others(std::span<const abi::MemoryMapEntry> map, const abi::BootInfo& boot) const {
  suspect(boot);
  for (const abi::MemoryMapEntry& e : map) {
    if (e.type != static_cast<u32>(abi::MemoryType::Ram)) continue;
    for (u64 page = e.base / kPageSize; page < (e.base + e.length) / kPageSize; ++page) {
      if (!test(suspects, page * kPageSize / kHugePageSize)) {
        page |= kHugePageSize / kPageSize - 1;
        continue;
      }
      if (test(kept, page)) continue;
      u64* at = machine_.virt<u64>(Phys(page * kPageSize));
      u64 words = kPageSize / sizeof(u64);
      __asm__ volatile("rep stosq" : "+D"(at), "+c"(words) : "a"(kPoison) : "memory");
    }
  }
}

}  // namespace perdure::metal
