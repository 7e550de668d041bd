// Firmware's part of PCI, where firmware did none (qboot), and the end of what it did too much of (SeaBIOS leaves
// devices mastering the bus).
#pragma once
#include "core/base/machine.h"

namespace perdure::metal {

// On a cold boot: gives memory BARs of functions on the root buses addresses where none has any, turns their decoding
// on, and bus mastering of everything off.
void set_up_pci(Machine& machine, Phys rsdp);

}  // namespace perdure::metal
