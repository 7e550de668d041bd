// MSI and MSI-X (PCI Express Base 6.0, §7.7.1 and §7.7.2).
#include "core/pci/function.h"

namespace perdure::pci {
namespace {

constexpr u16 at(u16 capability, u16 offset) {
  return static_cast<u16>(capability + offset);
}

}  // namespace

unsigned Function::msi_vectors() const {
  const u16 cap = find(CapabilityId::Msi);
  if (cap == 0) return 0;
  const unsigned log2 = Msi::Capable::get(read16(at(cap, Msi::kControl)));
  return log2 <= 5 ? 1u << log2 : 0;
}

Result<void> Function::msi_enable(const MsiTarget& first, unsigned vectors) {
  if (!is_pow2(vectors) || vectors > msi_vectors()) return fail(Errno::Einval);
  const u16 cap = find(CapabilityId::Msi);
  const u16 control = read16(at(cap, Msi::kControl));
  const bool wide = Msi::Wide::test(control);
  if (!wide && first.address >> 32 != 0) return fail(Errno::Einval);
  // Not while it could send half of it.
  msi_disable();
  write32(at(cap, Msi::kAddress), static_cast<u32>(first.address));
  if (wide) write32(at(cap, Msi::kUpperAddress), static_cast<u32>(first.address >> 32));
  write16(at(cap, wide ? Msi::kData64 : Msi::kData32), static_cast<u16>(first.data));
  unsigned log2 = 0;
  while (1u << log2 < vectors) ++log2;
  write16(at(cap, Msi::kControl),
          static_cast<u16>(Msi::Enabled::set(control, static_cast<u16>(log2)) | Msi::Enable::value()));
  return {};
}

void Function::msi_disable() {
  if (const u16 cap = find(CapabilityId::Msi); cap != 0) {
    config_.update16(source_, at(cap, Msi::kControl), Msi::Enable::value(), 0);
  }
}

unsigned Function::msix_vectors() const {
  const u16 cap = find(CapabilityId::Msix);
  if (cap == 0) return 0;
  const unsigned vectors = Msix::LastEntry::get(read16(at(cap, Msix::kControl))) + 1u;
  const u32 table = read32(at(cap, Msix::kTable));
  const unsigned index = Msix::TableBar::get(table);
  if (index >= kBars) return 0;
  const Bar& bar = bars_[index];
  const u64 offset = table & ~Msix::TableBar::kMask;
  const bool inside = bar.kind == Bar::Kind::Memory && bar.base && offset <= bar.size &&
                      vectors * Msix::kEntryBytes <= bar.size - offset;
  return inside ? vectors : 0;
}

Phys Function::msix_entry(unsigned vector) const {
  if (vector >= msix_vectors()) return {};
  const u32 table = read32(at(find(CapabilityId::Msix), Msix::kTable));
  return bars_[Msix::TableBar::get(table)].base + (table & ~Msix::TableBar::kMask) + vector * Msix::kEntryBytes;
}

Result<void> Function::msix_enable() {
  const unsigned vectors = msix_vectors();
  if (vectors == 0) return fail(Errno::Eopnotsupp);
  const u16 control = at(find(CapabilityId::Msix), Msix::kControl);
  // Enabled first, since the table need not answer before, but with the whole function masked until each vector is.
  config_.update16(source_, control, 0, Msix::Enable::value() | Msix::FunctionMask::value());
  for (unsigned i = 0; i < vectors; ++i) TRY(msix_mask(i));
  config_.update16(source_, control, Msix::FunctionMask::value(), 0);
  return {};
}

void Function::msix_disable() {
  if (const u16 cap = find(CapabilityId::Msix); cap != 0) {
    config_.update16(source_, at(cap, Msix::kControl), Msix::Enable::value(), Msix::FunctionMask::value());
  }
}

Result<void> Function::msix_set(unsigned vector, const MsiTarget& target) {
  const Phys entry = msix_entry(vector);
  if (!entry) return fail(Errno::Einval);
  Machine& m = config_.machine();
  m.mmio_write(entry + 12, Width::W32, Msix::kVectorMasked);
  m.mmio_write(entry, Width::W32, static_cast<u32>(target.address));
  m.mmio_write(entry + 4, Width::W32, target.address >> 32);
  m.mmio_write(entry + 8, Width::W32, target.data);
  m.mmio_write(entry + 12, Width::W32, 0);
  return {};
}

Result<void> Function::msix_mask(unsigned vector) {
  const Phys entry = msix_entry(vector);
  if (!entry) return fail(Errno::Einval);
  config_.machine().mmio_write(entry + 12, Width::W32, Msix::kVectorMasked);
  return {};
}

bool Function::interrupts_enabled() const {
  const u16 msi = find(CapabilityId::Msi);
  const u16 msix = find(CapabilityId::Msix);
  return (msi != 0 && Msi::Enable::test(read16(at(msi, Msi::kControl)))) ||
         (msix != 0 && Msix::Enable::test(read16(at(msix, Msix::kControl))));
}

}  // namespace perdure::pci
