// One IOMMU unit as the IOMMU core drives it: mechanism only. Policy (which domain, which DID, whose) is the
// core's; the driver (vtd/) knows registers, tables, the queue, and the order hardware demands.
#pragma once
#include "core/abi/iommu.h"
#include "core/base/function_ref.h"
#include "core/iommu/interrupts.h"
#include "core/kho/kho.h"
#include "core/pci/source_id.h"
#include "core/pt/io_page_table.h"

namespace perdure {

// Domain ids: a tag of cached translations, per unit. Linux's conventions (hardware.md §4): 0 is never used, 1 is
// for pass-through, dynamic ids start at 2 (R01).
inline constexpr u32 kFirstDynamicDid = 2;

// What an entry of the unit's tables says for one requester.
struct EntryState {
  bool present = false;
  bool pass_through = false;
  u32 did = 0;
  pt::FormatId format = pt::FormatId::None;  // of the table; None with pass-through
  u8 levels = 0;
  Phys top;
  bool tracks_dirty = false;  // leaves that are written through get marked (pt::IoPageTable::each_dirty)
};

struct UnitInfo {
  Phys base;  // of the registers: the unit's identity, together with its type
  u16 segment = 0;
  u64 cap = 0;
  u64 ecap = 0;
  u32 did_limit = 0;      // ids are < did_limit
  pt::Geometry geometry;  // the best table for this unit alone
  // The table whose leaves the unit marks as written through when it is told to; no format: it marks none.
  pt::Geometry dirty_tracking;
};

class IommuUnit : public HeapObject {
 public:
  virtual const UnitInfo& info() const = 0;
  // Can entries of the unit lead to such a table? Its own geometry, less of it, or another format besides.
  virtual bool walks(const pt::Geometry& geometry) const = 0;

  // --- domain ids -----------------------------------------------------------------------------------------
  virtual Result<u32> did_alloc() = 0;  // Enospc
  // A recorded id: Erange below kFirstDynamicDid or at/above did_limit, Eexist when taken.
  virtual Result<void> did_reserve(u64 did) = 0;
  virtual void did_free(u32 did) = 0;
  virtual bool did_taken(u64 did) const = 0;

  // --- entries --------------------------------------------------------------------------------------------
  // Not present → present, for one requester id. Eexist if an entry is present, Enomem.
  virtual Result<void> set_entry(SourceId source, u32 did, const pt::IoPageTable& table) = 0;
  // Present → not present: one store, then context, PASID and IOTLB flushes with drain, all complete on return.
  // Eio when the unit does not complete them; the entry is not present then, but tables must not be freed.
  virtual Result<void> clear_entry(SourceId source) = 0;
  // Whether leaves that are written through are marked: of every entry under this id, there already or still to come.
  // Off after did_alloc(), as the entries are after did_reserve(). On return no translation is cached that was read
  // under the other setting. Eopnotsupp: the unit, or the id's table, does not mark; Eio: it does not answer.
  virtual Result<void> set_dirty_tracking(u32 did, bool on) = 0;
  virtual EntryState read_entry(SourceId source) const = 0;
  virtual void each_present_entry(FunctionRef<void(SourceId source, const EntryState& state)> visit) const = 0;

  // --- flushes: complete, drained, on return. Eio when the unit does not answer -------------------------------
  // `leaves_only`: no table page was removed (IH = 1).
  virtual Result<void> flush_pages(u32 did, Iova iova, u64 length, bool leaves_only) = 0;
  virtual Result<void> flush_domain(u32 did) = 0;
  virtual Result<void> flush_all() = 0;
  // Needed before a not-present → present change of leaves is used (caching mode, write buffer)?
  virtual Result<void> mapped_pages(u32 did, Iova iova, u64 length) = 0;

  // --- live update, old kernel ------------------------------------------------------------------------------
  // Root table, context and PASID tables, queue and status pages into the handover; undone whole on failure. What
  // becomes or ceases to be part of the tables while preserved joins and leaves the handover as it does.
  virtual Result<void> preserve(Kho& kho) = 0;
  virtual void unpreserve(Kho& kho) = 0;
  virtual bool preserved() const = 0;
  // The last things before the jump: entries of requesters for which `keep` is false are cleared, events masked,
  // the queue left empty behind a completed wait. Undone by resume() if the jump fails (cleared entries are restored).
  virtual Result<void> quiesce(FunctionRef<bool(SourceId)> keep) = 0;
  virtual void resume() = 0;
  // A unit that is not preserved turns translation off for the jump: never called for one that is.
  virtual void disable() = 0;
  virtual void fill_record(abi::IommuUnitRecord& record) const = 0;

  // --- interrupts -------------------------------------------------------------------------------------------
  // Null: messages of devices go as they are.
  virtual InterruptRemapper* interrupt_remapper() { return nullptr; }
  // From time to time, with no lock held: what interrupts alone do not see to.
  virtual void service() {}

  // False once the queue died: the unit's devices are quarantined (design §8).
  virtual bool alive() const = 0;
};

}  // namespace perdure
