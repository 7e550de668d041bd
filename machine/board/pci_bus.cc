#include "machine/board/pci_bus.h"

#include <algorithm>
#include <stdexcept>

namespace perdure::board {

namespace {
constexpr u64 kBridgeGranule = u64{1} << 20;  // of memory windows
}

void PciBus::add(std::unique_ptr<Device> device) {
  const Bdf home = device->home();
  if (by_home(home) != nullptr) throw std::runtime_error("board: two devices at " + home.to_string());
  if (home.bus() != 0) {
    const Bridge* above = nullptr;
    for (const auto& d : devices_) {
      const auto* bridge = dynamic_cast<const Bridge*>(d.get());
      if (bridge != nullptr && bridge->home_secondary() == home.bus()) above = bridge;
    }
    if (above == nullptr) {
      throw std::runtime_error("board: no bridge leads to " + home.to_string() +
                               "; name one before it, with secondary " + std::to_string(home.bus()));
    }
    device->set_parent(above);
  }
  devices_.push_back(std::move(device));
}

void PciBus::join_ari_device(Bdf home) {
  Device& joined = *by_home(home);
  if (joined.parent() == nullptr) throw std::runtime_error("board: " + home.to_string() + " has ARI and no port");
  u8 next = 0;
  Device* before = nullptr;
  for (const auto& d : devices_) {
    if (d->parent() != joined.parent() || !d->ari()) continue;
    const u8 function = d->home().devfn();
    if (function > home.devfn() && (next == 0 || function < next)) next = function;
    if (function < home.devfn() && (before == nullptr || function > before->home().devfn())) before = d.get();
  }
  joined.set_ari(next);
  if (before != nullptr) before->set_ari(home.devfn());
}

Device* PciBus::by_home(Bdf home) const {
  for (const auto& d : devices_) {
    if (d->home() == home) return d.get();
  }
  return nullptr;
}

// Gives addresses to the functions on one bus (below `above`; null: the root bus), depth first, and windows to bridges.
// Behind bridges everything goes below 4 GiB, since windows for memory that must not be prefetched are 32 bits wide.
// Returns the highest bus number found below.
u8 PciBus::assign_bus(const Bridge* above, u64& low, u64& high) {
  u8 highest = above == nullptr ? u8{0} : above->home_secondary();
  for (const auto& d : devices_) {
    if (d->parent() != above) continue;
    auto* bridge = dynamic_cast<Bridge*>(d.get());
    if (bridge != nullptr) {
      low = align_up(low, kBridgeGranule);
      const u64 base = low;
      const u8 subordinate = assign_bus(bridge, low, high);
      low = align_up(low, kBridgeGranule);
      highest = std::max(highest, subordinate);
      const DeviceGuard guard(bridge->lock());
      bridge->set_numbers(above == nullptr ? u8{0} : above->home_secondary(), bridge->home_secondary(), subordinate);
      if (low > base) bridge->set_window(base, low - 1);
      bridge->config_write(pci_reg::kCommand, 2, pci_reg::kCommandMemory | pci_reg::kCommandBusMaster);
      continue;
    }
    const DeviceGuard guard(d->lock());
    for (unsigned i = 0; i < Device::kBars; ++i) {
      const u64 size = d->bar(i).size;
      if (size == 0) continue;
      u64& next = d->bar(i).is_64bit && above == nullptr ? high : low;
      next = align_up(next, std::max(size, kPageSize));
      const u16 at = static_cast<u16>(pci_reg::kBar0 + 4 * i);
      d->config_write(at, 4, static_cast<u32>(next));
      if (d->bar(i).is_64bit) d->config_write(static_cast<u16>(at + 4), 4, static_cast<u32>(next >> 32));
      next += size;
    }
    d->config_write(pci_reg::kCommand, 2, pci_reg::kCommandMemory);
  }
  return highest;
}

void PciBus::assign_addresses(PhysRange high_window) {
  u64 low = kBarWindow.base;
  u64 high = high_window.base;
  assign_bus(nullptr, low, high);
  if (low > kBarWindow.end() || high > high_window.end()) {
    throw std::runtime_error("board: the devices' BARs do not fit their windows; use fewer devices or a larger window");
  }
}

// --- routing ---------------------------------------------------------------------------------------------------------

Device* PciBus::by_requester(Bdf bdf) const {
  for (const auto& d : devices_) {
    if (d->bdf() != bdf) continue;
    // Every bridge on the way must pass the bus number on.
    bool reachable = true;
    for (const Bridge* b = d->parent(); b != nullptr; b = b->parent()) reachable = reachable && b->leads_to(bdf.bus());
    // Function numbers from 8 on look like device numbers, of which a link has one.
    if (d->ari() && bdf.devfn() > 7) reachable = reachable && d->parent()->ari_forwarding();
    if (reachable) return d.get();
  }
  return nullptr;
}

PciBus::Target PciBus::decode(u64 phys, unsigned width) const {
  for (const auto& d : devices_) {
    if (!d->memory_enabled()) continue;
    for (unsigned i = 0; i < Device::kBars; ++i) {
      const u64 size = d->bar(i).size;
      const u64 base = d->bar_address(i);
      if (size == 0 || base == 0 || phys < base || phys - base >= size || size - (phys - base) < width) continue;
      bool forwarded = true;
      for (const Bridge* b = d->parent(); b != nullptr; b = b->parent())
        forwarded = forwarded && b->forwards(phys, width);
      if (forwarded) return {d.get(), i, phys - base};
    }
  }
  return {};
}

std::optional<u64> PciBus::mmio_read(u64 phys, unsigned width) {
  if (phys >= kEcamBase && phys - kEcamBase < kEcamBytes) {
    Device* d = by_requester(Bdf(static_cast<u16>((phys - kEcamBase) >> 12)));
    if (d == nullptr || width > 4) return std::nullopt;
    const DeviceGuard guard(d->lock());
    return d->config_read(static_cast<u16>(phys & 0xFFF), width);
  }
  const Target t = decode(phys, width);
  if (t.device == nullptr) return std::nullopt;
  const DeviceGuard guard(t.device->lock());
  return t.device->mmio_read(t.bar, t.offset, width);
}

bool PciBus::mmio_write(u64 phys, unsigned width, u64 value) {
  if (phys >= kEcamBase && phys - kEcamBase < kEcamBytes) {
    Device* d = by_requester(Bdf(static_cast<u16>((phys - kEcamBase) >> 12)));
    if (d == nullptr || width > 4) return false;
    config_write(*d, static_cast<u16>(phys & 0xFFF), width, static_cast<u32>(value));
    return true;
  }
  const Target t = decode(phys, width);
  if (t.device == nullptr) return false;
  watch_.register_written(bus_.now_ns(), *t.device, t.bar, t.offset, width, value);
  const DeviceGuard guard(t.device->lock());
  t.device->mmio_write(t.bar, t.offset, width, value);
  return true;
}

void PciBus::config_write(Device& d, u16 offset, unsigned width, u32 value) {
  ConfigWrite entry{bus_.now_ns(), d.home(), offset, static_cast<u8>(width), value, 0, 0};
  watch_.config_written(entry.when_ns, d, offset, width, value);
  bool reset_below = false;
  {
    const DeviceGuard guard(d.lock());
    entry.before = d.config_read(offset, width);
    d.config_write(offset, width, value);
    entry.after = d.config_read(offset, width);
    reset_below = d.take_reset_request();
  }
  {
    const DeviceGuard guard(trace_lock_);
    trace_.push_back(entry);
    if (trace_.size() > trace_limit_) {
      trace_.pop_front();
      ++trace_dropped_;
    }
  }
  if (!reset_below) return;
  for (const auto& below : devices_) {
    for (const Device* above = below->parent(); above != nullptr; above = above->parent()) {
      if (above != &d) continue;
      const DeviceGuard guard(below->lock());
      below->function_reset();
      break;
    }
  }
}

// --- trace and files -------------------------------------------------------------------------------------------------

std::vector<ConfigWrite> PciBus::trace() const {
  const DeviceGuard guard(trace_lock_);
  return {trace_.begin(), trace_.end()};
}

u64 PciBus::trace_dropped() const {
  const DeviceGuard guard(trace_lock_);
  return trace_dropped_;
}

void PciBus::clear_trace() {
  const DeviceGuard guard(trace_lock_);
  trace_.clear();
  trace_dropped_ = 0;
}

void PciBus::save(StateWriter& out) const {
  out.section("pci");
  for (const auto& d : devices_) {
    const DeviceGuard guard(d->lock());
    d->save(out);
  }
}

void PciBus::load(StateReader& in) {
  in.section("pci");
  for (const auto& d : devices_) {
    const DeviceGuard guard(d->lock());
    d->load(in);
  }
}

}  // namespace perdure::board
