// Configuration space through ECAM windows.
#pragma once
#include <span>

#include "core/acpi/mcfg.h"
#include "core/base/lock.h"
#include "core/pci/source_id.h"

namespace perdure::pci {

class ConfigSpace {
 public:
  static constexpr u16 kBytes = 4096;

  ConfigSpace(Machine& machine, Vec<acpi::EcamWindow> windows) : machine_(machine), windows_(std::move(windows)) {}
  ConfigSpace(const ConfigSpace&) = delete;
  ConfigSpace& operator=(const ConfigSpace&) = delete;

  // `offset` is a multiple of the width. A bus without a window reads as all ones, like a function that is not there.
  u8 read8(SourceId f, u16 offset) const { return static_cast<u8>(read(f, offset, Width::W8)); }
  u16 read16(SourceId f, u16 offset) const { return static_cast<u16>(read(f, offset, Width::W16)); }
  u32 read32(SourceId f, u16 offset) const { return read(f, offset, Width::W32); }
  void write8(SourceId f, u16 offset, u8 value) { write(f, offset, Width::W8, value); }
  void write16(SourceId f, u16 offset, u16 value) { write(f, offset, Width::W16, value); }
  void write32(SourceId f, u16 offset, u32 value) { write(f, offset, Width::W32, value); }

  // Clears and sets bits of a 16-bit register, as one step for other users of this class. Returns what it reads back.
  u16 update16(SourceId f, u16 offset, u16 clear, u16 set) EXCLUDES(lock_);

  std::span<const acpi::EcamWindow> windows() const { return windows_.span(); }
  // While the bus is enumerated. Enomem.
  Result<void> add_window(const acpi::EcamWindow& window) { return windows_.push_back(window); }
  Machine& machine() const { return machine_; }

 private:
  Phys address(SourceId f, u16 offset) const;  // null address: no window
  u32 read(SourceId f, u16 offset, Width width) const;
  void write(SourceId f, u16 offset, Width width, u32 value);

  Machine& machine_;
  Vec<acpi::EcamWindow> windows_;
  Mutex lock_{LockRank::Pci};
};

}  // namespace perdure::pci
