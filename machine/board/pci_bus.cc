#include "machine/board/pci_bus.h"

#include <algorithm>
#include <stdexcept>

namespace perdure::board {

namespace {
constexpr u64 kBridgeGranule = u64{1} << 20;  // of memory windows
}

Vmd* PciBus::vmd_of(u16 segment) const {
  for (const auto& d : devices_) {
    auto* vmd = dynamic_cast<Vmd*>(d.get());
    if (vmd != nullptr && vmd->segment() == segment) return vmd;
  }
  return nullptr;
}

const Bridge* PciBus::bridge_to(Bdf home) const {
  const Bridge* found = nullptr;
  for (const auto& d : devices_) {
    const auto* bridge = dynamic_cast<const Bridge*>(d.get());
    if (bridge == nullptr || bridge->home().segment != home.segment || bridge->home_secondary() != home.bus()) continue;
    found = bridge;
  }
  return found;
}

void PciBus::add(std::unique_ptr<Device> device, FunctionTraits traits) {
  const auto refuse = [](const std::string& what) { throw std::runtime_error("board: " + what); };
  const Bdf home = device->home();
  const std::string at = home.to_string();
  if (by_home(home) != nullptr) refuse("two devices at " + at);
  const Vmd* const vmd = vmd_of(home.segment);
  if (vmd == nullptr && home.segment >= kSegments) {
    refuse("no volume management device has the segment of " + at + "; name it before, or choose a segment below " +
           std::to_string(kSegments));
  }
  device->set_vmd(vmd);
  const Bridge* above = nullptr;
  if (home.bus() != 0) {
    above = bridge_to(home);
    if (above == nullptr) {
      refuse("no bridge leads to " + at + "; name one before it, with secondary " + std::to_string(home.bus()));
    }
    device->set_parent(above);
  }
  traits.conventional = above != nullptr && above->to_conventional();
  traits.endpoint = true;
  if (const auto* bridge = dynamic_cast<const Bridge*>(device.get()); bridge != nullptr) {
    traits.endpoint = false;
    const bool below_port = above != nullptr && !above->to_conventional() && above->kind() != BridgeKind::UpstreamPort;
    switch (bridge->kind()) {
      case BridgeKind::RootPort:
        if (above != nullptr) refuse("the root port " + at + " is not on a root bus");
        break;
      case BridgeKind::UpstreamPort:
        if (!below_port) refuse("the upstream port " + at + " is not below a port");
        break;
      case BridgeKind::DownstreamPort:
        if (above == nullptr || above->kind() != BridgeKind::UpstreamPort) {
          refuse("the downstream port " + at + " is not on the bus below an upstream port");
        }
        break;
      case BridgeKind::PcieToPci:
        if (above != nullptr && !below_port) refuse("the bridge " + at + " is of PCI Express, its bus is not");
        break;
      case BridgeKind::PciToPci:
        if (above != nullptr && !above->to_conventional()) {
          refuse("the conventional bridge " + at + " is on a bus of PCI Express; choose pcie-to-pci");
        }
        break;
    }
    if (bridge->home_secondary() <= home.bus() || bridge_to(Bdf(bridge->home_secondary(), 0, 0, home.segment))) {
      refuse("the bridge " + at + " has a secondary bus that is above it or another bridge's");
    }
    // Its registers answer as far as its bus does.
    traits.conventional = traits.conventional || bridge->kind() == BridgeKind::PciToPci;
  } else if (above != nullptr && above->kind() == BridgeKind::UpstreamPort) {
    refuse(at + " is on the bus inside a switch; only downstream ports are there");
  }
  if (dynamic_cast<const Vmd*>(device.get()) != nullptr && (above != nullptr || vmd != nullptr)) {
    refuse("the volume management device " + at + " is not on a root bus");
  }
  if (traits.conventional && (traits.acs || traits.ats)) {
    refuse(at + " is on a conventional bus: it has neither ACS nor ATS");
  }
  device->set_traits(traits);
  u16 number = home.value;
  for (usize i = 0; i < devices_.size(); ++i) {
    const Device& other = *devices_[i];
    if (other.home().segment == home.segment && other.home().bus() == home.bus() &&
        other.home().device() == home.device()) {
      device->set_multifunction();
      devices_[i]->set_multifunction();
    }
    if (other.number() != number) continue;
    ++number;  // of another segment; looked for from the start again
    i = static_cast<usize>(-1);
  }
  device->set_number(number);
  devices_.push_back(std::move(device));
}

void PciBus::add_virtual(Device& physical, std::vector<std::unique_ptr<Device>> functions) {
  const Bdf home = physical.home();
  if (home.devfn() % 8 != 0 || functions.size() > 7 || physical.pcie_capability() == 0 || physical.ari()) {
    throw std::runtime_error("board: " + home.to_string() +
                             " has virtual functions: it must be function 0 of a slot of PCI Express, without ARI, and "
                             "have up to 7 of them");
  }
  physical.set_virtual_functions(static_cast<unsigned>(functions.size()), *functions[0]);
  for (unsigned n = 0; n < functions.size(); ++n) {
    Device& device = *functions[n];
    if (by_home(device.home()) != nullptr) {
      throw std::runtime_error("board: two devices at " + device.home().to_string() + ", a virtual function's place");
    }
    device.set_vmd(physical.vmd());
    device.set_parent(physical.parent());
    device.set_traits({});
    device.become_virtual(physical, n);
    u16 number = device.home().value;
    while (std::any_of(devices_.begin(), devices_.end(), [&](const auto& d) { return d->number() == number; })) {
      ++number;
    }
    device.set_number(number);
    devices_.push_back(std::move(functions[n]));
  }
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
  // Software looks at function 0 for this.
  if (before != nullptr || next != 0) joined.set_multifunction();
  if (before != nullptr) before->set_multifunction();
}

void PciBus::check() const {
  for (const auto& d : devices_) {
    const Bdf home = d->home();
    if (by_home(Bdf(home.bus(), d->ari() ? 0 : home.device(), 0, home.segment)) == nullptr) {
      throw std::runtime_error("board: " + home.to_string() +
                               " has no function 0 beside it; software looks there first");
    }
    const Bridge* above = d->parent();
    const bool one_device =
        above != nullptr && (above->kind() == BridgeKind::RootPort || above->kind() == BridgeKind::DownstreamPort);
    if (one_device && home.device() != 0 && !d->ari()) {
      throw std::runtime_error("board: " + home.to_string() + " is below a port; a link leads to device 0 only");
    }
  }
}

Device* PciBus::by_home(Bdf home) const {
  for (const auto& d : devices_) {
    if (d->home() == home) return d.get();
  }
  return nullptr;
}

std::vector<u16> PciBus::segments() const {
  std::vector<u16> all{0};
  for (u16 s = 1; s < kSegments; ++s) {
    const bool used = std::any_of(devices_.begin(), devices_.end(),
                                  [s](const auto& d) { return d->home().segment == s && d->vmd() == nullptr; });
    if (used) all.push_back(s);
  }
  return all;
}

// Gives addresses to the functions on one bus (below `above`; null: the root bus), depth first, and windows to bridges.
// Behind bridges everything goes below 4 GiB, since windows for memory that must not be prefetched are 32 bits wide.
// Returns the highest bus number found below.
u8 PciBus::assign_bus(const Space& space, const Bridge* above, u64& low, u64& high) {
  u8 highest = above == nullptr ? u8{0} : above->home_secondary();
  for (const auto& d : devices_) {
    if (d->parent() != above || d->home().segment != space.segment || d->vmd() != space.vmd) continue;
    if (d->physical() != nullptr) continue;
    auto* bridge = dynamic_cast<Bridge*>(d.get());
    if (bridge != nullptr) {
      low = align_up(low, kBridgeGranule);
      const u64 base = low;
      const u8 subordinate = assign_bus(space, bridge, low, high);
      low = align_up(low, kBridgeGranule);
      highest = std::max(highest, subordinate);
      const DeviceGuard guard(bridge->lock());
      bridge->set_numbers(above == nullptr ? u8{0} : above->home_secondary(), bridge->home_secondary(), subordinate);
      if (low > base) bridge->set_window(base, low - 1);
      bridge->config_write(pci_reg::kCommand, 2, pci_reg::kCommandMemory | pci_reg::kCommandBusMaster);
      continue;
    }
    const DeviceGuard guard(d->lock());
    const auto place = [&](const Device::Bar& bar, u16 at, u64 count) REQUIRES(d->lock()) {
      if (bar.size == 0) return;
      u64& next = bar.is_64bit && above == nullptr && space.vmd == nullptr ? high : low;
      next = align_up(next, std::max(bar.size, kPageSize));
      d->config_write(at, 4, static_cast<u32>(next));
      if (bar.is_64bit) d->config_write(static_cast<u16>(at + 4), 4, static_cast<u32>(next >> 32));
      next += bar.size * count;
    };
    for (unsigned i = 0; i < Device::kBars; ++i) place(d->bar(i), static_cast<u16>(pci_reg::kBar0 + 4 * i), 1);
    for (unsigned i = 0; i < Device::kBars; ++i) {
      place(d->virtual_bar(i), d->virtual_bar_register(i), d->virtual_total());
    }
    d->config_write(pci_reg::kCommand, 2, pci_reg::kCommandMemory);
  }
  return highest;
}

void PciBus::assign_addresses(PhysRange high_window) {
  const auto too_much = [](const char* where) {
    throw std::runtime_error(std::string("board: the devices' BARs do not fit ") + where +
                             "; use fewer devices or a larger window");
  };
  u64 low = kBarWindow.base;
  u64 high = high_window.base;
  for (u16 segment : segments()) assign_bus({segment, nullptr}, nullptr, low, high);
  if (low > kBarWindow.end() || high > high_window.end()) too_much("their windows");
  // Its firmware driver does the same below a volume management device.
  for (const auto& d : devices_) {
    const auto* vmd = dynamic_cast<const Vmd*>(d.get());
    if (vmd == nullptr) continue;
    u64 inside = vmd->bar_address(Vmd::kMemoryBar);
    const u64 end = inside + vmd->bar(Vmd::kMemoryBar).size;
    u64 unused = 0;
    const u8 last = assign_bus({vmd->segment(), vmd}, nullptr, inside, unused);
    if (inside > end || u64{last} >= vmd->bar(Vmd::kConfigBar).size >> 20) too_much("their VMD");
  }
}

// --- routing ---------------------------------------------------------------------------------------------------------

// Whose configuration space answers to this id now.
Device* PciBus::by_requester(Bdf bdf) const {
  for (const auto& d : devices_) {
    if (d->bdf() != bdf || !d->is_there()) continue;
    // Every bridge on the way must pass the bus number on.
    bool reachable = true;
    for (const Bridge* b = d->parent(); b != nullptr; b = b->parent()) reachable = reachable && b->leads_to(bdf.bus());
    // Function numbers from 8 on look like device numbers, of which a link has one.
    if (d->ari() && bdf.devfn() > 7) reachable = reachable && d->parent()->ari_forwarding();
    if (reachable) return d.get();
  }
  return nullptr;
}

PciBus::ConfigTarget PciBus::decode_config(u64 phys) const {
  constexpr u64 kLowest = ecam_base(kSegments - 1);
  std::optional<u64> into;
  u16 segment = 0;
  if (phys >= kLowest && phys < kEcamBase + kEcamBytes) {
    segment = static_cast<u16>(kSegments - 1 - (phys - kLowest) / kEcamBytes);
    into = phys - ecam_base(segment);
  } else {
    for (const auto& d : devices_) {
      const auto* vmd = dynamic_cast<const Vmd*>(d.get());
      if (vmd == nullptr || !(into = vmd->config_offset(phys))) continue;
      segment = vmd->segment();
      break;
    }
  }
  if (!into) return {};
  return {true, by_requester(Bdf(static_cast<u16>(*into >> 12), segment)), static_cast<u16>(phys & 0xFFF)};
}

PciBus::Target PciBus::decode(u64 phys, unsigned width) const {
  for (const auto& d : devices_) {
    if (!d->memory_enabled() || (d->vmd() != nullptr && !d->vmd()->forwards(phys, width))) continue;
    if (dynamic_cast<const Vmd*>(d.get()) != nullptr) continue;  // its BARs are windows, nothing more
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
  if (const ConfigTarget c = decode_config(phys); c.decoded) {
    if (c.device == nullptr || width > 4) return std::nullopt;
    const DeviceGuard guard(c.device->lock());
    return c.device->config_read(c.offset, width);
  }
  const Target t = decode(phys, width);
  if (t.device == nullptr) return std::nullopt;
  const DeviceGuard guard(t.device->lock());
  return t.device->mmio_read(t.bar, t.offset, width);
}

bool PciBus::mmio_write(u64 phys, unsigned width, u64 value) {
  if (const ConfigTarget c = decode_config(phys); c.decoded) {
    if (c.device == nullptr || width > 4) return false;
    config_write(*c.device, c.offset, width, static_cast<u32>(value));
    return true;
  }
  const Target t = decode(phys, width);
  if (t.device == nullptr) return false;
  watch_.register_written(bus_.now_ns(), *t.device, t.bar, t.offset, width, value);
  const DeviceGuard guard(t.device->lock());
  t.device->mmio_write(t.bar, t.offset, width, value);
  return true;
}

Result<void> PciBus::move_memory(u64 phys, int file, u64 offset) {
  for (const auto& d : devices_) {
    for (unsigned i = 0; i < Device::kBars; ++i) {
      const u64 base = d->bar_address(i);
      if (!d->bar(i).memory || base == 0 || phys < base || phys - base >= d->bar(i).size) continue;
      if (offset < phys - base) return fail(Errno::Einval);
      const DeviceGuard guard(d->lock());
      return d->move_memory(i, file, offset - (phys - base));
    }
  }
  return fail(Errno::Enxio);
}

void PciBus::config_write(Device& d, u16 offset, unsigned width, u32 value) {
  ConfigWrite entry{bus_.now_ns(), d.home(), offset, static_cast<u8>(width), value, 0, 0};
  watch_.config_written(entry.when_ns, d, offset, width, value);
  bool reset_below = false;
  bool reset_virtual = false;
  {
    const DeviceGuard guard(d.lock());
    entry.before = d.config_read(offset, width);
    d.config_write(offset, width, value);
    entry.after = d.config_read(offset, width);
    reset_below = d.take_reset_request();
    reset_virtual = d.take_virtual_reset();
  }
  if (reset_virtual) reset_virtual_functions(d);
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

// Those that were taken away come back as new.
void PciBus::reset_virtual_functions(const Device& physical) {
  for (const auto& d : devices_) {
    if (d->physical() != &physical || d->is_there()) continue;
    const DeviceGuard guard(d->lock());
    d->function_reset();
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
