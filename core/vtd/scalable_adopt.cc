// The entry checks of hardware.md §9.3 that concern scalable tables: a walk root → context → directory → table. As in
// legacy mode nothing of them is believed, and they are only read. The domain id is in the PASID entry; what lies at
// its place in a legacy context entry are bits of RID_PASID (§4).
#include "core/vtd/adopt_checker.h"
#include "core/vtd/scalable_tables.h"

namespace perdure::vtd {
namespace {

using Context = ScalableContextEntry;

class Checker : public AdoptChecker {
 public:
  using AdoptChecker::AdoptChecker;

  Result<void> check() {
    TRY(check_page(from_.root, "root table"));
    const u64* halves = machine_.virt<u64>(from_.root);
    for (unsigned half = 0; half < 2 * kEntriesPerTable; ++half) {
      const u64 word = hw::load(&halves[half]);
      const bool present = RootEntry::Present::test(word);
      const bool recorded = (from_.linked[half / 64] >> (half % 64) & 1) != 0;
      Line name = unit_line(from_.unit);
      name << (half % 2 != 0 ? "upper" : "lower") << " root entry of bus " << Hex{half / 2};
      if (present != recorded) {
        error(name << " is " << (present ? "" : "not ") << "present, its record says otherwise");
        return fail(Errno::Einval);
      }
      if (!present) continue;
      if ((word & RootEntry::kReserved0) != 0) {
        error(name << ": reserved bits: " << Hex{word});
        return fail(Errno::Einval);
      }
      const Phys table(RootEntry::Table::in_place(word));
      TRY(check_page(table, "context table"));
      TRY(check_context_table(half, machine_.virt<u64>(table)));
    }
    return check_whole();
  }

 private:
  Line line(u16 bdf, std::string_view what) const {
    Line line = unit_line(from_.unit);
    line << what << " of " << SourceId{from_.segment, bdf} << ": ";
    return line;
  }

  Result<void> check_context_table(unsigned half, const u64* entries) {
    for (unsigned i = 0; i < kScalableContexts; ++i) {
      const u16 bdf = static_cast<u16>(half * kScalableContexts + i);
      u64 w[kScalableContextWords];
      for (unsigned k = 0; k < kScalableContextWords; ++k) w[k] = hw::load(&entries[i * kScalableContextWords + k]);
      if (const std::string_view wrong = wrong_with_context(w); !wrong.empty()) {
        error(line(bdf, "context entry") << wrong << ": " << Hex{w[0]} << " " << Hex{w[1]} << " " << Hex{w[2]} << " "
                                         << Hex{w[3]});
        return fail(Errno::Einval);
      }
      if (Context::Present::test(w[0])) TRY(check_directory(bdf, Phys(Context::Directory::in_place(w[0]))));
    }
    return {};
  }

  static std::string_view wrong_with_context(const u64 (&w)[kScalableContextWords]) {
    if (!Context::Present::test(w[0])) {
      // Retracted and never flushed: what the unit still holds of it cannot be known.
      return (w[0] | w[1] | w[2] | w[3]) != 0 ? "not present, and not empty" : "";
    }
    if ((w[0] & Context::kReserved0) != 0 || (w[1] & Context::kReserved1) != 0 || (w[2] | w[3]) != 0) {
      return "reserved bits";
    }
    // Device TLBs hold translations that no flush of this driver reaches; the preserving side refuses them (R48).
    if (Context::DeviceTlb::test(w[0])) return "device TLB in use, which is never preserved";
    if (Context::PageRequests::test(w[0])) return "page requests in use, which are never preserved";  // R47
    if (Context::WithPasid::test(w[0]) || Context::RidPasid::get(w[1]) != kRidPasid) {
      return "PASIDs in use, which are never preserved";  // R45
    }
    if (Context::RidPrivileged::test(w[1])) return "privileged requests";
    if (Context::DirectorySize::get(w[0]) != 0) return "PASID directory larger than this kernel makes";
    return {};
  }

  Result<void> check_directory(u16 bdf, Phys page) {
    TRY(check_page(page, "PASID directory"));
    const u64* entries = machine_.virt<u64>(page);
    for (unsigned i = 0; i < kSmallestDirectory; ++i) {
      const u64 word = hw::load(&entries[i]);
      const bool ours = i == kRidPasid / kPasidsPerTable;
      if (PasidDirectoryEntry::Present::test(word) != ours || (ours && (word & PasidDirectoryEntry::kReserved) != 0)) {
        error(line(bdf, "PASID directory")
              << "entry " << i << " is " << Hex{word} << ": "
              << (!ours ? "other PASIDs than " : "no, or no sound, table of PASID ") << kRidPasid);
        return fail(Errno::Einval);
      }
    }
    return check_pasid_table(bdf, Phys(PasidDirectoryEntry::Table::in_place(entries[kRidPasid / kPasidsPerTable])));
  }

