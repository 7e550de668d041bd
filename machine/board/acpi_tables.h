// What firmware tells about the machine: RSDP, RSDT, XSDT, DMAR and MCFG, byte by byte (ACPI 6.5, chapter 5; Intel
// VT-d, chapter 8; PCI Firmware 3.3, 4.1.2).
#pragma once
#include <vector>

#include "machine/board/bdf.h"
#include "machine/board/config.h"

namespace perdure::board {

// What DMAR says, structure by structure.
struct DmarScope {
  bool bridge = false;    // everything below, instead of one function
  std::vector<Bdf> path;  // from the root bus downwards; only device and function of each hop are written
};
struct DmarUnit {  // DRHD
  u64 base = 0;
  u16 segment = 0;
  bool include_all = false;
  std::vector<DmarScope> scopes;
  int proximity = -1;  // RHSA; -1: none
  bool interrupt_remap = false;
};
struct DmarReserved {  // RMRR
  u16 segment = 0;
  u64 base = 0;
  u64 length = 0;
  std::vector<DmarScope> scopes;
};
// ATSR: root ports with ATS functions below. SATC: ATS functions of the root complex itself.
struct DmarAts {
  u16 segment = 0;
  std::vector<DmarScope> scopes;
};
struct DmarTable {
  unsigned host_address_width = 0;
  std::vector<DmarUnit> units;
  std::vector<DmarReserved> reserved;
  std::vector<DmarAts> ats_ports;
  std::vector<DmarAts> ats_integrated;
};

struct EcamSegment {
  u16 segment = 0;
  u64 base = 0;
  u8 last_bus = 0xFF;
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

AcpiImage build_acpi(u64 at, const DmarTable& dmar, const std::vector<EcamSegment>& segments);

}  // namespace perdure::board
