#include "core/pci/scope.h"

namespace perdure::pci {

const Function* resolve(const Bus& bus, u16 segment, const acpi::Scope& scope) {
  u8 number = scope.start_bus;
  const Function* at = nullptr;
  for (usize hop = 0; hop < scope.path.size(); ++hop) {
    if (hop > 0) {
      // A bridge without a number leads nowhere.
      if (!at->is_bridge() || at->secondary() == 0) return nullptr;
      number = at->secondary();
    }
    at = bus.find(SourceId::of(segment, number, scope.path[hop].device, scope.path[hop].function));
    if (!at) return nullptr;
  }
  return at;
}

bool covers(const Bus& bus, u16 segment, const acpi::Scope& scope, const Function& function) {
  if (scope.type != acpi::ScopeType::Endpoint && scope.type != acpi::ScopeType::Bridge) return false;
  const Function* named = resolve(bus, segment, scope);
  if (!named) return false;
  return named == &function || (scope.type == acpi::ScopeType::Bridge && function.below(*named));
}

Result<usize> unit_of(const Bus& bus, const acpi::Dmar& dmar, const Function& of) {
  // Firmware knows nothing of virtual functions: they are where their physical one is.
  const Function& known = of.physical() ? *of.physical() : of;
  const Function& function = known.dma_function();
  const u16 segment = function.source().segment;
  for (usize i = 0; i < dmar.units.size(); ++i) {
    const acpi::DmarUnit& unit = dmar.units[i];
    if (unit.segment != segment) continue;
    for (const acpi::Scope& scope : unit.scopes) {
      if (covers(bus, segment, scope, function)) return i;
    }
  }
  for (usize i = 0; i < dmar.units.size(); ++i) {
    if (dmar.units[i].segment == segment && dmar.units[i].include_all) return i;
  }
  return fail(Errno::Enoent);
}

Result<void> requester_ids(const Function& function, Vec<SourceId>& ids) {
  const Function& first = function.dma_function();
  TRY(ids.push_back(first.source()));
  for (const Function* bridge = first.parent(); bridge; bridge = bridge->parent()) {
    switch (bridge->express_type()) {
      case PciExpress::kToConventional:
        TRY(ids.push_back(SourceId::of(bridge->source().segment, bridge->secondary(), 0, 0)));
        break;
      case PciExpress::kFromConventional:
      case Function::kConventional: TRY(ids.push_back(bridge->source())); break;
      default: break;  // ports pass ids on
    }
  }
  return {};
}

}  // namespace perdure::pci
