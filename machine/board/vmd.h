// A volume management device: an endpoint behind which there is a segment of its own. Its BAR 0 is that segment's
// configuration space (1 MiB a bus, laid out like ECAM), its BAR 2 the window for registers below; firmware's MCFG and
// DMAR do not know the segment. Whatever is below masters with this function's requester id, and only while it may.
#pragma once
#include "machine/board/config.h"
#include "machine/board/device.h"

namespace perdure::board {

class Vmd final : public Device {
 public:
  static constexpr unsigned kConfigBar = 0;
  static constexpr unsigned kMemoryBar = 2;

  Vmd(std::string name, Bdf home, const VmdConfig& config, DeviceBus& bus)
      : Device(std::move(name), home, bus), segment_(config.segment) {
    set_ids(0x1234, 0x564D, 1, 0x010400, 0, 0);  // RAID, as the real ones
    add_bar(kConfigBar, u64{config.buses} << 20, true);
    add_bar(kMemoryBar, config.window, false);
  }

  u16 segment() const { return segment_; }
  // Offset into its segment's configuration space.
  std::optional<u64> config_offset(u64 phys) const { return offset_in(kConfigBar, phys); }
  bool forwards(u64 phys, u64 length) const {
    const std::optional<u64> offset = offset_in(kMemoryBar, phys);
    return offset && bar(kMemoryBar).size - *offset >= length;
  }

 private:
  std::optional<u64> offset_in(unsigned i, u64 phys) const {
    const u64 base = bar_address(i);
    if (!memory_enabled() || base == 0 || phys < base || phys - base >= bar(i).size) return std::nullopt;
    return phys - base;
  }
  u16 segment_;
};

}  // namespace perdure::board
