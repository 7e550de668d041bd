// What the unit remembers of tables: context cache, PASID cache, IOTLB, paging-structure caches; each entry with the
// tags by which software drops it (hardware.md §4 to §6).
#pragma once
#include <array>
#include <unordered_map>
#include <vector>

#include "machine/board/iommu/config.h"
#include "machine/board/iommu/seeded_random.h"

namespace perdure::board {

// What a request's address is translated by.
enum class Stage : u8 { None, Second, First };

// A page table as a domain id stands for it. Pass-through is {0, 0}.
struct PageTableId {
  u64 top = 0;
  u8 levels = 0;
  bool operator==(const PageTableId&) const = default;
};

// What translations are cached under: the domain id, with first stage and the PASID. The two stages never meet, so that
// a flush of one leaves the other alone.
struct Tag {
  u16 did = 0;
  bool first_stage = false;
  u32 pasid = 0;  // of first stage alone
  constexpr u64 key() const { return first_stage ? u64{1} << 63 | u64{pasid} << 16 | did : did; }
};

// What a context entry (legacy) or a PASID entry (scalable) says about a request.
struct Binding {
  PageTableId table;
  u16 did = 0;
  Stage stage = Stage::None;  // None: pass-through
  u32 pasid = 0;
  bool device_tlb = false;    // requests of a device with own translations are allowed
  bool fpd = false;           // faults are not recorded
  bool access_dirty = false;  // SSADE
  bool snoop = true;          // the walk sees the CPU's caches

  bool tracks_dirty() const { return access_dirty || stage == Stage::First; }
  bool pass_through() const { return stage == Stage::None; }
  Tag tag() const { return {did, stage == Stage::First, stage == Stage::First ? pasid : 0}; }
};

struct ContextEntry {
  u8 fault = 0;          // not 0: this requester faults so (cached with caching mode only)
  bool at_root = false;  // the fault lies in the root entry
  bool fpd = false;
  Binding binding;          // legacy
  u64 pasid_directory = 0;  // scalable
  u32 pasid_limit = 0;
  u32 rid_pasid = 0;
  bool device_tlb = false;
};

struct PasidEntry {
  u8 fault = 0;
  bool fpd = false;
  Binding binding;
};

struct PageEntry {
  u64 phys = 0;  // of the page's first byte
  u8 fault = 0;  // not 0: nothing is mapped here (cached with caching mode only)
  bool read = false;
  bool write = false;
  bool dirty = false;
  PageTableId table;
};

struct StructureEntry {
  u64 pointer = 0;  // physical address of the table of this level
  bool read = false;
  bool write = false;
  PageTableId table;
};

// Not thread-safe: guarded by the unit's lock.
class TranslationCaches {
 public:
  TranslationCaches(CachePolicy policy, u64 seed) : policy_(policy), random_(seed) {}

  void set_policy(CachePolicy policy, u64 seed);

  // Lookups; null when not cached. Valid until the next call of any function.
  const ContextEntry* context(u16 source);
  const PasidEntry* pasid(u16 source, u32 pasid);
  // A leaf of `level` 1, 2 or 3 that covers `iova`.
  const PageEntry* page(const Tag& tag, u64 iova, unsigned& level);
  // The deepest cached table that covers `iova` in a table of `levels`; level is set to that table's.
  const StructureEntry* structure(const Tag& tag, u64 iova, unsigned levels, unsigned& level);

  void keep_context(u16 source, const ContextEntry& entry);
  void keep_pasid(u16 source, u32 pasid, const PasidEntry& entry);
  void keep_page(const Tag& tag, u64 iova, unsigned level, const PageEntry& entry);
  void keep_structure(const Tag& tag, u64 iova, unsigned level, const StructureEntry& entry);

  // --- flushes -------------------------------------------------------------------------------------------------
  void drop_all();
  void drop_contexts();
  void drop_contexts_of_domain(u16 did);
  // Entries of `source`, compared outside the bits that `function_mask` (0..3) covers. `did` null: any.
  void drop_contexts_of_source(u16 source, u8 function_mask, const u16* did);
  void drop_pasids();
  void drop_pasids_of_domain(u16 did, const u32* pasid);
  void drop_translations();  // of both stages
  void drop_translations_of(const Tag& tag);
  // 2^order pages from `iova` on; `mask8`: see IommuQuirks::psi_mask8.
  void drop_pages(const Tag& tag, u64 iova, unsigned order, bool leaves_only, bool mask8);
  // Everything that says "not present".
  void drop_faults();

  usize context_count() const { return contexts_.size(); }
  usize page_count() const;
  usize structure_count() const;

  // The function-mask rule of hardware.md §1, CCMD.
  static constexpr u16 source_mask(u8 function_mask) {
    constexpr u16 kIgnored[4] = {0, 4, 6, 7};
    return static_cast<u16>(~kIgnored[function_mask & 3]);
  }

 private:
  static constexpr unsigned kLeafLevels = 3;
  static constexpr unsigned kMaxLevels = 5;
  struct Domain {
    std::array<std::unordered_map<u64, PageEntry>, kLeafLevels> pages;           // [level - 1], by IOVA prefix
    std::array<std::unordered_map<u64, StructureEntry>, kMaxLevels> structures;  // [level - 1], by IOVA prefix
  };
  static u64 pasid_key(u16 source, u32 pasid) { return u64{source} << 20 | pasid; }
  // Decides that an entry has gone by itself.
  bool lost();

  CachePolicy policy_;
  SeededRandom random_;
  std::unordered_map<u16, ContextEntry> contexts_;
  std::unordered_map<u64, PasidEntry> pasids_;
  std::unordered_map<u64, Domain> domains_;  // by Tag::key()
};

}  // namespace perdure::board
