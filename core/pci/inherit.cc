// The new kernel's side of LiveUpdate: what is there is compared with what was recorded.
#include <algorithm>

#include "core/base/log.h"
#include "core/pci/live_update.h"
#include "core/pci/outgoing.h"

namespace perdure::pci {

namespace {

Line describe(SourceId source) {
  return Line() << "pci: " << Hex{source.segment} << ":" << Hex{source.bdf} << " ";
}

bool same(const BridgeWindows& w, const abi::PciBridgeRecord& r) {
  return w.memory.base == r.memory_base && w.memory.limit == r.memory_limit && w.prefetch.base == r.prefetch_base &&
         w.prefetch.limit == r.prefetch_limit && w.io.base == r.io_base && w.io.limit == r.io_limit;
}

}  // namespace

Result<void> LiveUpdate::load(u64 data) {
  MutexGuard guard(lock_);
  if (incoming_) return incoming_->data == data ? Result<void>() : fail(Errno::Einval);
  incoming_ = TRY(read_pci_records(kho_, data));
  for (const IncomingFunction& f : incoming_->functions) {
    if (f.record.generation != 0) TRY(note_at_work_locked(f.source()));
  }
  return {};
}

Result<void> LiveUpdate::agree(std::span<const SourceId> known) {
  MutexGuard guard(lock_);
  for (SourceId source : known) TRY(note_at_work_locked(source));
  if (!incoming_) return {};
  for (IncomingFunction& f : incoming_->functions) {
    if (f.state != RecordState::Valid || std::find(known.begin(), known.end(), f.source()) != known.end()) continue;
    f.state = RecordState::Bad;
    log(kho_.machine(), LogLevel::Error,
        describe(f.source()) << "was preserved, but no valid record of the IOMMU's says so");
  }
  return {};
}

Result<void> LiveUpdate::note_at_work(SourceId source) {
  MutexGuard guard(lock_);
  return note_at_work_locked(source);
}

Result<void> LiveUpdate::note_at_work_locked(SourceId source) {
  const SourceId* const at = std::lower_bound(at_work_.begin(), at_work_.end(), source);
  if (at != at_work_.end() && *at == source) return {};
  return at_work_.insert_at(static_cast<usize>(at - at_work_.begin()), source);
}

bool LiveUpdate::any_at_work_locked(u16 segment, u8 first_bus, u8 last_bus) const {
  const SourceId first = SourceId::of(segment, first_bus, 0, 0);
  const SourceId* const at = std::lower_bound(at_work_.begin(), at_work_.end(), first);
  return at != at_work_.end() && at->segment == segment && at->bus() <= last_bus;
}

bool LiveUpdate::takes_buses() const {
  MutexGuard guard(lock_);
  return incoming_ && !incoming_->bridges.empty();
}

bool LiveUpdate::buses_taken(SourceId bridge, u8 first, u8 last) const {
  MutexGuard guard(lock_);
  return buses_taken_locked(bridge, first, last);
}

bool LiveUpdate::buses_taken_locked(SourceId bridge, u8 first, u8 last) const {
  if (!incoming_ || incoming_->bridge_at(bridge)) return false;
  for (const IncomingBridge& b : incoming_->bridges) {
    if (b.record.generation == 0 || b.source() == bridge || b.source().segment != bridge.segment) continue;
    const bool overlap = first <= b.record.subordinate && b.record.secondary <= last;
    const bool below_it = b.record.secondary <= bridge.bus() && bridge.bus() <= b.record.subordinate;
    if (overlap && !below_it) return true;
  }
  return false;
}

// --- one function -------------------------------------------------------------------------------------------------

Inherited LiveUpdate::identify(Function& function) {
  MutexGuard guard(lock_);
  return function.is_bridge() ? identify_bridge_locked(function) : identify_function_locked(function);
}

Inherited LiveUpdate::refuse(const Function& function, std::string_view why) {
  ++report_.refused;
  log(kho_.machine(), LogLevel::Error, describe(function.source()) << "is left alone and not used: " << why);
  return Inherited::Refused;
}

Inherited LiveUpdate::identify_bridge_locked(Function& bridge) {
  const SourceId source = bridge.source();
  if (IncomingBridge* const recorded = incoming_ ? incoming_->bridge_at(source) : nullptr) {
    if (recorded->state == RecordState::Bad) return refuse(bridge, "its record is no good");
    const std::string_view why = compare_locked(*recorded, bridge);
    if (!why.empty()) {
      recorded->state = RecordState::Bad;
      recorded->differs = true;
      return refuse(bridge, why);
    }
    recorded->state = RecordState::Found;
    ++report_.bridges;
    if ((recorded->record.command & Command::kBusMaster) != 0 && !bridge.bus_master()) {
      log(kho_.machine(), LogLevel::Warn,
          describe(source) << "forwarded requests when it was preserved and does not now: DMA below it has stopped");
    }
    return Inherited::Preserved;
  }
  if (below_a_stranger_locked(bridge)) return refuse(bridge, "a bridge above it is not what was recorded");
  if (bridge.secondary() != 0 && any_at_work_locked(source.segment, bridge.secondary(), bridge.subordinate()) &&
      !buses_taken_locked(source, bridge.secondary(), bridge.subordinate())) {
    return refuse(bridge, "a function below it is at work, and no good record says what the bridge was");
  }
  return Inherited::No;
}

Inherited LiveUpdate::identify_function_locked(Function& function) {
  const SourceId source = function.source();
  if (IncomingFunction* const recorded = incoming_ ? incoming_->function_at(source) : nullptr) {
    if (recorded->state != RecordState::Valid) return refuse(function, "its record is no good");
    const std::string_view why = compare_locked(*recorded, function);
    if (!why.empty()) {
      recorded->state = RecordState::Bad;
      return refuse(function, why);
    }
    recorded->state = RecordState::Found;
    ++report_.functions;
    for (unsigned i = 0; i < Function::kBars; ++i) function.set_bar_size(i, recorded->record.bar_size[i]);
    return Inherited::Preserved;
  }
  if (std::binary_search(at_work_.begin(), at_work_.end(), source)) {
    return refuse(function, "it is at work, and no valid record says what it was");
  }
  if (below_a_stranger_locked(function)) return refuse(function, "a bridge above it is not what was recorded");
  return Inherited::No;
}

// Whatever is below such a bridge may be a function at work that answers to another id now.
bool LiveUpdate::below_a_stranger_locked(const Function& function) {
  for (const Function* bridge = function.parent(); bridge && incoming_; bridge = bridge->parent()) {
    const IncomingBridge* const recorded = incoming_->bridge_at(bridge->source());
    if (recorded && recorded->differs) return true;
  }
  return false;
}

bool LiveUpdate::same_bridge_above_locked(u32 recorded, const Function& function) {
  const Function* const bridge = function.parent();
  if (recorded == abi::kPciNoBridge || !bridge) return recorded == abi::kPciNoBridge && !bridge;
  const IncomingBridge& above = incoming_->bridges[recorded];
  return above.state == RecordState::Found && above.source() == bridge->source();
}

// Empty, or the first difference.
std::string_view LiveUpdate::compare_locked(const IncomingBridge& recorded, const Function& bridge) {
  const abi::PciBridgeRecord& r = recorded.record;
  if (r.ids != bridge.ids() || r.class_revision != bridge.class_revision()) return "it is another bridge";
  if (r.primary != bridge.read8(reg::kPrimaryBus) || r.secondary != bridge.secondary() ||
      r.subordinate != bridge.subordinate()) {
    return "its bus numbers are others";
  }
  if (!same_bridge_above_locked(r.bridge, bridge)) return "the bridge above it is another one";
  if (!same(bridge.windows(), r)) return "its windows have moved";
  if (((r.flags & abi::kPciBridgeAriForwarding) != 0) != bridge.ari_forwarding()) return "its ARI forwarding changed";
  return {};
}

std::string_view LiveUpdate::compare_locked(const IncomingFunction& recorded, const Function& function) {
  const abi::PciFunctionRecord& r = recorded.record;
  if (r.ids != function.ids() || r.class_revision != function.class_revision()) return "it is another function";
  if (incoming_->version >= 2 && r.subsystem != function.read32(reg::kSubsystem)) return "it is another function";
  if (!same_bridge_above_locked(r.bridge, function)) return "the bridge above it is another one";
  if (((r.flags & abi::kPciFunctionAri) != 0) != function.ari()) return "it was found in another way";
  for (unsigned i = 0; i < Function::kBars; ++i) {
    const Bar& bar = function.bars()[i];
    if (r.bar_size[i] == 0) continue;
    if (bar.base.value != r.bar_address[i]) return "its registers are at other addresses";
    // The upper half of a wide one is none of its own.
    if (i > 0 && function.bars()[i - 1].wide) return "it has other BARs";
  }
  return {};
}

// --- all of them --------------------------------------------------------------------------------------------------

// Sizes are the one thing that cannot be compared with the function: a program is given whatever they cover, so they
// must not cover anything else.
std::string_view LiveUpdate::misplaced_locked(const Bus& bus, const Function& function,
                                              FunctionRef<bool(Phys base, u64 length)> reserved) {
  for (const Bar& bar : function.bars()) {
    if (bar.size == 0 || bar.kind != Bar::Kind::Memory || !bar.base) continue;
    const u64 last = bar.base.value + (bar.size - 1);
    if (reserved(bar.base, bar.size)) return "its registers lie where something else is";
    for (const acpi::EcamWindow& w : bus.windows()) {
      const u64 buses = u64{w.last_bus} - w.first_bus + 1;
      if (ranges_overlap(bar.base.value, bar.size, w.base.value + (u64{w.first_bus} << 20), buses << 20)) {
        return "its registers lie in configuration space";
      }
    }
    for (const Function* bridge = function.parent(); bridge; bridge = bridge->parent()) {
      const BridgeWindows w = bridge->windows();
      if (!w.memory.holds(bar.base.value, last) && !w.prefetch.holds(bar.base.value, last)) {
        return "its registers lie outside the windows of a bridge above it";
      }
    }
    for (usize i = 0; i < bus.size(); ++i) {
      const Function& other = bus.at(i);
      for (const Bar& theirs : other.bars()) {
        if (&theirs == &bar || theirs.kind != Bar::Kind::Memory || !theirs.base) continue;
        // Of a function that was left alone without a size, the first page.
        const u64 bytes = theirs.size != 0 ? theirs.size : kPageSize;
        if (ranges_overlap(bar.base.value, bar.size, theirs.base.value, bytes)) return "another function is in its way";
      }
    }
  }
  return {};
}

void LiveUpdate::check(Bus& bus, FunctionRef<bool(Phys base, u64 length)> reserved) {
  MutexGuard guard(lock_);
  for (usize i = 0; i < bus.size(); ++i) {
    Function& function = bus.at(i);
    if (function.is_bridge() || function.inherited() != Inherited::Preserved) continue;
    const std::string_view why = misplaced_locked(bus, function, reserved);
    if (why.empty()) continue;
    --report_.functions;
    static_cast<void>(refuse(function, why));
    function.refuse();
  }
  if (!incoming_) return;
  const auto missing = [&](SourceId source) {
    ++report_.missing;
    log(kho_.machine(), LogLevel::Error, describe(source) << "was preserved and is not there");
  };
  for (const IncomingBridge& b : incoming_->bridges) {
    if (b.state == RecordState::Valid) missing(b.source());
  }
  for (const IncomingFunction& f : incoming_->functions) {
    if (f.state == RecordState::Valid) missing(f.source());
  }
  log(kho_.machine(), report_.refused + report_.missing != 0 ? LogLevel::Warn : LogLevel::Info,
      Line() << "pci: " << report_.functions << " functions and " << report_.bridges << " bridges as they were, "
             << report_.refused << " refused, " << report_.missing << " missing");
}

}  // namespace perdure::pci
