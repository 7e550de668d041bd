// Stopping a function whose DMA nobody answers for (design §8). Nothing here allocates or fails: a step that hardware
// does not confirm is reported, and what the function could still reach is never given out again.
#include "core/base/log.h"
#include "core/iommu/iommu.h"

namespace perdure {
namespace {

// Requests in flight complete within microseconds or are lost; PCI Express's completion timeout is at most this.
constexpr u64 kPendingTimeoutNs = u64{50} * 1000 * 1000;

Line describe(SourceId source) {
  Line line;
  line << "iommu: function " << Hex{source.segment} << ":" << Hex{source.bus()} << ":" << Hex{source.device()} << "."
       << source.function() << ": ";
  return line;
}

}  // namespace

void Iommu::note_failure(IommuUnit& unit) {
  if (UnitSlot* slot = slot_of(unit)) slot->failed.store(true);
}

void Iommu::isolate_failed_units() {
  each_unit([&](IommuUnit& unit) {
    const UnitSlot* slot = slot_of(unit);
    const bool failed = slot->failed.load() || !unit.alive();
    if (failed && !slot->quarantined.load()) quarantine_unit(unit, "its unit does not answer");
  });
}

bool Iommu::bus_master_off(SourceId source) {
  return bus_master_ && bus_master_->off_and_verify(source);
}

bool Iommu::wait_idle(SourceId source) {
  if (!bus_master_) return false;
  const u64 start = machine().now_ns();
  while (bus_master_->transactions_pending(source)) {
    if (machine().now_ns() - start > kPendingTimeoutNs) return false;
    machine().relax();
  }
  return true;
}

void Iommu::quarantine(IommuDevice& device, std::string_view why) {
  {
    MutexGuard guard(device.group().lock_);
    device.group().quarantine_locked(why);
  }
  isolate_failed_units();
}

void Group::quarantine_locked(std::string_view why) {
  ownership_ = Ownership::Quarantined;
  awaiting_restore_ = false;
  settle_locked();
  bool stopped = true;
  // At the source first: the function may be writing right now.
  for (const IommuDevice& device : devices_) {
    log(iommu_.machine(), LogLevel::Warn, describe(device.source()) << "quarantined: " << why);
    if (iommu_.bus_master_off(device.source())) continue;
    stopped = false;
    log(iommu_.machine(), LogLevel::Error,
        describe(device.source()) << "bus mastering does not stay off; only its blocked entry stops it");
  }
  // Not present with one store each, then the flushes and their wait, which is what ends translation for good.
  const bool flushed = clear_entries_locked().has_value();
  if (!flushed) {
    log(iommu_.machine(), LogLevel::Error,
        Line() << "iommu: group " << id_ << ": the unit at " << unit_.info().base
               << " did not confirm the flush; what the group could reach is never given out again");
  }
  for (const IommuDevice& device : devices_) {
    if (iommu_.wait_idle(device.source())) continue;
    stopped = false;
    log(iommu_.machine(), LogLevel::Error, describe(device.source()) << "its last transactions did not complete");
  }
  if (!domain_) return;
  // A former kernel's tables stay for good, and so does anything that was not proven unreachable.
  if (domain_->restored() || !flushed || !stopped) domain_->never_free();
  domain_->end_attach(unit_, device_total_, flushed);
  domain_ = nullptr;
}

Result<void> Iommu::reset_done(IommuDevice& device) {
  Group& group = device.group();
  MutexGuard guard(group.lock_);
  if (group.ownership_ != Ownership::Quarantined) return fail(Errno::Enoent);
  if (!usable(group.unit_)) return fail(Errno::Eio);
  const bool claimed = group.owner_ && group.owner_.get() != group.held_.get();
  TRY(group.immutability_.may_change());
  if (claimed || group.device_total_ != 1 || group.entry_present_locked()) return fail(Errno::Ebusy);
  // A reset leaves bus mastering off; nobody else may have turned it on.
  if (!bus_master_ || bus_master_->is_on(device.source()) || bus_master_->transactions_pending(device.source())) {
    return fail(Errno::Ebusy);
  }
  group.owner_ = nullptr;
  group.held_ = nullptr;
  group.owner_count_ = 0;
  group.ownership_ = Ownership::Unowned;
  log(machine(), LogLevel::Info, describe(device.source()) << "was reset and may be used again");
  return {};
}

void Iommu::quarantine_entry(IommuUnit& unit, SourceId source, std::string_view why) {
  log(machine(), LogLevel::Warn, describe(source) << "quarantined: " << why);
  if (!bus_master_off(source)) {
    log(machine(), LogLevel::Error,
        describe(source) << "bus mastering does not stay off; only its blocked entry stops it");
  }
  if (!unit.clear_entry(source)) {
    note_failure(unit);
    log(machine(), LogLevel::Error,
        describe(source) << "the unit at " << unit.info().base << " did not confirm the flush");
  }
  if (!wait_idle(source)) {
    log(machine(), LogLevel::Error, describe(source) << "its last transactions did not complete");
  }
}

u32 Iommu::quarantine_unknown_entries(IommuUnit& unit, std::string_view why) {
  // A visitor must not change entries, and there is no memory to collect them all: batches.
  constexpr u32 kBatch = 32;
  SourceId batch[kBatch];
  u32 total = 0;
  while (true) {
    u32 count = 0;
    unit.each_present_entry([&](SourceId source, const EntryState&) {
      const Requester* requester = find_requester(source);
      if (count < kBatch && !(requester && requester->attached.load())) batch[count++] = source;
    });
    bool blocked = true;
    for (u32 i = 0; i < count; ++i) {
      quarantine_entry(unit, batch[i], why);
      blocked = blocked && !unit.read_entry(batch[i]).present;
    }
    total += count;
    if (!blocked) {
      // It would be met again for ever.
      note_failure(unit);
      log(machine(), LogLevel::Error, Line() << "iommu: unit at " << unit.info().base << ": entries stay present");
      return total;
    }
    if (count < kBatch) return total;
  }
}

void Iommu::quarantine_unit(IommuUnit& unit, std::string_view why) {
  UnitSlot* slot = slot_of(unit);
  if (!slot || slot->quarantined.exchange(true)) return;
  log(machine(), LogLevel::Error, Line() << "iommu: unit at " << unit.info().base << " quarantined: " << why);
  for (Group* group = next_group(nullptr); group; group = next_group(group)) {
    if (&group->unit_ != &unit) continue;
    MutexGuard guard(group->lock_);
    if (group->ownership_ != Ownership::Quarantined) group->quarantine_locked(why);
  }
  static_cast<void>(quarantine_unknown_entries(unit, why));
}

}  // namespace perdure
