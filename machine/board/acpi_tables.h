// What firmware tells about the machine: RSDP, RSDT, XSDT, DMAR and MCFG, byte by byte (ACPI 6.5, chapter 5; Intel
// VT-d, chapter 8; PCI Firmware 3.3, 4.1.2).
#pragma once
#include <vector>

#include "machine/board/bdf.h"
#include "machine/board/config.h"

namespace perdure::board {

// A remapping unit as DMAR describes it.
struct DmarUnit {
  struct Scope {
    bool bridge = false;    // everything below, instead of one function
    std::vector<Bdf> path;  // from the root bus downwards; only device and function of each hop are written
  };
  u64 base = 0;
  bool include_all = false;
  std::vector<Scope> scopes;
  bool interrupt_remap = false;
};

struct AcpiImage {
  std::vector<std::byte> bytes;  // goes to the address that was asked for; the RSDP comes first
  // Offset and length of each table, for tests.
  struct Table {
    char signature[5] = {};
    u32 offset = 0;
    u32 length = 0;
  };
  std::vector<Table> tables;
};

AcpiImage build_acpi(u64 at, unsigned host_address_width, const std::vector<DmarUnit>& units, u64 ecam_base,
                     u8 last_bus);

}  // namespace perdure::board
