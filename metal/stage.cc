#include "metal/stage.h"

#include "core/base/log.h"
#include "core/vtd/registers.h"
#include "metal/build.h"
#include "metal/expectations.h"
#include "metal/report.h"
#include "metal/serial.h"

namespace perdure::metal {

namespace {

// How often a long run waits for its devices, and changes page tables under them, instead of just looking.
constexpr u32 kSettleAlways = 10;
constexpr u32 kSettleEvery = 50;

scenarios::BusMastersPlan plan_of(const Options& options) {
  constexpr std::string_view kNames[scenarios::BusMasters::kMasters] = {"ohci", "edu", "e1000e", "nvme", "ioat"};
  scenarios::BusMastersPlan plan;
  for (u32 m = 0; m < scenarios::BusMasters::kMasters; ++m) plan.wanted[m] = options.wants(kNames[m]);
  plan.interrupts = options.interrupts;
  plan.may_lose = options.breakage == "record";
  return plan;
}

// "00:03.0"
Line bdf_of(SourceId source) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  Line line;
  const auto two = [&](u32 v) {
    line << std::string_view(&kDigits[v / 16], 1) << std::string_view(&kDigits[v % 16], 1);
  };
  two(source.bus());
  line << ":";
  two(source.device());
  return line << "." << source.bdf % 8;
}

}  // namespace

Stage::Stage(Kernel& kernel, MetalMachine& machine, const Options& options)
    : kernel_(kernel),
      machine_(machine),
      options_(options),
      hop_(machine.boot().hop),
      program_(kernel, machine),
      masters_({program_, *this}, plan_of(options)),
      saboteur_(machine, options.breakage) {
  machine.meddle(this);
}

void Stage::run() {
  announce();
  must("start the devices' program", masters_.begin(hop_));
  announce_quarantined();
  stretch();
  const bool well = look();
  tell_evidence(!options_.quiet || last() || !well);
  announce_memory();
  if (!well || last()) finish(well);
  stretch();
  must("preserve", masters_.preserve());
  must("load the next kernel", program_.kexec_load(kNextKernel));
  must("kexec", program_.kexec());
  finish(false);
}

bool Stage::look() {
  const bool settle = options_.hops <= kSettleAlways || hop_ % kSettleEvery == 0 || last();
  return (settle ? masters_.settle() : masters_.verify()).has_value();
}

void Stage::stretch() {
  const u64 begin = machine_.now_ns();
  while (machine_.now_ns() - begin < options_.stretch_us * 1000) program_.pause();
}

// --- what is said --------------------------------------------------------------------------------------------------

void Stage::announce() {
  if (hop_ == 0) {
    Event event("boot");
    event.field("hop", u64{0}).field("release", kBuild.release).field("firmware", machine_.facts().firmware);
    event.field("devices", kernel_.bus().size());
    kernel_.iommu().each_unit([&](IommuUnit& unit) {
      const Phys base = unit.info().base;
      const u64 rtaddr = machine_.mmio_read(base + vtd::reg::kRootTable.offset, Width::W64);
      event.field("mode", vtd::Rtaddr::Ttm::get(rtaddr) == 0 ? "legacy" : "scalable");
      event.field("gsts", machine_.mmio_read(base + vtd::reg::kGlobalStatus.offset, Width::W32));
      event.field("cap", unit.info().cap).field("ecap", unit.info().ecap);
    });
    return;
  }
  Event event("hop");
  event.field("number", hop_).field("from", kernel_.former_release()).field("to", kBuild.release);
  event.begin("timeline", '[');
  for (const PhaseTime& phase : kernel_.timeline().phases()) {
    event.begin({}, '{')
        .field("name", phase_name(phase.phase))
        .field("begin_ns", phase.begin_ns)
        .field("end_ns", phase.end_ns)
        .end('}');
  }
  event.end(']');
}

void Stage::announce_quarantined() {
  kernel_.iommu().each_device([&](IommuDevice& device) {
    if (device.group().ownership() != Ownership::Quarantined) return;
    const pci::Function* const function = kernel_.bus().find(device.source());
    Event("quarantined")
        .field("bdf", bdf_of(device.source()).view())
        .flag("stopped", function && !function->bus_master())
        .flag("translated", device.unit().read_entry(device.source()).present);
  });
}

// What a run that leaks has more of each time.
void Stage::announce_memory() {
  kernel_.heap().trim();
  const FrameAllocator::Totals totals = kernel_.frames().totals();
  Event("memory")
      .field("hop", hop_)
      .field("frames", totals.frames - totals.free)
      .field("kept", totals.kept)
      .field("heap", kernel_.heap().bytes_in_use())
      .field("share", machine_.share().bytes_in_use());
}

void Stage::tell_evidence(bool all) {
  for (u32 m = 0; m < scenarios::BusMasters::kMasters; ++m) {
    const scenarios::Evidence& e = masters_.evidence(m);
    // One that was not found well on the way up is there, too.
    const bool there = e.present || !e.what.empty();
    if (!there || (e.ok && !all)) continue;
    Event event("evidence");
    event.field("hop", hop_).field("device", e.device).flag("ok", e.ok).flag("lost", e.lost);
    event.begin("numbers", '{');
    for (u32 i = 0; i < e.count; ++i) event.field(e.numbers[i].name, e.numbers[i].value);
    event.end('}').field("what", e.what);
  }
}

void Stage::problem(std::string_view what, Errno why) {
  Event("problem").field("what", (Line() << what << ": " << why).view());
}

void Stage::before_jump() {
  if (options_.pause_at_jump) tell_expectations(kernel_);
  Event("jump").field("number", hop_ + 1);
  if (options_.pause_at_jump) static_cast<void>(serial_read());
  saboteur_.before_jump();
}

void Stage::finish(bool ok) {
  Event("end").flag("ok", ok).field("hops", hop_);
  end_run(ok ? Verdict::Passed : Verdict::Failed);
}

template <class T>
T Stage::must(std::string_view what, Result<T> result) {
  if (!result) {
    problem(what, result.error());
    tell_evidence(false);
    finish(false);
  }
  return detail::take(std::move(result));
}

}  // namespace perdure::metal
