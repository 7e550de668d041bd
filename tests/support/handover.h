// Kernels that follow one another on a test machine, as far as memory goes: frames, heap and KHO. The old one is
// abandoned, not destroyed, and its memory overwritten, as in a real jump.
#pragma once
#include <cstring>
#include <memory>
#include <new>
#include <set>

#include "core/base/asan.h"
#include "core/kho/kho.h"
#include "tests/support/bank_machine.h"

namespace perdure::test {

// An object that is forgotten unless it is destroyed on purpose.
template <class T>
class Forgettable {
 public:
  template <class... Args>
  T& make(Args&&... args) {
    return *(object_ = new (&storage_) T(std::forward<Args>(args)...));
  }
  void destroy() {
    if (T* o = std::exchange(object_, nullptr)) o->~T();
  }
  void forget() { object_ = nullptr; }
  T& operator*() { return *object_; }
  T* operator->() { return object_; }

 private:
  alignas(T) std::byte storage_[sizeof(T)];
  T* object_ = nullptr;
};

class Handover {
 public:
  static constexpr u64 kScratchBytes = u64{8} << 20;
  static constexpr Phys kScratch{u64{4} << 20};
  static constexpr Phys kMemoryMap{kPageSize};  // reserved pages
  static constexpr u64 kMemoryMapBytes = 16 * kPageSize;

  explicit Handover(u64 ram = u64{48} << 20, u64 window = u64{4} << 30) : machine(ram, window) {
    if (!boot(Phys(0))) throw std::runtime_error("cold boot");
  }

  FrameAllocator& frames() { return *frames_; }
  Heap& heap() { return *heap_; }
  Kho& kho() { return *kho_; }

  // To the next kernel, whatever the old one was doing. The error is carve()'s, with the frames then not opened.
  Result<void> jump() {
    const Phys fdt = kho().outgoing_fdt();
    forget();
    poison(fdt);
    machine.write_memory_map(kMemoryMap);
    return boot(fdt);
  }
  // The same with a FDT that need not be the old kernel's.
  Result<void> jump_to(Phys fdt) {
    forget();
    asan::unpoison(machine.direct_map, machine.ram_bytes());
    machine.write_memory_map(kMemoryMap);
    return boot(fdt);
  }
  // An orderly end, for leak checks.
  void destroy_kho() { kho_.destroy(); }
  // Fails the nth allocation of the next kernel's Kho::init(); retry_init() repeats that.
  u64 fail_init_at = 0;
  Result<void> retry_init() { return kho().init(fdt_, max_order); }

  BankMachine machine;
  unsigned max_order = kho::kMaxKeyOrder;

 private:
  void forget() {
    kho_.forget();
    heap_.forget();
    frames_.forget();
  }

  Result<void> boot(Phys fdt) {
    const Extent ram[] = {{Phys(0), machine.ram_bytes()}};
    const Extent reserved[] = {{kMemoryMap, kMemoryMapBytes}};
    const Extent scratch[] = {{kScratch, kScratchBytes}};
    FrameAllocator& frames = frames_.make(machine);
    const bool handover = static_cast<bool>(fdt);
    TRY(frames.init(ram, reserved, handover ? std::span<const Extent>(scratch) : std::span<const Extent>()));
    if (!handover) {
      const Extent carved = TRY(frames.carve_scratch(kScratchBytes));
      if (carved.base != kScratch) throw std::runtime_error("scratch is elsewhere");
    }
    if (handover) TRY(Kho::carve(frames, fdt));
    frames.open();
    Kho& kho = kho_.make(heap_.make(frames));
    fdt_ = fdt;
    machine.counting.allocations = 0;
    machine.counting.fail_at = fail_init_at;
    const auto r = kho.init(fdt, max_order);
    machine.counting.fail_at = 0;
    return r;
  }

  // Overwrites all RAM but what crosses: preserved blocks, pages of the tree, scratch (which the next kernel's own
  // image and boot data would occupy) and reserved pages.
  void poison(Phys fdt) {
    asan::unpoison(machine.direct_map, machine.ram_bytes());
    std::vector<bool> spare(machine.ram_bytes() >> kPageShift);
    const auto mark = [&](u64 base, u64 bytes) {
      for (u64 at = base; at < base + bytes && at < machine.ram_bytes(); at += kPageSize)
        spare[at >> kPageShift] = true;
    };
    mark(kMemoryMap.value, kMemoryMapBytes);
    u64 root = 0;
    const auto* bytes = machine.virt<const char>(fdt);
    // The map's value is where the first property's name says: 8 bytes after its header, at a fixed place in
    // the trees that this project and Linux write.
    std::memcpy(&root, bytes + 0x60, sizeof root);
    const kho::RadixView tree(machine, Phys(root));
    tree.each_node([&](Phys node) { mark(node.value, kPageSize); });
    (void)tree.each([&](u64 key) -> Result<void> {
      const kho::Block block = kho::block_of(key);
      mark(block.base.value, block.bytes());
      return {};
    });
    // Only what was ever touched: the rest reads as zero, which no kernel mistakes for something of its own.
    std::vector<unsigned char> resident(spare.size());
    if (mincore(machine.direct_map, machine.ram_bytes(), resident.data()) != 0) throw std::runtime_error("mincore");
    for (u64 page = 0; page < spare.size(); ++page) {
      if (!spare[page] && (resident[page] & 1) != 0)
        std::memset(machine.virt(Phys(page << kPageShift)), 0xa5, kPageSize);
    }
  }

  Phys fdt_;
  Forgettable<FrameAllocator> frames_;
  Forgettable<Heap> heap_;
  Forgettable<Kho> kho_;
};

}  // namespace perdure::test
