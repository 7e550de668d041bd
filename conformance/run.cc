#include "conformance/run.h"

namespace perdure::conformance {

namespace {

struct NeedName {
  u64 need;
  std::string_view lacking;
};

constexpr NeedName kNeedNames[] = {
    {kLevels3, "no tables of 3 levels"},
    {kLevels4, "no tables of 4 levels"},
    {kLevels5, "no tables of 5 levels"},
    {kNotAllLevels, "all widths of tables are supported"},
    {kHugePages, "no 2 MiB pages"},
    {kGiantPages, "no 1 GiB pages"},
    {kNoCachingMode, "caching mode"},
    {kCachingMode, "no caching mode"},
    {kQueued, "no invalidation queue"},
    {kRemaps, "no interrupt remapping"},
    {kPassesThrough, "no pass-through"},
    {kSnoops, "no snoop control"},
    {kCannotSnoop, "snoop control"},
    {kPageFlush, "no flush of pages"},
    {kScalable, "no scalable mode with second stage"},
    {kFirstStage, "no first stage"},
    {kAborts, "no abort mode"},
    {kManyRecords, "one fault record only"},
    {kOneRecord, "more than one fault record"},
    {kNotCoherent, "walks snoop"},
    {kWriteBuffers, "no write buffers"},
    {kTracksDirty, "no dirty tracking in second stage"},
    {kKeepsAtRoot, "SRTP flushes"},
    {kFlushesAtRoot, "SRTP does not flush"},
    {kLegacyOnly, "scalable mode"},
    {kNarrowTables, "no table translates less than the unit"},
    {kThreeRequesters, "no third requester"},
    {kNoDeviceTlb, "device TLBs"},
    {kNoHugePages, "2 MiB pages"},
    {kCannotRemap, "interrupt remapping"},
    {kSurvives, "QEMU ends itself"},
    {kNarrowDomains, "domain ids of 16 bits"},
    {kProtects, "no protected low memory"},
    {kKeeps, "the unit forgets by itself"},
    {kWayBack, "no way back: the queue can be neither disabled nor moved"},
};

std::string_view what_name(What what) {
  switch (what) {
    case What::Nothing: return "nothing";
    case What::Lands: return "page ";
    case What::Faults: return "fault ";
    case What::Lost: return "lost";
    case What::Number: return "";
    case What::Wrong: return "wrong record, fault ";
    case What::TimeOut: return "time-out";
  }
  return "?";
}

const Deviation* deviation(const Behaviour& behaviour, Implementation implementation) {
  if (!behaviour.qemu_7_2) return nullptr;
  switch (implementation) {
    case Implementation::Architecture: return nullptr;
    case Implementation::ModelOfQemu72: return behaviour.qemu_7_2.imitated ? &behaviour.qemu_7_2 : nullptr;
    default: return &behaviour.qemu_7_2;
  }
}

}  // namespace

Line& operator<<(Line& line, const Seen& seen) {
  if (seen.empty()) line << std::string_view("nothing");
  for (unsigned i = 0; i < seen.size(); ++i) {
    const Observation o = seen[i];
    if (i != 0) line << std::string_view(", ");
    line << what_name(o.what);
    if (o.what == What::Lands || o.what == What::Number) line << o.value;
    if (o.what == What::Faults || o.what == What::Wrong) line << Hex{o.value};
  }
  return line;
}

std::string_view verdict_name(Verdict verdict) {
  switch (verdict) {
    case Verdict::Conforms: return "conforms";
    case Verdict::Differs: return "differs as documented";
    case Verdict::Fails: return "fails";
    case Verdict::Skipped: return "not applicable";
  }
  return "?";
}

std::string_view lacks(const Behaviour& behaviour, u64 offers) {
  const u64 missing = behaviour.needs & ~offers;
  for (const NeedName& name : kNeedNames) {
    if ((missing & name.need) != 0) return name.lacking;
  }
  return {};
}

Verdict judge(const Behaviour& behaviour, Implementation implementation, const Seen& seen) {
  const Deviation* known = deviation(behaviour, implementation);
  if (known != nullptr && seen == known->seen) return Verdict::Differs;
  const bool any = implementation == Implementation::OtherQemu;
  if (any && behaviour.qemu_10 && seen == behaviour.qemu_10.seen) return Verdict::Differs;
  const bool may_conform = known == nullptr || any;
  return may_conform && seen == behaviour.expected ? Verdict::Conforms : Verdict::Fails;
}

Outcome run(Bench& bench, const Behaviour& behaviour, Implementation implementation) {
  Outcome out;
  const Deviation* known = deviation(behaviour, implementation);
  out.expected = known != nullptr ? known->seen : behaviour.expected;
  const bool qemu = implementation == Implementation::Qemu72 || implementation == Implementation::OtherQemu;
  out.problem = lacks(behaviour, bench.offers() | (qemu ? kNothing : kWayBack | kSurvives));
  if (!out.problem.empty()) {
    out.verdict = Verdict::Skipped;
    return out;
  }
  if (!bench.rest()) {
    out.problem = "the unit does not come to rest";
    return out;
  }
  out.seen = behaviour.run(bench);
  out.problem = bench.problem();
  if (out.problem.empty()) out.verdict = judge(behaviour, implementation, out.seen);
  return out;
}

Line as_event(const Behaviour& behaviour, const Outcome& outcome) {
  Line line;
  line << std::string_view(R"({"event":"behaviour","name":")") << behaviour.name << std::string_view(R"(","verdict":")")
       << verdict_name(outcome.verdict) << std::string_view("\"");
  if (outcome.verdict != Verdict::Skipped) {
    line << std::string_view(R"(,"seen":")") << outcome.seen << std::string_view("\"");
  }
  if (outcome.verdict == Verdict::Fails) {
    line << std::string_view(R"(,"expected":")") << outcome.expected << std::string_view("\"");
  }
  if (!outcome.problem.empty()) {
    const bool skipped = outcome.verdict == Verdict::Skipped;
    line << (skipped ? std::string_view(R"(,"why":")") : std::string_view(R"(,"problem":"there was not: )"))
         << outcome.problem << std::string_view("\"");
  }
  line << std::string_view("}");
  return line;
}

}  // namespace perdure::conformance
