#include "core/pci/config_space.h"

namespace perdure::pci {

Phys ConfigSpace::address(SourceId f, u16 offset) const {
  PERDURE_ASSERT(offset < kBytes);
  for (const acpi::EcamWindow& w : windows_) {
    if (w.segment == f.segment && w.first_bus <= f.bus() && f.bus() <= w.last_bus) {
      return w.base + (u64{f.bdf} << 12) + offset;
    }
  }
  return {};
}

u32 ConfigSpace::read(SourceId f, u16 offset, Width width) const {
  const Phys at = address(f, offset);
  return at ? static_cast<u32>(machine_.mmio_read(at, width)) : ~u32{0};
}

void ConfigSpace::write(SourceId f, u16 offset, Width width, u32 value) {
  if (const Phys at = address(f, offset)) machine_.mmio_write(at, width, value);
}

u16 ConfigSpace::update16(SourceId f, u16 offset, u16 clear, u16 set) {
  MutexGuard guard(lock_);
  const u16 before = read16(f, offset);
  const u16 after = static_cast<u16>((before & ~clear) | set);
  if (after != before) write16(f, offset, after);
  return read16(f, offset);
}

}  // namespace perdure::pci