  Result<void> check_pasid_table(u16 bdf, Phys page) {
    TRY(check_page(page, "PASID table"));
    const u64* entries = machine_.virt<u64>(page);
    for (unsigned i = 0; i < kPasidsPerTable; ++i) {
      u64 w[kPasidWords];
      for (unsigned k = 0; k < kPasidWords; ++k) w[k] = hw::load(&entries[i * kPasidWords + k]);
      const bool ours = i == kRidPasid % kPasidsPerTable;
      std::string_view wrong;
      if (PasidEntry::Present::test(w[0]) != ours) {
        wrong = ours ? "not present" : "another PASID is in use, which is never preserved";
      } else if (ours) {
        wrong = wrong_with_pasid(w);
      }
      if (!wrong.empty()) {
        error(line(bdf, "PASID entry") << wrong << ": PASID " << i << ", " << Hex{w[0]} << " " << Hex{w[1]} << " "
                                       << Hex{w[2]});
        return fail(Errno::Einval);
      }
      if (ours) TRY(add_meaning(meaning_of(bdf, w)));
    }
    return {};
  }

  std::string_view wrong_with_pasid(const u64 (&w)[kPasidWords]) const {
    if ((w[0] & PasidEntry::kReserved0) != 0 || (w[1] & PasidEntry::kReserved1) != 0 ||
        (w[2] & PasidEntry::kReserved2) != 0 || (w[3] | w[4] | w[5] | w[6] | w[7]) != 0) {
      return "reserved bits";
    }
    if (PasidEntry::Did::get(w[1]) >= limits_.did_limit) return "domain id that the unit cannot do";
    // Its tables would not be seen as they are written, or be written back for nothing.
    if (PasidEntry::WalkSnoops::test(w[1]) != limits_.walk_snoops) return "walks of another coherence than the unit's";
    switch (PasidEntry::Type::get(w[0])) {
      case PasidEntry::kSecondStage:
        if (!limits_.second_stage) return "second-stage table that the unit cannot do";
        if (PasidEntry::TrackDirty::test(w[0]) && !limits_.track_dirty) return "dirty tracking that the unit cannot do";
        if (!limits_.width_ok(static_cast<unsigned>(PasidEntry::Width::get(w[0])))) {
          return "width that the unit cannot do";
        }
        return wrong_with_top(PasidEntry::SecondStage::in_place(w[0]));
      case PasidEntry::kFirstStage:
        if (PasidEntry::FirstStageMode::get(w[2]) + 4 > limits_.first_stage_levels) {
          return "first-stage table that the unit cannot do";
        }
        return wrong_with_top(PasidEntry::FirstStage::in_place(w[2]));
      case PasidEntry::kPassThrough: return limits_.pass_through ? "" : "pass-through that the unit cannot do";
      case PasidEntry::kNested: return "nested table, which is never preserved";
      default: return "reserved translation type";
    }
  }

  static Meaning meaning_of(u16 bdf, const u64 (&w)[kPasidWords]) {
    Meaning m;
    m.bdf = bdf;
    m.did = static_cast<u32>(PasidEntry::Did::get(w[1]));
    if (PasidEntry::Type::get(w[0]) == PasidEntry::kSecondStage) {
      m.format = pt::FormatId::VtdSecondStage;
      m.levels = static_cast<u8>(PasidEntry::Width::get(w[0]) + 2);
      m.top = PasidEntry::SecondStage::in_place(w[0]);
      m.track_dirty = PasidEntry::TrackDirty::test(w[0]);
    } else if (PasidEntry::Type::get(w[0]) == PasidEntry::kFirstStage) {
      m.format = pt::FormatId::X86FirstStage;
      m.levels = static_cast<u8>(PasidEntry::FirstStageMode::get(w[2]) + 4);
      m.top = PasidEntry::FirstStage::in_place(w[2]);
    }
    return m;
  }
};

}  // namespace

Result<Owned<TranslationTables>> ScalableTables::adopt(Heap& heap, Kho& kho, const HwWriter& writer,
                                                       const EntryLimits& limits, const Handover& from) {
  Checker checker(heap, kho, limits, from);
  TRY(checker.check());
  // The object first: after the pages are taken over nothing may fail.
  Owned<ScalableTables> tables = TRY(heap.make<ScalableTables>(heap.frames(), writer, limits, from.root));
  TRY(checker.take_over());
  return Owned<TranslationTables>(std::move(tables));
}

}  // namespace perdure::vtd
