#include "core/pci/bus.h"

#include "core/base/log.h"

namespace perdure::pci {

namespace {

// What virtual functions may take to come, and to go (PCI Express Base 6.0, 9.3.3.3.1).
constexpr u64 kVirtualThereNs = 100'000'000;
constexpr u64 kVirtualGoneNs = 1'000'000'000;

Line describe(SourceId bridge) {
  return Line() << "pci: bridge " << Hex{bridge.segment} << ":" << Hex{bridge.bdf} << " ";
}

}  // namespace

// State of the walk over one window.
struct Bus::Scan {
  const acpi::EcamWindow& window;
  Inheritance* inheritance;
  Function* host;  // whose segment it is, null: firmware's
  bool takes_buses = inheritance && inheritance->takes_buses();
  bool seen[256] = {};
  usize first_function = 0;  // of this window

  bool taken(SourceId bridge, u8 first, u8 last) const {
    return takes_buses && inheritance->buses_taken(bridge, first, last);
  }
};

Result<void> Bus::enumerate(Inheritance* inheritance) {
  PERDURE_ASSERT(functions_.empty());
  const usize firmware_windows = config_.windows().size();
  for (usize i = 0; i < firmware_windows; ++i) {
    const acpi::EcamWindow window = config_.windows()[i];
    TRY(scan_window(window, inheritance, nullptr));
  }
  u16 segment = kFirstHostedSegment;
  for (usize i = 0; i < functions_.size(); ++i) {
    Function& host = *functions_[i];
    const u64 buses = host.bars_[0].size >> 20;
    // One inside of another's segment cannot be: its DMA would carry two other ids.
    if (!host.hosts_segment() || host.host_ || host.inherited() != Inherited::No || buses == 0 || buses > 256) continue;
    const acpi::EcamWindow window{host.bars_[0].base, segment++, 0, static_cast<u8>(buses - 1)};
    TRY(config_.add_window(window));
    // What is below masters only while the host may; the IOMMU blocks all of it until somebody owns it.
    host.set_decoding(true);
    host.set_bus_master(true);
    TRY(scan_window(window, inheritance, &host));
  }
  return {};
}

Result<void> Bus::scan_window(const acpi::EcamWindow& window, Inheritance* inheritance, Function* host) {
  Scan scan{window, inheritance, host};
  scan.first_function = functions_.size();
  TRY(scan_bus(scan, window.first_bus, nullptr));
  // Only now is it known which numbers are taken.
  return number_bridges(scan, nullptr);
}

Result<void> Bus::scan_bus(Scan& scan, u8 bus, Function* parent) {
  scan.seen[bus] = true;
  // Below a port there is one device; others may answer for it at every number.
  const bool port = parent && parent->is_downstream_port();
  const u8 devices = port ? 1 : 32;
  if (scan.takes_buses) close_claimants(scan, bus, devices);
  for (u8 device = 0; device < devices; ++device) {
    const SourceId first = SourceId::of(scan.window.segment, bus, device, 0);
    if (!there(first)) continue;
    const Function& zero = *TRY(scan_function(scan, first, parent, false));
    if (port && zero.find(ExtendedCapabilityId::Ari) != 0) {
      // A port that something at work depends on goes on forwarding as it did.
      if (!parent->ari_forwarding() && parent->can_forward_ari() && parent->inherited() == Inherited::No) {
        parent->forward_ari();
      }
      if (parent->ari_forwarding()) {
        TRY(scan_ari_device(scan, zero, *parent));
        continue;
      }
    }
    if ((config_.read8(first, reg::kHeaderType) & HeaderType::kMultiFunction) == 0) continue;
    for (u8 function = 1; function < 8; ++function) {
      const SourceId next = SourceId::of(scan.window.segment, bus, device, function);
      if (there(next)) TRY(scan_function(scan, next, parent, false));
    }
  }
  return {};
}

// The device's functions name each other in ascending order (PCI Express 6.0, 7.8.8).
Result<void> Bus::scan_ari_device(Scan& scan, const Function& zero, Function& port) {
  for (const Function* f = &zero;;) {
    const u16 ari = f->find(ExtendedCapabilityId::Ari);
    if (ari == 0) return {};
    const u8 next = static_cast<u8>(Ari::NextFunction::get(f->read16(static_cast<u16>(ari + Ari::kCapability))));
    if (next == 0) return {};
    const SourceId source{scan.window.segment, static_cast<u16>(zero.source_.bus() << 8 | next)};
    if (next <= f->source_.devfn() || !there(source)) {
      log(heap_.machine(), LogLevel::Error,
          Line() << "pci: function " << Hex{f->source_.segment} << ":" << Hex{f->source_.bdf} << " names function "
                 << next << " as the next one, which cannot be; functions behind it are not used");
      return {};
    }
    f = TRY(scan_function(scan, source, &port, true));
  }
}

// Bridges that answer for buses on the way to functions at work, and are not on it: where two answer, requests may go
// either way. They get other numbers later. Before anything behind such a bus is looked at.
void Bus::close_claimants(Scan& scan, u8 bus, u8 devices) {
  for (u8 device = 0; device < devices; ++device) {
    for (u8 function = 0; function < 8; ++function) {
      const SourceId source = SourceId::of(scan.window.segment, bus, device, function);
      if (!there(source)) {
        if (function == 0) break;
        continue;
      }
      const u8 header = config_.read8(source, reg::kHeaderType);
      if ((header & HeaderType::kLayout) == HeaderType::kBridge) close_if_claimant(scan, source);
      if (function == 0 && (header & HeaderType::kMultiFunction) == 0) break;
    }
  }
}

void Bus::close_if_claimant(Scan& scan, SourceId bridge) {
  const u8 secondary = config_.read8(bridge, reg::kSecondaryBus);
  const u8 subordinate = config_.read8(bridge, reg::kSubordinateBus);
  if (secondary == 0 || !scan.taken(bridge, secondary, subordinate)) return;
  log(heap_.machine(), LogLevel::Warn,
      describe(bridge) << "claims buses " << secondary << "-" << subordinate
                       << ", where functions are at work that are not below it; it gets others");
  config_.write8(bridge, reg::kSecondaryBus, 0);  // closed by this one
  config_.write8(bridge, reg::kSubordinateBus, 0);
}

Result<Function*> Bus::scan_function(Scan& scan, SourceId source, Function* parent, bool ari) {
  Owned<Function> made = TRY(heap_.make<Function>(config_, source, parent));
  Function& f = *made;
  f.ari_ = ari;
  f.host_ = scan.host;
  TRY(functions_.push_back(std::move(made)));
  if (scan.inheritance) f.inherited_.store(scan.inheritance->identify(f), std::memory_order_release);
  f.count_inherited();
  if (f.is_bridge() && f.secondary_ != 0) TRY(scan_below(scan, f));
  if (f.inherited() == Inherited::No) {
    f.size_bars();
    TRY(add_virtual_functions(f));
  }
  return &f;
}

// A former kernel's are taken away: nobody was told to go on with them. Those of a function at work are not looked
// for, since that takes writes.
Result<void> Bus::add_virtual_functions(Function& physical) {
  const u16 at = physical.is_bridge() ? u16{0} : physical.find(ExtendedCapabilityId::SrIov);
  if (at == 0) return {};
  const auto reg = [at](u16 offset) { return static_cast<u16>(at + offset); };
  const u16 control = physical.read16(reg(Virtualization::kControl));
  constexpr u16 kBoth = Virtualization::kEnable | Virtualization::kMemory;
  if ((control & kBoth) != 0) {
    config_.update16(physical.source_, reg(Virtualization::kControl), kBoth, 0);
    wait(kVirtualGoneNs);
  }
  physical.write16(reg(Virtualization::kNumber), 0);
  const u32 total = physical.read16(reg(Virtualization::kTotal));
  const u32 first = physical.read16(reg(Virtualization::kFirst));
  const u32 stride = physical.read16(reg(Virtualization::kStride));
  for (u32 n = 0; n < total; ++n) {
    const u32 bdf = physical.source_.bdf + first + n * stride;
    // On other buses they would need numbers of bridges that nobody has kept free.
    const bool good = first != 0 && (stride != 0 || n == 0) && bdf >> 8 == physical.source_.bus();
    if (!good || find({physical.source_.segment, static_cast<u16>(bdf)})) {
      log(heap_.machine(), LogLevel::Warn,
          Line() << "pci: function " << Hex{physical.source_.segment} << ":" << Hex{physical.source_.bdf}
                 << " would have virtual function " << n << " where it cannot be; it gets " << n << " at most");
      break;
    }
    const SourceId source{physical.source_.segment, static_cast<u16>(bdf)};
    TRY(functions_.push_back(TRY(heap_.make<Function>(physical, source, n))));
    ++physical.virtual_total_;
  }
  return {};
}

Result<void> Bus::set_virtual_functions(Function& physical, u32 count) {
  if (count > physical.virtual_total_) return fail(Errno::Erange);
  if (count == physical.virtual_count()) return {};
  const u16 at = physical.find(ExtendedCapabilityId::SrIov);
  const u16 control = static_cast<u16>(at + Virtualization::kControl);
  constexpr u16 kBoth = Virtualization::kEnable | Virtualization::kMemory;
  const auto mark = [&] {
    u32 n = 0;
    for (const Owned<Function>& f : functions_) {
      if (f->physical_ == &physical) f->enabled_.store(n++ < count, std::memory_order_release);
    }
    physical.virtual_count_.store(count, std::memory_order_release);
  };
  // The number does not change while there are any (9.3.3.7).
  if (physical.virtual_count() != 0) {
    if (count == 0) mark();
    config_.update16(physical.source_, control, kBoth, 0);
    wait(kVirtualGoneNs);
  }
  physical.write16(static_cast<u16>(at + Virtualization::kNumber), static_cast<u16>(count));
  if (count == 0) return {};
  const u16 after = config_.update16(physical.source_, control, 0, kBoth);
  if (after == 0xffff || (after & kBoth) != kBoth) return fail(Errno::Eio);
  wait(kVirtualThereNs);
  mark();
  return {};
}

void Bus::wait(u64 ns) const {
  Machine& machine = heap_.machine();
  for (const u64 begin = machine.now_ns(); machine.now_ns() - begin < ns;) machine.relax();
}

Result<void> Bus::scan_below(Scan& scan, Function& bridge) {
  const u8 bus = bridge.secondary_;
  // Numbers only grow on the way down, so that no set of bridges leads in a circle.
  const bool good = bus > bridge.source_.bus() && bridge.subordinate_ >= bus && bus <= scan.window.last_bus &&
                    !scan.seen[bus] && (!bridge.parent_ || bridge.subordinate_ <= bridge.parent_->subordinate_);
  if (!good) {
    log(heap_.machine(), LogLevel::Error,
        describe(bridge.source_) << "claims buses " << bus << "-" << bridge.subordinate_
                                 << ", which cannot be; what is behind it is not used");
    return {};
  }
  return scan_bus(scan, bus, &bridge);
}

Result<void> Bus::number_bridges(Scan& scan, Function* parent) {
  // By index: the list grows with what is found.
  for (usize i = scan.first_function; i < functions_.size(); ++i) {
    Function& bridge = *functions_[i];
    if (!bridge.is_bridge() || bridge.parent_ != parent) continue;
    TRY(bridge.secondary_ == 0 ? number_bridge(scan, bridge) : number_bridges(scan, &bridge));
  }
  return {};
}

// After the highest number in use beside it or, when there is none left, in the lowest gap.
Result<void> Bus::number_bridge(Scan& scan, Function& bridge) {
  const Function* const parent = bridge.parent_;
  const u8 own = bridge.source_.bus();
  const u8 limit = parent ? parent->subordinate_ : scan.window.last_bus;
  bool used[256] = {};
  unsigned highest = own;
  for (usize i = scan.first_function; i < functions_.size(); ++i) {
    const Function& other = *functions_[i];
    if (!other.is_bridge() || other.parent_ != parent || other.secondary_ == 0) continue;
    for (unsigned bus = other.secondary_; bus <= other.subordinate_; ++bus) used[bus] = true;
  }
  for (unsigned bus = own + 1u; bus <= limit; ++bus) {
    used[bus] = used[bus] || scan.taken(bridge.source_, static_cast<u8>(bus), static_cast<u8>(bus));
    if (used[bus]) highest = bus;
  }
  unsigned first = highest + 1;
  unsigned last = limit;
  if (first > limit) {
    for (first = own + 1u; first <= limit && used[first]; ++first) {
    }
    for (last = first; last < limit && !used[last + 1]; ++last) {
    }
  }
  const bool hands_off = bridge.inherited() != Inherited::No;
  if (hands_off || first > limit) {
    log(heap_.machine(), LogLevel::Warn,
        describe(bridge.source_) << "has no bus number, and " << (hands_off ? "must not be touched" : "none is left"));
    return {};
  }
  bridge.write8(reg::kPrimaryBus, own);
  bridge.write8(reg::kSecondaryBus, static_cast<u8>(first));
  bridge.write8(reg::kSubordinateBus, static_cast<u8>(last));  // open to all that may be found below
  bridge.secondary_ = static_cast<u8>(first);
  bridge.subordinate_ = static_cast<u8>(last);
  TRY(scan_bus(scan, bridge.secondary_, &bridge));
  TRY(number_bridges(scan, &bridge));
  bridge.subordinate_ = bridge.secondary_;
  for (usize i = scan.first_function; i < functions_.size(); ++i) {
    const Function& below = *functions_[i];
    if (below.parent_ == &bridge && below.subordinate_ > bridge.subordinate_) bridge.subordinate_ = below.subordinate_;
  }
  bridge.write8(reg::kSubordinateBus, bridge.subordinate_);
  return {};
}

Function* Bus::find(SourceId source) const {
  for (const Owned<Function>& f : functions_) {
    if (f->source_ == source) return f.get();
  }
  return nullptr;
}

// Virtual functions have no ids of their own to say so.
bool Bus::answers(SourceId source) const {
  const Function* const f = find(source);
  return f && f->physical_ ? f->present() : there(source);
}

bool Bus::off_and_verify(SourceId source) {
  if (!answers(source)) return true;
  const u16 command = config_.update16(source, reg::kCommand, Command::kBusMaster, 0);
  return (command & Command::kBusMaster) == 0 || !answers(source);
}

bool Bus::is_on(SourceId source) const {
  return answers(source) && (config_.read16(source, reg::kCommand) & Command::kBusMaster) != 0;
}

bool Bus::transactions_pending(SourceId source) const {
  const Function* f = find(source);
  return f && f->present() && f->transactions_pending();
}

}  // namespace perdure::pci
