// The entry checks of hardware.md §9.3 that concern legacy tables. The tables come from another kernel: nothing of
// them is believed, and hardware may be walking them meanwhile, so that they are only read.
#include <algorithm>

#include "core/mem/vec.h"
#include "core/vtd/legacy_tables.h"
#include "core/vtd/unit_log.h"

namespace perdure::vtd {
namespace {

// What one domain id stands for on the unit: all its entries must agree, since it tags cached translations (§4).
struct Meaning {
  u32 did = 0;
  u16 bdf = 0;
  u8 kind = 0;  // width and type
  u64 top = 0;
};

class Checker {
 public:
  Checker(Heap& heap, Kho& kho, const EntryLimits& limits, const Handover& from)
      : kho_(kho), machine_(heap.machine()), limits_(limits), from_(from), pages_(heap), meanings_(heap) {}

  Result<void> check() {
    TRY(check_page(from_.root, "root table"));
    const u64* entries = machine_.virt<u64>(from_.root);
    for (unsigned bus = 0; bus < kEntriesPerTable; ++bus) {
      const u64 low = hw::load(&entries[bus * kEntryWords]);
      const u64 high = hw::load(&entries[bus * kEntryWords + 1]);
      const bool present = RootEntry::Present::test(low);
      const bool recorded = (from_.linked[bus / 32] >> (bus % 32 * 2) & 3) != 0;
      if (present != recorded) {
        error(unit_line(from_.unit) << "root entry of bus " << Hex{bus} << " is " << (present ? "" : "not ")
                                    << "present, its record says otherwise");
        return fail(Errno::Einval);
      }
      if (!present) continue;
      if ((low & RootEntry::kReserved0) != 0 || (high & RootEntry::kReserved1) != 0) {
        error(unit_line(from_.unit) << "root entry of bus " << Hex{bus} << ": reserved bits: " << Hex{low} << " "
                                    << Hex{high});
        return fail(Errno::Einval);
      }
      const Phys table(RootEntry::Table::in_place(low));
      TRY(check_page(table, "context table"));
      TRY(check_context_table(static_cast<u8>(bus), machine_.virt<u64>(table)));
    }
    return check_sharing();
  }

  // Exactly the pages that were checked; each was found restorable, so that this fails only if somebody else
  // restores pages at the same time.
  Result<void> take_over() {
    for (const u64 page : pages_) {
      if (auto done = kho_.restore(Phys(page), 0); !done) {
        error(unit_line(from_.unit) << "page " << Hex{page} << " cannot be taken over: " << done.error());
        return fail(Errno::Einval);
      }
    }
    return {};
  }

 private:
  void error(const Line& line) { log(machine_, LogLevel::Error, line); }

  Result<void> check_page(Phys page, std::string_view what) {
    if (!page || (page.value & ~limits_.address_mask) != 0 || !machine_.in_window(page, kPageSize)) {
      error(unit_line(from_.unit) << what << " at " << page << " is beyond the host address width");
      return fail(Errno::Einval);
    }
    auto order = kho_.incoming_order(page);
    if (!kho_.incoming_covers(page, kPageSize) || !order || *order != 0) {
      error(unit_line(from_.unit) << what << " at " << page << " is no preserved page");
      return fail(Errno::Einval);
    }
    bool used = page == from_.queue.status ||
                ranges_overlap(page.value, kPageSize, from_.queue.base.value, kPageSize << from_.queue.order);
    for (const u64 seen : pages_) used |= seen == page.value;
    if (used) {
      error(unit_line(from_.unit) << what << " at " << page << " is used twice");
      return fail(Errno::Einval);
    }
    return pages_.push_back(page.value);
  }

  Result<void> check_context_table(u8 bus, const u64* entries) {
    for (unsigned devfn = 0; devfn < kEntriesPerTable; ++devfn) {
      const u64 low = hw::load(&entries[devfn * kEntryWords]);
      const u64 high = hw::load(&entries[devfn * kEntryWords + 1]);
      if (!ContextEntry::Present::test(low)) continue;
      const u16 bdf = static_cast<u16>(bus << 8 | devfn);
      if (const std::string_view wrong = wrong_with(low, high); !wrong.empty()) {
        error(unit_line(from_.unit) << "context entry of " << SourceId{from_.segment, bdf} << ": " << wrong << ": "
                                    << Hex{low} << " " << Hex{high});
        return fail(Errno::Einval);
      }
      Meaning m;
      m.did = static_cast<u32>(ContextEntry::Did::get(high));
      m.bdf = bdf;
      m.kind = static_cast<u8>(ContextEntry::Width::get(high) | ContextEntry::Type::get(low) << 4);
      m.top = ContextEntry::Type::get(low) == ContextEntry::kPassThrough ? 0 : ContextEntry::Top::in_place(low);
      TRY(meanings_.push_back(m));
    }
    return {};
  }

  std::string_view wrong_with(u64 low, u64 high) const {
    if ((low & ContextEntry::kReserved0) != 0 || (high & ContextEntry::kReserved1) != 0) return "reserved bits";
    if (!limits_.width_ok(static_cast<unsigned>(ContextEntry::Width::get(high))))
      return "width that the unit cannot do";
    if (ContextEntry::Did::get(high) >= limits_.did_limit) return "domain id that the unit cannot do";
    switch (ContextEntry::Type::get(low)) {
      case ContextEntry::kTranslate: break;
      case ContextEntry::kPassThrough: return limits_.pass_through ? "" : "pass-through that the unit cannot do";
      // Device TLBs hold translations that no flush of this driver reaches; the preserving side refuses them (R48).
      case ContextEntry::kTranslateWithAts: return "device TLB in use, which is never preserved";
      default: return "reserved translation type";
    }
    const u64 top = ContextEntry::Top::in_place(low);
    if (top == 0 || (top & ~limits_.address_mask) != 0) return "page table beyond the host address width";
    // All of the table is the domain record's business; here only that the walker's first step is into kept memory.
    if (!kho_.incoming_covers(Phys(top), kPageSize)) return "page table that is not preserved";
    return {};
  }

  Result<void> check_sharing() {
    std::sort(meanings_.begin(), meanings_.end(), [](const Meaning& a, const Meaning& b) { return a.did < b.did; });
    for (usize i = 1; i < meanings_.size(); ++i) {
      const Meaning& a = meanings_[i - 1];
      const Meaning& b = meanings_[i];
      if (a.did != b.did || (a.kind == b.kind && a.top == b.top)) continue;
      error(unit_line(from_.unit) << "domain id " << a.did
                                  << " stands for two page tables: " << SourceId{from_.segment, a.bdf} << " "
                                  << Hex{a.top} << ", " << SourceId{from_.segment, b.bdf} << " " << Hex{b.top});
      return fail(Errno::Einval);
    }
    return {};
  }

  Kho& kho_;
  Machine& machine_;
  const EntryLimits& limits_;
  const Handover& from_;
  Vec<u64> pages_;  // root and context tables; at most 257
  Vec<Meaning> meanings_;
};

}  // namespace

Result<Owned<TranslationTables>> LegacyTables::adopt(Heap& heap, Kho& kho, const HwWriter& writer,
                                                     const EntryLimits& limits, const Handover& from) {
  Checker checker(heap, kho, limits, from);
  TRY(checker.check());
  // The object first: after the pages are taken over nothing may fail.
  Owned<LegacyTables> tables = TRY(heap.make<LegacyTables>(heap.frames(), writer, limits, from.root));
  TRY(checker.take_over());
  return Owned<TranslationTables>(std::move(tables));
}

}  // namespace perdure::vtd
