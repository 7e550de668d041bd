// A bridge: port of the root complex or of a switch, or to a conventional bus. Firmware gives it bus numbers and a
// memory window; what is below it answers, decodes and masters only as far as these registers let it.
#pragma once
#include "machine/board/config.h"
#include "machine/board/device.h"

namespace perdure::board {

class Bridge final : public Device {
 public:
  Bridge(std::string name, Bdf home, const BridgeConfig& config, DeviceBus& bus);

  BridgeKind kind() const { return kind_; }
  // What is on the bus below it is conventional.
  bool to_conventional() const { return kind_ == BridgeKind::PcieToPci || kind_ == BridgeKind::PciToPci; }
  // The requester id that a request from below carries above. A conventional bus knows none, so the bridge gives its
  // own (PCI Express to PCI/PCI-X Bridge 1.0, 2.3): of its secondary bus, device 0, or, itself conventional, its own.
  Bdf upstream_id(Bdf below, bool write) const;

  u8 home_secondary() const { return home_secondary_; }
  // Registers, mirrored so that a device below reads them without this one's lock.
  u8 secondary() const { return secondary_.load(std::memory_order_acquire); }
  u8 subordinate() const { return subordinate_.load(std::memory_order_acquire); }
  bool leads_to(u8 bus) const { return secondary() != 0 && bus >= secondary() && bus <= subordinate(); }
  // Whether the whole range passes downstream through one of the windows.
  bool forwards(u64 phys, u64 length) const;

  bool ari_forwarding() const { return ari_forwarding_.load(std::memory_order_acquire); }

  void set_numbers(u8 primary, u8 secondary, u8 subordinate) REQUIRES(lock_);
  // Both MiB-aligned; an empty window for base > limit. By firmware.
  void set_window(u64 base, u64 limit) REQUIRES(lock_);
  bool take_reset_request() override REQUIRES(lock_);

 private:
  void config_changed(u16 offset, unsigned width) override REQUIRES(lock_);
  void reset() override REQUIRES(lock_);
  void save_state(StateWriter& out) const override REQUIRES(lock_);
  void load_state(StateReader& in) override REQUIRES(lock_);
  void mirror();

  BridgeKind kind_;
  bool keeps_ids_;
  u8 home_secondary_;
  bool reset_requested_ = false;
  bool in_reset_ = false;
  std::atomic<u8> secondary_{0};
  std::atomic<u8> subordinate_{0};
  std::atomic<bool> ari_forwarding_{false};
  std::atomic<u64> window_base_{1};
  std::atomic<u64> window_limit_{0};
  std::atomic<u64> prefetch_base_{1};
  std::atomic<u64> prefetch_limit_{0};
};

}  // namespace perdure::board
