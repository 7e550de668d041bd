#include "core/pci/bus.h"

#include "core/base/log.h"

namespace perdure::pci {

// State of the walk over one window.
struct Bus::Scan {
  const acpi::EcamWindow& window;
  const PreservedFunctions* preserved;
  bool seen[256] = {};
  u8 last_used = 0;
  usize first_function = 0;  // of this window

  bool is_preserved(SourceId source) const { return preserved && preserved->preserved(source); }
};

Result<void> Bus::enumerate(const PreservedFunctions* preserved) {
  PERDURE_ASSERT(functions_.empty());
  for (const acpi::EcamWindow& window : config_.windows()) {
    Scan scan{window, preserved};
    scan.last_used = window.first_bus;
    scan.first_function = functions_.size();
    TRY(scan_bus(scan, window.first_bus, nullptr));
    // Only now is it known which numbers are taken.
    TRY(number_bridges(scan, nullptr));
  }
  return {};
}

Result<void> Bus::scan_bus(Scan& scan, u8 bus, Function* parent) {
  scan.seen[bus] = true;
  if (bus > scan.last_used) scan.last_used = bus;
  // Below a port there is one device; others may answer for it at every number.
  const u8 devices = parent && parent->is_downstream_port() ? 1 : 32;
  for (u8 device = 0; device < devices; ++device) {
    const SourceId first = SourceId::of(scan.window.segment, bus, device, 0);
    if (!there(first)) continue;
    TRY(scan_function(scan, first, parent));
    if ((config_.read8(first, reg::kHeaderType) & HeaderType::kMultiFunction) == 0) continue;
    for (u8 function = 1; function < 8; ++function) {
      const SourceId next = SourceId::of(scan.window.segment, bus, device, function);
      if (there(next)) TRY(scan_function(scan, next, parent));
    }
  }
  return {};
}

Result<void> Bus::scan_function(Scan& scan, SourceId source, Function* parent) {
  Owned<Function> made = TRY(heap_.make<Function>(config_, source, parent));
  Function& f = *made;
  f.preserved_ = scan.is_preserved(source);
  if (f.preserved_) {
    for (unsigned i = 0; i < Function::kBars; ++i) f.bars_[i].size = scan.preserved->bar_size(source, i);
  }
  TRY(functions_.push_back(std::move(made)));
  if (f.is_bridge() && f.secondary_ != 0) TRY(scan_below(scan, f));
  if (f.is_bridge() && !f.preserved_) {
    // A bridge that a working device depends on is left alone like the device.
    for (usize i = functions_.size(); i-- > scan.first_function && functions_[i].get() != &f;) {
      f.preserved_ = f.preserved_ || functions_[i]->preserved_;
    }
  }
  if (!f.preserved_) f.size_bars();
  return {};
}

Result<void> Bus::scan_below(Scan& scan, Function& bridge) {
  const u8 bus = bridge.secondary_;
  // Numbers only grow on the way down, so that no set of bridges leads in a circle.
  const bool good = bus > bridge.source_.bus() && bridge.subordinate_ >= bus && bus <= scan.window.last_bus &&
                    !scan.seen[bus] && (!bridge.parent_ || bridge.subordinate_ <= bridge.parent_->subordinate_);
  if (!good) {
    log(heap_.machine(), LogLevel::Error,
        Line() << "pci: bridge " << Hex{bridge.source_.segment} << ":" << Hex{bridge.source_.bdf} << " claims buses "
               << bus << "-" << bridge.subordinate_ << ", which cannot be; what is behind it is not used");
    return {};
  }
  if (bridge.subordinate_ > scan.last_used) scan.last_used = bridge.subordinate_;
  return scan_bus(scan, bus, &bridge);
}

Result<void> Bus::number_bridges(Scan& scan, Function* parent) {
  // By index: the list grows with what is found.
  for (usize i = scan.first_function; i < functions_.size(); ++i) {
    Function& bridge = *functions_[i];
    if (!bridge.is_bridge() || bridge.parent_ != parent) continue;
    if (bridge.secondary_ != 0) {
      TRY(number_bridges(scan, &bridge));
      continue;
    }
    const u8 limit = parent ? parent->subordinate_ : scan.window.last_bus;
    if (bridge.preserved_ || scan.last_used >= limit) {
      log(heap_.machine(), LogLevel::Warn,
          Line() << "pci: bridge " << Hex{bridge.source_.segment} << ":" << Hex{bridge.source_.bdf}
                 << " has no bus number, and " << (bridge.preserved_ ? "must not be touched" : "none is left"));
      continue;
    }
    const u8 bus = static_cast<u8>(scan.last_used + 1);
    bridge.write8(reg::kPrimaryBus, bridge.source_.bus());
    bridge.write8(reg::kSecondaryBus, bus);
    bridge.write8(reg::kSubordinateBus, limit);  // open to all that may be found below
    bridge.secondary_ = bus;
    bridge.subordinate_ = limit;
    TRY(scan_bus(scan, bus, &bridge));
    TRY(number_bridges(scan, &bridge));
    bridge.subordinate_ = scan.last_used;
    bridge.write8(reg::kSubordinateBus, scan.last_used);
  }
  return {};
}

Function* Bus::find(SourceId source) const {
  for (const Owned<Function>& f : functions_) {
    if (f->source_ == source) return f.get();
  }
  return nullptr;
}

bool Bus::off_and_verify(SourceId source) {
  if (!there(source)) return true;
  const u16 command = config_.update16(source, reg::kCommand, Command::kBusMaster, 0);
  return (command & Command::kBusMaster) == 0 || !there(source);
}

bool Bus::is_on(SourceId source) const {
  return there(source) && (config_.read16(source, reg::kCommand) & Command::kBusMaster) != 0;
}

bool Bus::transactions_pending(SourceId source) const {
  const Function* f = find(source);
  return f && there(source) && f->transactions_pending();
}

}  // namespace perdure::pci
