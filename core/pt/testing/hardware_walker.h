// An IOMMU's page walk, written from the specifications alone: it shares no constant with the formats under test.
#pragma once
#include <functional>
#include <string>

#include "core/pt/io_page_table.h"
#include "core/pt/testing/translation.h"

namespace perdure::pt::testing {

class HardwareWalker {
 public:
  // `word`: 64 bits at a physical address, as hardware sees them now. `is_table`: whether the page there is a table
  // page and nothing else.
  HardwareWalker(const Geometry& geometry, std::function<u64(u64 at)> word, std::function<bool(u64 page)> is_table)
      : g_(geometry), word_(std::move(word)), is_table_(std::move(is_table)) {}

  // All that can be reached from `top`; what hardware would report as a fault, and what it may never see, is in
  // faults().
  Translation walk(Phys top) {
    faults_.clear();
    tables_ = empty_tables_ = 0;
    Translation all;
    table(top.value, g_.levels, 0, 3, all);
    return all;
  }
  const std::string& faults() const { return faults_; }
  u64 tables() const { return tables_; }  // linked ones, the top too
  u64 empty_tables() const { return empty_tables_; }

 private:
  void table(u64 page, unsigned level, u64 base, unsigned allowed, Translation& all) {
    ++tables_;
    if (!is_table_(page)) {
      fault("link to a page that is no table", page, level, page);
      return;
    }
    bool any = false;
    for (u64 i = 0; i < 512; ++i) {
      const u64 entry = word_(page + 8 * i);
      const u64 iova = base + (i << (12 + 9 * (level - 1)));
      const unsigned access = access_of(entry);
      if (access == 0) continue;
      any = true;
      if (reserved(entry, level) != 0) fault("reserved bits", page + 8 * i, level, entry);
      if (iova >> g_.iova_bits != 0) fault("beyond the address width", page + 8 * i, level, entry);
      const u64 address = entry & 0x000f'ffff'ffff'f000;
      if (level == 1 || (entry & 0x80) != 0) {
        all.append(iova, {u64{1} << (12 + 9 * (level - 1)), address, access & allowed});
      } else {
        table(address, level - 1, iova, access & allowed, all);
      }
    }
    if (!any && level != g_.levels) ++empty_tables_;
  }

  // Read 1, Write 2; 0: not present.
  unsigned access_of(u64 entry) const {
    if (g_.format == FormatId::VtdSecondStage) return entry & 3;
    return (entry & 1) == 0 ? 0 : (entry & 2) != 0 ? 3 : 1;
  }

  u64 reserved(u64 entry, unsigned level) const {
    const bool leaf = level == 1 || (entry & 0x80) != 0;
    const u64 address = 0x000f'ffff'ffff'f000;
    u64 bits = address & ~((u64{1} << g_.output_bits) - 1);
    if (leaf && level == 2) bits |= 0x001f'f000;
    if (leaf && level == 3) bits |= 0x3fff'f000;
    if (level > 3) bits |= 0x80;
    if (level == 2 && (g_.leaf_sizes & kHugePageSize) == 0) bits |= 0x80;
    if (level == 3 && (g_.leaf_sizes & kGiantPageSize) == 0) bits |= 0x80;
    if (g_.format == FormatId::VtdSecondStage) {
      // Execute without SSEE, memory type and IPAT without EMTE, PS in level 1, accessed and dirty without SSADE,
      // SNP without ECAP.SC, the former TM.
      bits |= u64{1} << 2 | 0x78 | u64{1} << 8 | u64{1} << 9 | u64{1} << 11 | u64{1} << 62;
      if (level == 1) bits |= 0x80;
    } else {
      // PWT, PCD, PAT select memory types that were not asked for; G; execute-disable without NXE.
      bits |= 0x18 | u64{1} << 8 | u64{1} << 63;
      if (level == 1) bits |= 0x80;
      // Without user privilege ordinary DMA faults (reason 81).
      if ((entry & 4) == 0) bits |= entry & 1;
    }
    return entry & bits;
  }

  void fault(const char* what, u64 at, unsigned level, u64 entry) {
    if (faults_.size() > 1000) return;
    char line[160];
    std::snprintf(line, sizeof line, "%s at %llx, level %u: %llx\n", what, static_cast<unsigned long long>(at), level,
                  static_cast<unsigned long long>(entry));
    faults_ += line;
  }

  Geometry g_;
  std::function<u64(u64)> word_;
  std::function<bool(u64)> is_table_;
  std::string faults_;
  u64 tables_ = 0;
  u64 empty_tables_ = 0;
};

}  // namespace perdure::pt::testing
