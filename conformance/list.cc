#include "conformance/list.h"

namespace perdure::conformance {

Group group(unsigned n) {
  switch (n) {
    case 0: return {"Registers and global commands", command_behaviours()};
    case 1: return {"Translation by legacy tables", legacy_behaviours()};
    case 2: return {"Faults of legacy tables", legacy_fault_behaviours()};
    case 3: return {"Translation by scalable tables", scalable_behaviours()};
    case 4: return {"Faults of scalable tables", scalable_fault_behaviours()};
    case 5: return {"First-stage tables", first_stage_behaviours()};
    case 6: return {"Fault records and events", report_behaviours()};
    case 7: return {"Flushes by registers", register_flush_behaviours()};
    case 8: return {"Flushes of contexts by registers", register_context_behaviours()};
    case 9: return {"Flushes by the queue", queue_flush_behaviours()};
    case 10: return {"Flushes of contexts by the queue", queue_context_behaviours()};
    case 11: return {"Flushes of scalable tables", scalable_flush_behaviours()};
    case 12: return {"Other flushes", flush_behaviours()};
    case 13: return {"The invalidation queue", queue_behaviours()};
    case 14: return {"Errors of the queue", queue_error_behaviours()};
    case 15: return {"Adopting a running unit", adoption_behaviours()};
    default: return {"Interrupt remapping", interrupt_behaviours()};
  }
}

}  // namespace perdure::conformance
