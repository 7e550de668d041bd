// DMAR: the machine's Intel IOMMU units and what is behind them (VT-d, chapter 8; hardware.md §8). Everything is copied
// into heap-owned models; nothing refers to firmware's memory afterwards.
#pragma once
#include "core/mem/vec.h"

namespace perdure::acpi {

enum class ScopeType : u8 { Endpoint = 1, Bridge = 2, IoApic = 3, Hpet = 4, AcpiDevice = 5 };

struct PathHop {
  u8 device = 0;
  u8 function = 0;
};

// One device, or everything below a bridge: a path from a bus down, through the bridges' secondary bus numbers.
struct Scope {
  explicit Scope(Heap& heap) : path(heap) {}
  ScopeType type = ScopeType::Endpoint;
  u8 enumeration_id = 0;
  u8 start_bus = 0;
  Vec<PathHop> path;  // at least one hop
};

// DRHD.
struct DmarUnit {
  explicit DmarUnit(Heap& heap) : scopes(heap) {}
  Phys base;
  u64 register_bytes = 0;
  u16 segment = 0;
  bool include_all = false;  // whatever of the segment no other unit claims
  Vec<Scope> scopes;
};

// RMRR: memory that stays identity-mapped for these devices at all times.
struct ReservedRegion {
  explicit ReservedRegion(Heap& heap) : scopes(heap) {}
  u16 segment = 0;
  Phys base;
  u64 length = 0;
  Vec<Scope> scopes;
};

// ATSR: root ports whose devices may keep translations of their own.
struct AtsPorts {
  explicit AtsPorts(Heap& heap) : scopes(heap) {}
  u16 segment = 0;
  bool all = false;
  Vec<Scope> scopes;
};

struct Dmar {
  explicit Dmar(Heap& heap) : units(heap), reserved(heap), ats(heap) {}
  u8 host_address_bits = 0;
  bool interrupt_remapping = false;
  Vec<DmarUnit> units;
  Vec<ReservedRegion> reserved;
  Vec<AtsPorts> ats;
};

// Enoent: no DMAR table. Einval: it is malformed where it matters; a machine whose units are not known cannot be
// guarded, so nothing is guessed. Structures of unknown types are skipped. Enomem.
Result<Dmar> read_dmar(Heap& heap, Phys rsdp);

}  // namespace perdure::acpi
