#include "machine/board/iommu/caches.h"

#include "machine/board/iommu/tables.h"

namespace perdure::board {

namespace {

u64 page_prefix(u64 iova, unsigned level) {
  return iova >> table::second_stage::level_shift(level);
}
// A table of `level` covers what one entry of the level above covers.
u64 table_prefix(u64 iova, unsigned level) {
  return iova >> table::second_stage::level_shift(level + 1);
}

// Drops the entries of `map` whose prefix of `shift` bits lies in [first, last] (bytes).
template <class Map>
void drop_range(Map& map, unsigned shift, u64 first, u64 last) {
  const u64 low = first >> shift;
  const u64 high = last >> shift;
  if (high - low < map.size()) {
    for (u64 prefix = low; prefix <= high; ++prefix) map.erase(prefix);
  } else {
    std::erase_if(map, [&](const auto& e) { return e.first >= low && e.first <= high; });
  }
}

}  // namespace

void TranslationCaches::set_policy(CachePolicy policy, u64 seed) {
  policy_ = policy;
  random_ = SeededRandom(seed);
  if (policy == CachePolicy::EvictAlways) drop_all();
}

bool TranslationCaches::lost() {
  return policy_ == CachePolicy::Random && (random_.next() & 7) == 0;
}

const ContextEntry* TranslationCaches::context(u16 source) {
  auto found = contexts_.find(source);
  if (found == contexts_.end()) return nullptr;
  if (lost()) {
    contexts_.erase(found);
    return nullptr;
  }
  return &found->second;
}

const PasidEntry* TranslationCaches::pasid(u16 source, u32 pasid) {
  auto found = pasids_.find(pasid_key(source, pasid));
  if (found == pasids_.end()) return nullptr;
  if (lost()) {
    pasids_.erase(found);
    return nullptr;
  }
  return &found->second;
}

const PageEntry* TranslationCaches::page(const Tag& tag, u64 iova, unsigned& level) {
  auto domain = domains_.find(tag.key());
  if (domain == domains_.end()) return nullptr;
  for (level = 1; level <= kLeafLevels; ++level) {
    auto& pages = domain->second.pages[level - 1];
    auto found = pages.find(page_prefix(iova, level));
    if (found == pages.end()) continue;
    if (lost()) {
      pages.erase(found);
      continue;
    }
    return &found->second;
  }
  return nullptr;
}

const StructureEntry* TranslationCaches::structure(const Tag& tag, u64 iova, unsigned levels, unsigned& level) {
  auto domain = domains_.find(tag.key());
  if (domain == domains_.end()) return nullptr;
  for (level = 1; level < levels; ++level) {
    auto& tables = domain->second.structures[level - 1];
    auto found = tables.find(table_prefix(iova, level));
    if (found == tables.end()) continue;
    if (lost()) {
      tables.erase(found);
      continue;
    }
    return &found->second;
  }
  return nullptr;
}

void TranslationCaches::keep_context(u16 source, const ContextEntry& entry) {
  if (policy_ != CachePolicy::EvictAlways) contexts_[source] = entry;
}

void TranslationCaches::keep_pasid(u16 source, u32 pasid, const PasidEntry& entry) {
  if (policy_ != CachePolicy::EvictAlways) pasids_[pasid_key(source, pasid)] = entry;
}

void TranslationCaches::keep_page(const Tag& tag, u64 iova, unsigned level, const PageEntry& entry) {
  if (policy_ != CachePolicy::EvictAlways) domains_[tag.key()].pages[level - 1][page_prefix(iova, level)] = entry;
}

void TranslationCaches::keep_structure(const Tag& tag, u64 iova, unsigned level, const StructureEntry& entry) {
  if (policy_ != CachePolicy::EvictAlways) domains_[tag.key()].structures[level - 1][table_prefix(iova, level)] = entry;
}

void TranslationCaches::drop_all() {
  drop_contexts();
  drop_pasids();
  drop_translations();
}

void TranslationCaches::drop_contexts() {
  contexts_.clear();
}

void TranslationCaches::drop_contexts_of_domain(u16 did) {
  std::erase_if(contexts_, [&](const auto& e) { return !e.second.at_root && e.second.binding.did == did; });
}

void TranslationCaches::drop_contexts_of_source(u16 source, u8 function_mask, const u16* did) {
  const u16 mask = source_mask(function_mask);
  std::erase_if(contexts_, [&](const auto& e) {
    return ((e.first ^ source) & mask) == 0 && !e.second.at_root && (did == nullptr || e.second.binding.did == *did);
  });
}

void TranslationCaches::drop_pasids() {
  pasids_.clear();
}

void TranslationCaches::drop_pasids_of_domain(u16 did, const u32* pasid) {
  constexpr u64 kPasidMask = (u64{1} << 20) - 1;
  std::erase_if(pasids_, [&](const auto& e) {
    if (pasid == nullptr) return e.second.binding.did == did;
    // What is remembered as not present has no domain yet.
    return (e.first & kPasidMask) == *pasid && (e.second.binding.did == did || e.second.fault != 0);
  });
}

void TranslationCaches::drop_translations() {
  domains_.clear();
}

void TranslationCaches::drop_translations_of(const Tag& tag) {
  domains_.erase(tag.key());
}

void TranslationCaches::drop_pages(const Tag& tag, u64 iova, unsigned order, bool leaves_only, bool mask8) {
  auto domain = domains_.find(tag.key());
  if (domain == domains_.end()) return;
  Domain& d = domain->second;
  const u64 bytes_mask = order + kPageShift >= 64 ? ~u64{0} : (u64{1} << (order + kPageShift)) - 1;
  const u64 first = iova & ~bytes_mask;
  const u64 last = iova | bytes_mask;
  for (unsigned level = 1; level <= kLeafLevels; ++level) {
    drop_range(d.pages[level - 1], table::second_stage::level_shift(level), first, last);
  }
  if (mask8) {
    const u64 kept_bits = 0xFF & ~((u64{1} << (order < 8 ? order : 8)) - 1);
    std::erase_if(d.pages[0], [&](const auto& e) { return ((e.first ^ (iova >> kPageShift)) & kept_bits) == 0; });
  }
  if (leaves_only) return;
  for (unsigned level = 1; level < kMaxLevels; ++level) {
    drop_range(d.structures[level - 1], table::second_stage::level_shift(level + 1), first, last);
  }
}

void TranslationCaches::drop_faults() {
  std::erase_if(contexts_, [](const auto& e) { return e.second.fault != 0; });
  std::erase_if(pasids_, [](const auto& e) { return e.second.fault != 0; });
  for (auto& [key, domain] : domains_) {
    for (auto& pages : domain.pages) std::erase_if(pages, [](const auto& e) { return e.second.fault != 0; });
  }
}

usize TranslationCaches::page_count() const {
  usize n = 0;
  for (const auto& [key, domain] : domains_) {
    for (const auto& pages : domain.pages) n += pages.size();
  }
  return n;
}

usize TranslationCaches::structure_count() const {
  usize n = 0;
  for (const auto& [key, domain] : domains_) {
    for (const auto& tables : domain.structures) n += tables.size();
  }
  return n;
}

}  // namespace perdure::board
