#include "core/pci/isolation.h"

namespace perdure::pci {

namespace {

// Peers' requests go up, their completions too, ids cannot be forged, and what comes back down stays apart.
constexpr u16 kNeeded = AccessControl::kSourceValidation | AccessControl::kRequestRedirect |
                        AccessControl::kCompletionRedirect | AccessControl::kUpstreamForwarding;

// What is not in the capability cannot be turned off either, or has nothing to act upon (6.12.1).
bool services_on(const Function& function) {
  const u16 at = function.find(ExtendedCapabilityId::Acs);
  if (at == 0) return false;
  const u16 has = function.read16(static_cast<u16>(at + AccessControl::kCapabilities));
  const u16 on = function.read16(static_cast<u16>(at + AccessControl::kControl));
  return (has & kNeeded & ~on) == 0;
}

// The function nearest to the root whose id the DMA may carry: a bridge to a conventional bus, or the function.
const Function& topmost_requester(const Function& function) {
  const Function* top = &function.dma_function();
  for (const Function* bridge = top->parent(); bridge; bridge = bridge->parent()) {
    const u16 type = bridge->express_type();
    if (type == PciExpress::kToConventional || type == PciExpress::kFromConventional ||
        type == Function::kConventional) {
      top = bridge;
    }
  }
  return *top;
}

}  // namespace

void enable_access_control(Bus& bus) {
  for (usize i = 0; i < bus.size(); ++i) {
    Function& function = bus.at(i);
    if (function.inherited() != Inherited::No) continue;
    const u16 at = function.find(ExtendedCapabilityId::Acs);
    if (at == 0 || services_on(function)) continue;
    const u16 has = function.read16(static_cast<u16>(at + AccessControl::kCapabilities));
    const u16 on = function.read16(static_cast<u16>(at + AccessControl::kControl));
    function.write16(static_cast<u16>(at + AccessControl::kControl), static_cast<u16>(on | (has & kNeeded)));
  }
}

bool isolates(const Function& function) {
  switch (function.express_type()) {
    case Function::kConventional:  // a shared bus
    case PciExpress::kFromConventional:
    case PciExpress::kToConventional:  // has none, by definition, and a shared bus below
    case PciExpress::kEventCollector: return false;
    case PciExpress::kRootPort:
    case PciExpress::kDownstreamPort: return services_on(function);
    // Others can have them only as functions of a device with several; one alone has no peer inside.
    default: return !function.multifunction() || services_on(function);
  }
}

namespace {

// With ARI a device has the whole bus below its port.
bool same_device(const Function& a, const Function& b) {
  const SourceId x = a.source();
  const SourceId y = b.source();
  return x.segment == y.segment && x.bus() == y.bus() && (x.device() == y.device() || a.ari() || b.ari());
}

// Whether any port on the bus inside of a switch lets requests turn round: such a request reaches what is below every
// other port, whatever services that one has.
bool open_inside(const Bus& bus, const Function& upstream_port) {
  for (usize i = 0; i < bus.size(); ++i) {
    if (bus.at(i).parent() == &upstream_port && !isolates(bus.at(i))) return true;
  }
  return false;
}

}  // namespace

SourceId isolation_leader(const Bus& bus, const Function& function) {
  // Whatever is below a bridge that lets requests turn round is one, up to the highest such bridge.
  const Function* top = &topmost_requester(function);
  for (const Function* bridge = top->parent(); bridge; bridge = bridge->parent()) {
    const bool open =
        !isolates(*bridge) || (bridge->express_type() == PciExpress::kUpstreamPort && open_inside(bus, *bridge));
    if (open) top = bridge;
  }
  // And so are the functions of its slot, when any of them does. (Linux leaves those out that do not; the others reach
  // them all the same.)
  if (!top->multifunction()) return top->source();
  const Function* first = nullptr;
  bool open = false;
  for (usize i = 0; i < bus.size(); ++i) {
    const Function& peer = bus.at(i);
    if (!same_device(peer, *top)) continue;
    if (!first || peer.source() < first->source()) first = &peer;
    open = open || !isolates(peer);
  }
  return open && first ? first->source() : top->source();
}

}  // namespace perdure::pci
