// The entry checks of hardware.md §9.3 that concern legacy tables. The tables come from another kernel: nothing of
// them is believed, and hardware may be walking them meanwhile, so that they are only read.
#include "core/vtd/adopt_checker.h"
#include "core/vtd/legacy_tables.h"

namespace perdure::vtd {
namespace {

class Checker : public AdoptChecker {
 public:
  using AdoptChecker::AdoptChecker;

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
    return check_whole();
  }

 private:
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
      if (ContextEntry::Type::get(low) != ContextEntry::kPassThrough) {
        m.format = pt::FormatId::VtdSecondStage;
        m.levels = static_cast<u8>(ContextEntry::Width::get(high) + 2);
        m.top = ContextEntry::Top::in_place(low);
      }
      TRY(add_meaning(m));
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
    return wrong_with_top(ContextEntry::Top::in_place(low));
  }
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
