// MCFG: where memory-mapped configuration space is (PCI Firmware 3.3, §4.1.2).
#pragma once
#include "core/mem/vec.h"

namespace perdure::acpi {

struct EcamWindow {
  Phys base;  // of bus 0, also when the window begins at a later bus
  u16 segment = 0;
  u8 first_bus = 0;
  u8 last_bus = 0;
};

// Enoent: no MCFG. Einval: a window that is misplaced or overlaps another one of its segment. Enomem.
Result<Vec<EcamWindow>> read_mcfg(Heap& heap, Phys rsdp);

}  // namespace perdure::acpi
