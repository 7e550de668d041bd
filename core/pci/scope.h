// Which IOMMU unit a function's DMA goes through: DMAR's device scopes, resolved against the bus as it is (hardware.md
// §8).
#pragma once
#include "core/acpi/dmar.h"
#include "core/pci/bus.h"

namespace perdure::pci {

// The function that a path leads to, hop by hop through secondary bus numbers; null when there is none.
const Function* resolve(const Bus& bus, u16 segment, const acpi::Scope& scope);

// True when a scope names the function itself or a bridge above it.
bool covers(const Bus& bus, u16 segment, const acpi::Scope& scope, const Function& function);

// Index into dmar.units: explicit scopes first, then the unit that includes all of the segment; a function of a hosted
// segment is behind its host's. Enoent: behind none.
Result<usize> unit_of(const Bus& bus, const acpi::Dmar& dmar, const Function& function);

// Every requester id that the function's DMA may carry. Functions of PCI Express carry their own alone. A conventional
// bus knows no such ids, so the bridges above it give theirs: one from PCI Express its secondary bus with device 0 (or
// the function's own, for PCI-X), one between conventional buses its own. Functions of hosted segments carry their
// host's, and none of their own.
Result<void> requester_ids(const Function& function, Vec<SourceId>& ids);

}  // namespace perdure::pci
