// Scalable mode (hardware.md §3.2): one root page, two context pages per bus in use, and for each function with an
// entry a PASID directory and a PASID table of its own, of which the entry of kRidPasid is used.
//
// A context entry is present exactly while its PASID entry is. So one store to it stops all DMA of the function,
// whatever its PASIDs, and only what is attached leads to further pages: nothing else of them has to survive a jump
// (R52). Directory and table are hung into the entry before it becomes present and stay there, not present, until the
// flush is over.
#pragma once
#include "core/vtd/translation_tables.h"

namespace perdure::vtd {

class ScalableTables final : public TranslationTables {
 public:
  ScalableTables(FrameAllocator& frames, const HwWriter& writer, const EntryLimits& limits, Phys root)
      : frames_(frames), writer_(writer), limits_(limits), root_(root) {}

  // As those of LegacyTables. adopt() walks root → context → directory → table, and refuses besides what no kernel that
  // preserves leaves behind: other PASIDs than kRidPasid (R45), device TLBs and page requests (R47, R48), nested
  // tables, one id for both stages.
  static Result<Owned<TranslationTables>> create(Heap& heap, const HwWriter& writer, const EntryLimits& limits);
  static Result<Owned<TranslationTables>> adopt(Heap& heap, Kho& kho, const HwWriter& writer, const EntryLimits& limits,
                                                const Handover& from);

  TableMode mode() const override { return TableMode::Scalable; }
  Phys root() const override { return root_; }
  void set_root(Phys root) override { root_ = root; }
  EntryState read(u16 bdf) const override;
  bool bus_in_use(u8 bus) const override;
  Result<bool> make_room(u16 bdf, Kho* kho) override;
  void set(u16 bdf, u32 did, const pt::Geometry& geometry, Phys top, bool track_dirty) override;
  void set_track_dirty(u16 bdf, bool on) override;
  void retract(u16 bdf) override;
  void wipe(u16 bdf, Kho* kho) override;
  bool retracted(u16 bdf, u32& did) const override;
  void save(u16 bdf, SavedEntry& entry) const override;
  void put_aside(u16 bdf, Kho& kho) override;
  Result<void> restore(u16 bdf, const SavedEntry& entry, Kho* kho) override;
  void flush_after_clear(u16 bdf, u32 did, Drain drain, Batch& batch) const override;
  void flush_after_set(u16 bdf, u32 did, bool new_table, Drain drain, Batch& batch) const override;
  void flush_all(Drain drain, Batch& batch) const override;
  Result<void> each_page(FunctionRef<Result<void>(Phys page)> visit) const override;
  void linked_tables(std::span<u64, 8> bits) const override;
  void free_pages() override;

 private:
  // What a context entry leads to, present or not; null addresses when it leads nowhere.
  struct Room {
    Phys directory;
    Phys table;
    u64* entry = nullptr;  // of kRidPasid
  };

  u64* root_half(unsigned half) const;      // 2 * bus, + 1 for devfn 0x80 and up
  Phys context_table(unsigned half) const;  // null address: none
  u64* context_entry(u16 bdf) const;        // null: no table
  Room room_of(const u64* context) const;
  void zero(u64* context) const;

  FrameAllocator& frames_;
  const HwWriter writer_;
  const EntryLimits limits_;
  Phys root_;
};

}  // namespace perdure::vtd
