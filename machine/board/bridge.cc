#include "machine/board/bridge.h"

namespace perdure::board {
namespace {

// Source validation, translation blocking, request and completion redirect, upstream forwarding, direct translated.
constexpr u16 kPortAcs = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6;

}  // namespace

Bridge::Bridge(std::string name, Bdf home, const BridgeConfig& config, DeviceBus& bus)
    : Device(std::move(name), home, bus),
      kind_(config.kind),
      keeps_ids_(config.keeps_ids),
      home_secondary_(config.secondary) {
  using namespace pci_reg;
  set_ids(0x1234, 0x5042, 1, 0x060400, 0, 0);
  config_.define(kHeaderType, 1, 1);
  config_.define(kPrimaryBus, 1, 0, 0xFF);
  config_.define(kSecondaryBus, 1, 0, 0xFF);
  config_.define(kSubordinateBus, 1, 0, 0xFF);
  config_.define(kMemoryBase, 2, 0xFFF0, 0xFFF0);  // base above limit: closed
  config_.define(kMemoryLimit, 2, 0, 0xFFF0);
  config_.define(kPrefetchBase, 2, 0xFFF1, 0xFFF0);  // 64 bits wide
  config_.define(kPrefetchLimit, 2, 0x0001, 0xFFF0);
  config_.define(kPrefetchBaseUpper, 4, 0, ~u32{0});
  config_.define(kPrefetchLimitUpper, 4, 0, ~u32{0});
  config_.define(kBridgeControl, 2, 0, 0x0043);  // parity, SERR, secondary bus reset
  switch (kind_) {
    case BridgeKind::RootPort: add_pcie_capability(4); break;
    case BridgeKind::UpstreamPort: add_pcie_capability(5); break;
    case BridgeKind::DownstreamPort: add_pcie_capability(6); break;
    case BridgeKind::PcieToPci: add_pcie_capability(7); break;
    case BridgeKind::PciToPci: break;
  }
  const bool port = kind_ == BridgeKind::RootPort || kind_ == BridgeKind::DownstreamPort;
  if (port && config.acs) add_acs_capability(kPortAcs);
}

Bdf Bridge::upstream_id(Bdf below, bool write) const {
  switch (kind_) {
    case BridgeKind::PcieToPci:
      return keeps_ids_ && write ? below : Bdf(static_cast<u16>(secondary() << 8), home().segment);
    case BridgeKind::PciToPci: return bdf();
    default: return below;
  }
}

bool Bridge::forwards(u64 phys, u64 length) const {
  if (!memory_enabled()) return false;
  const u64 last = phys + (length - 1);
  return (phys >= window_base_.load(std::memory_order_acquire) &&
          last <= window_limit_.load(std::memory_order_acquire)) ||
         (phys >= prefetch_base_.load(std::memory_order_acquire) &&
          last <= prefetch_limit_.load(std::memory_order_acquire));
}

void Bridge::set_numbers(u8 primary, u8 secondary, u8 subordinate) {
  config_.set(pci_reg::kPrimaryBus, 1, primary);
  config_.set(pci_reg::kSecondaryBus, 1, secondary);
  config_.set(pci_reg::kSubordinateBus, 1, subordinate);
  mirror();
}

void Bridge::set_window(u64 base, u64 limit) {
  config_.set(pci_reg::kMemoryBase, 2, static_cast<u32>(base >> 16) & 0xFFF0);
  config_.set(pci_reg::kMemoryLimit, 2, static_cast<u32>(limit >> 16) & 0xFFF0);
  mirror();
}

bool Bridge::take_reset_request() {
  const bool asked = reset_requested_;
  reset_requested_ = false;
  return asked;
}

void Bridge::config_changed(u16, unsigned) {
  mirror();
  // The bus below is held in reset while the bit is set; what is there is reset once, at its rise.
  const bool in_reset = (config_.read(pci_reg::kBridgeControl, 2) & pci_reg::kBridgeControlReset) != 0;
  if (in_reset && !in_reset_) reset_requested_ = true;
  in_reset_ = in_reset;
}

void Bridge::reset() {
  in_reset_ = false;
  mirror();
}

void Bridge::save_state(StateWriter& out) const {
  out.put<u8>(in_reset_ ? 1 : 0);
}

void Bridge::load_state(StateReader& in) {
  in_reset_ = in.get<u8>() != 0;
  mirror();
}

void Bridge::mirror() {
  using namespace pci_reg;
  constexpr u16 kDeviceControl2 = 0x28;
  constexpr u32 kAriForwarding = 1 << 5;
  const u16 pcie = pcie_capability();
  ari_forwarding_.store(pcie != 0 && (config_.read(static_cast<u16>(pcie + kDeviceControl2), 2) & kAriForwarding) != 0,
                        std::memory_order_release);
  secondary_.store(static_cast<u8>(config_.read(kSecondaryBus, 1)), std::memory_order_release);
  subordinate_.store(static_cast<u8>(config_.read(kSubordinateBus, 1)), std::memory_order_release);
  window_base_.store(u64{config_.read(kMemoryBase, 2) & 0xFFF0} << 16, std::memory_order_release);
  window_limit_.store(u64{config_.read(kMemoryLimit, 2) & 0xFFF0} << 16 | 0xF'FFFF, std::memory_order_release);
  prefetch_base_.store(
      u64{config_.read(kPrefetchBaseUpper, 4)} << 32 | u64{config_.read(kPrefetchBase, 2) & 0xFFF0} << 16,
      std::memory_order_release);
  prefetch_limit_.store(
      u64{config_.read(kPrefetchLimitUpper, 4)} << 32 | u64{config_.read(kPrefetchLimit, 2) & 0xFFF0} << 16 | 0xF'FFFF,
      std::memory_order_release);
}

}  // namespace perdure::board
