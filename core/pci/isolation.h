// Which functions can reach each other past the IOMMU: peer-to-peer requests go the short way unless Access Control
// Services send them up to the root complex (PCI Express Base 6.0, 6.12). Such functions are one group.
#pragma once
#include "core/pci/bus.h"

namespace perdure::pci {

// Turns on what isolation needs wherever it is there and off. Preserved functions, and bridges above them, are not
// written: the former kernel has turned it on. After enumeration.
void enable_access_control(Bus& bus);

// Requests of (or, of a port, through) this function that are for a peer go up to the root complex.
bool isolates(const Function& function);

// The function that stands for all that `function` is not isolated from: two functions belong together exactly when
// theirs are the same.
SourceId isolation_leader(const Bus& bus, const Function& function);

}  // namespace perdure::pci
