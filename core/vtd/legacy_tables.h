// Legacy mode: one root page, one context page per bus in use (hardware.md §3.1).
#pragma once
#include "core/vtd/translation_tables.h"

namespace perdure::vtd {

class LegacyTables final : public TranslationTables {
 public:
  LegacyTables(FrameAllocator& frames, const HwWriter& writer, const EntryLimits& limits, Phys root)
      : frames_(frames), writer_(writer), limits_(limits), root_(root) {}

  // A root with nothing present. Enomem.
  static Result<Owned<TranslationTables>> create(Heap& heap, const HwWriter& writer, const EntryLimits& limits);

  // The tables that a former kernel left, as hardware walks them now. Everything is checked before anything is taken
  // over (hardware.md §9.3): every page preserved and of order 0, none twice, no reserved bit, widths that the unit
  // does, ids below the limit, one table per id. Einval when something is wrong, and nothing is taken over then.
  static Result<Owned<TranslationTables>> adopt(Heap& heap, Kho& kho, const HwWriter& writer, const EntryLimits& limits,
                                                const Handover& from);

  TableMode mode() const override { return TableMode::Legacy; }
  Phys root() const override { return root_; }
  void set_root(Phys root) override { root_ = root; }
  EntryState read(u16 bdf) const override;
  bool bus_in_use(u8 bus) const override;
  Result<bool> make_room(u16 bdf, Kho* kho) override;
  void set(u16 bdf, u32 did, const pt::Geometry& geometry, Phys top, bool track_dirty) override;
  void set_track_dirty(u16, bool) override { PERDURE_ASSERT(!"legacy entries track nothing"); }
  void retract(u16 bdf) override;
  void wipe(u16 bdf, Kho* kho) override;
  bool retracted(u16 bdf, u32& did) const override;
  void save(u16 bdf, SavedEntry& entry) const override;
  void put_aside(u16 bdf, Kho& kho) override { wipe(bdf, &kho); }
  Result<void> restore(u16 bdf, const SavedEntry& entry, Kho* kho) override;
  void flush_after_clear(u16 bdf, u32 did, Drain drain, Batch& batch) const override;
  void flush_after_set(u16 bdf, u32 did, bool new_table, Drain drain, Batch& batch) const override;
  void flush_all(Drain drain, Batch& batch) const override;
  Result<void> each_page(FunctionRef<Result<void>(Phys page)> visit) const override;
  void linked_tables(std::span<u64, 8> bits) const override;
  void free_pages() override;

 private:
  u64* root_entry(u8 bus) const;
  Phys context_table(u8 bus) const;   // null address: none
  u64* context_entry(u16 bdf) const;  // null: no table

  FrameAllocator& frames_;
  const HwWriter writer_;
  const EntryLimits limits_;
  Phys root_;
};

}  // namespace perdure::vtd
