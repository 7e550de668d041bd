// What a unit's capability registers mean for its tables (hardware.md §2).
#pragma once
#include "core/vtd/registers.h"
#include "core/vtd/table_mode_policy.h"
#include "core/vtd/translation_tables.h"

namespace perdure::vtd {

struct Capabilities {
  u64 cap = 0;
  u64 ecap = 0;
  u8 host_address_bits = 0;

  u32 did_limit() const;
  bool scalable() const { return Ecap::Smts::test(ecap) && (Ecap::Ssts::test(ecap) || Ecap::Fsts::test(ecap)); }
  // Does a walk in this mode see stores that were not written back? Of page tables; the tables above them:
  // entries_coherent().
  bool pages_coherent(TableMode mode) const;
  // Whether ECAP.C or ECAP.SMPWCS decides is a matter of reading: written back unless both say that it need not be.
  bool entries_coherent(TableMode mode) const { return Ecap::C::test(ecap) && pages_coherent(mode); }

  EntryLimits limits(TableMode mode) const;
  // The table that new domains get; no format when the unit walks none in this mode. Of the smallest second-stage width
  // that covers what the unit can address, or the largest; of the largest first-stage width.
  pt::Geometry geometry(TableMode mode, StagePolicy stage) const;
  // The table whose leaves the unit marks as written through, in a way that can be relied on; no format: none. Only in
  // scalable mode, and only where walks snoop: they mark in memory, and a write-back of the leaf's neighbours, from a
  // line that the CPU read before, would take the marks back.
  pt::Geometry dirty_tracking(TableMode mode) const;
  // One format of that mode, whether it is the preferred one or not; levels 0: not offered.
  pt::Geometry second_stage(TableMode mode) const;
  pt::Geometry first_stage(TableMode mode) const;
};

}  // namespace perdure::vtd
