// Configuration space of one PCI Express function: bytes with a mask of what software may write and of what a written 1
// clears. Side effects belong to the device.
#pragma once
#include <array>

#include "core/base/types.h"
#include "machine/board/state_file.h"

namespace perdure::board {

// Offsets of the header that the board itself acts upon.
namespace pci_reg {
inline constexpr u16 kVendor = 0x00;
inline constexpr u16 kDevice = 0x02;
inline constexpr u16 kCommand = 0x04;
inline constexpr u16 kStatus = 0x06;
inline constexpr u16 kRevision = 0x08;
inline constexpr u16 kClass = 0x09;
inline constexpr u16 kHeaderType = 0x0E;
inline constexpr u8 kMultiFunction = 0x80;
inline constexpr u16 kBar0 = 0x10;
inline constexpr u16 kPrimaryBus = 0x18;
inline constexpr u16 kSecondaryBus = 0x19;
inline constexpr u16 kSubordinateBus = 0x1A;
inline constexpr u16 kMemoryBase = 0x20;
inline constexpr u16 kMemoryLimit = 0x22;
inline constexpr u16 kPrefetchBase = 0x24;
inline constexpr u16 kPrefetchLimit = 0x26;
inline constexpr u16 kPrefetchBaseUpper = 0x28;
inline constexpr u16 kPrefetchLimitUpper = 0x2C;
inline constexpr u16 kSubsystem = 0x2C;
inline constexpr u16 kCapabilities = 0x34;
inline constexpr u16 kInterruptLine = 0x3C;
inline constexpr u16 kBridgeControl = 0x3E;

inline constexpr u16 kCommandMemory = 1 << 1;
inline constexpr u16 kCommandBusMaster = 1 << 2;
inline constexpr u16 kStatusMasterAbort = 1 << 13;
inline constexpr u16 kBridgeControlReset = 1 << 6;
}  // namespace pci_reg

class ConfigSpace {
 public:
  static constexpr unsigned kBytes = 4096;

  // Defines `width` (1, 2, 4) bytes: their value at reset, which bits software may write, which a written 1 clears.
  void define(u16 offset, unsigned width, u32 reset, u32 writable = 0, u32 clear_by_one = 0);
  // Appends a capability to the list in the first 256 bytes and returns its offset. The two header bytes are set.
  u16 add_capability(u8 id, u8 length);
  // Appends a capability to the list that begins at 0x100, and returns its offset. The four header bytes are set.
  u16 add_extended_capability(u16 id, u8 version, u16 length);

  // Naturally aligned, 1, 2 or 4 bytes, inside the space; else all ones, and writes do nothing.
  u32 read(u16 offset, unsigned width) const;
  void write(u16 offset, unsigned width, u32 value);
  // What the device itself does: no mask.
  void set(u16 offset, unsigned width, u32 value);
  // Values of reset; what `sticky` says stays is the caller's business.
  void reset() { bytes_ = reset_; }

  void save(StateWriter& out) const { out.put(bytes_); }
  void load(StateReader& in) { bytes_ = in.get<std::array<u8, kBytes>>(); }

 private:
  static bool valid(u16 offset, unsigned width) {
    return (width == 1 || width == 2 || width == 4) && offset % width == 0 && offset + width <= kBytes;
  }
  std::array<u8, kBytes> bytes_{};
  std::array<u8, kBytes> reset_{};
  std::array<u8, kBytes> writable_{};
  std::array<u8, kBytes> clear_by_one_{};
  u16 next_capability_ = 0x40;
  u16 last_link_ = pci_reg::kCapabilities;
  u16 next_extended_ = 0x100;
  u16 last_extended_ = 0;  // 0: none yet
};

}  // namespace perdure::board
