#include "core/acpi/mcfg.h"

#include "core/acpi/tables.h"
#include "core/base/log.h"

namespace perdure::acpi {
namespace {

constexpr u32 kFirstEntry = 44;
constexpr u32 kEntryBytes = 16;
constexpr u64 kBusBytes = u64{1} << 20;

}  // namespace

Result<Vec<EcamWindow>> read_mcfg(Heap& heap, Phys rsdp) {
  Machine& machine = heap.machine();
  const Bytes table = TRY(find_table(machine, rsdp, "MCFG"));
  Vec<EcamWindow> windows(heap);
  for (u32 at = kFirstEntry; at + kEntryBytes <= table.length(); at += kEntryBytes) {
    EcamWindow w;
    w.base = Phys(table.get<u64>(at));
    w.segment = table.get<u16>(at + 8);
    w.first_bus = table.get<u8>(at + 10);
    w.last_bus = table.get<u8>(at + 11);
    bool good =
        w.base && w.base.aligned(kBusBytes) && w.first_bus <= w.last_bus && w.base.value <= ~u64{0} - 256 * kBusBytes;
    for (const EcamWindow& other : windows) {
      good = good && (other.segment != w.segment || other.last_bus < w.first_bus || w.last_bus < other.first_bus);
    }
    if (!good) {
      log(machine, LogLevel::Error,
          Line() << "ACPI: MCFG: window of segment " << w.segment << " at " << w.base << ", buses " << w.first_bus
                 << "-" << w.last_bus << ", is misplaced or overlaps another one");
      return fail(Errno::Einval);
    }
    TRY(windows.push_back(w));
  }
  return windows;
}

}  // namespace perdure::acpi
