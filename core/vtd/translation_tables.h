// What RTADDR points at: the tables from a requester to its domain. One implementation per table mode; the driver
// above knows no entry format. Calls are serialised by the unit's lock.
#pragma once
#include "core/iommu/unit.h"
#include "core/vtd/entries.h"
#include "core/vtd/hw_writer.h"
#include "core/vtd/invalidation_queue.h"

namespace perdure::vtd {

// What entries of a unit may hold.
struct EntryLimits {
  u64 address_mask = 0;  // bits that a table's address may have: page-aligned, below the host address width
  u32 did_limit = 0;
  u8 sagaw = 0;  // CAP.SAGAW
  bool pass_through = false;
  // Of scalable mode: which tables PASID entries may lead to, and whether their walks can snoop.
  bool second_stage = true;
  u8 first_stage_levels = 0;  // at most; 0: none
  bool walk_snoops = false;
  bool track_dirty = false;  // can entries of second-stage tables say so (SSADE)?
  bool width_ok(unsigned width_field) const { return width_field < 5 && (sagaw >> width_field & 1) != 0; }
};

// An entry's contents, kept to put them back: enough words for any mode.
struct SavedEntry {
  SourceId source;
  u64 word[4] = {};
};

// What is known of a former kernel's tables before they are read.
struct Handover {
  Phys root;
  std::span<const u64, 8> linked;  // the record's bitmap of context tables, as linked_tables() made it
  QueueMemory queue;               // pages that no table may lie in
  Phys unit;                       // names it in the log
  u16 segment = 0;
};

class TranslationTables : public HeapObject {
 public:
  virtual TableMode mode() const = 0;
  virtual Phys root() const = 0;
  // `root` holds what the present one does, and hardware goes by it from the caller's next command on; the present one
  // is the caller's to free.
  virtual void set_root(Phys root) = 0;
  u64 rtaddr() const;

  // --- entries; `bdf` without segment -------------------------------------------------------------------
  virtual EntryState read(u16 bdf) const = 0;
  // A bus without a present entry can be skipped.
  virtual bool bus_in_use(u8 bus) const = 0;
  // Makes everything exist that set() writes to. True: a table above the entry became present. `kho`, if not null, is
  // the handover that the tables are preserved in: new pages are before they are linked. Enomem, with nothing changed.
  virtual Result<bool> make_room(u16 bdf, Kho* kho) = 0;
  // Not present → present, after make_room().
  virtual void set(u16 bdf, u32 did, const pt::Geometry& geometry, Phys top, bool track_dirty) = 0;
  // Of a present entry of a second-stage table, where the limits allow it: one store, which may be seen at once or
  // never until the PASID cache and the IOTLB were flushed.
  virtual void set_track_dirty(u16 bdf, bool on) = 0;
  // Present → not present, one store. The id stays where it is until wipe().
  virtual void retract(u16 bdf) = 0;
  // Zeroes what retract() left and gives back pages that nothing else used, out of `kho` first; after the flush.
  virtual void wipe(u16 bdf, Kho* kho) = 0;
  // True for an entry that was retracted and not wiped: a flush is still owed for `did`, which may be any id.
  virtual bool retracted(u16 bdf, u32& did) const = 0;
  // For the jump: save(), retract(), flush, put_aside(), which is wipe() but for the pages: they leave the handover and
  // stay allocated. restore() is the way back from each of these steps; Enomem, and the entry stays as it is then.
  virtual void save(u16 bdf, SavedEntry& entry) const = 0;
  virtual void put_aside(u16 bdf, Kho& kho) = 0;
  virtual Result<void> restore(u16 bdf, const SavedEntry& entry, Kho* kho) = 0;

  // --- the flushes that go with them (hardware.md §6), in order, without the wait ------------------------
  virtual void flush_after_clear(u16 bdf, u32 did, Drain drain, Batch& batch) const = 0;
  // For units that cache not-present entries (CAP.CM). `new_table`: an entry above became present, too.
  virtual void flush_after_set(u16 bdf, u32 did, bool new_table, Drain drain, Batch& batch) const = 0;
  virtual void flush_all(Drain drain, Batch& batch) const = 0;

  // --- handover ----------------------------------------------------------------------------------------
  // The root first, then every page that hardware may walk from it, and no other (R52).
  virtual Result<void> each_page(FunctionRef<Result<void>(Phys page)> visit) const = 0;
  // Bit 2 * bus, + 1 for the upper table of scalable mode.
  virtual void linked_tables(std::span<u64, 8> bits) const = 0;

  // Gives all pages back. Only when no unit can walk them any more; otherwise they are simply left.
  virtual void free_pages() = 0;
};

inline u64 TranslationTables::rtaddr() const {
  return root().value | static_cast<u64>(mode()) << 10;
}

}  // namespace perdure::vtd
