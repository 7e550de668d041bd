#include "machine/board/auditor.h"

#include <algorithm>

namespace perdure::board {
namespace {

constexpr u32 kBatch = 256;  // slots judged under one hold of a device's lock
constexpr usize kMaxFindings = 256;
constexpr usize kMaxStrays = 1 << 20;  // more are not told apart any more

}  // namespace

bool Auditor::load_record(u64 phys, Record& record) const {
  std::array<u64, 8> words{};
  if (!memory_.read(phys, std::as_writable_bytes(std::span(words)))) return false;
  record = Record::from(words);
  return true;
}

void Auditor::finding(Finding::Kind kind, const Device& device, u8 ring, u32 slot, u64 sequence, u64 iova, u64 expected,
                      u64 found) {
  if (report_.findings.size() >= kMaxFindings) return;
  report_.findings.push_back({kind, device.home(), ring, slot, iova, expected, found, sequence});
}

AuditReport Auditor::run() {
  for (usize i = 0; i < bus_.size(); ++i) {
    Device& d = bus_.at(i);
    if (dynamic_cast<Bridge*>(&d) != nullptr) continue;
    {
      const DeviceGuard guard(d.lock());
      PhaseResult& now = d.ledger().now();
      now.slots_checked = now.lost = now.corrupted = now.duplicated = now.strays = now.superseded = 0;
      d.ledger().close_gap(now_ns_);
    }
    check_slots(d);
  }
  settle_suspects();
  search();
  settle_strays();
  for (usize i = 0; i < bus_.size(); ++i) {
    Device& d = bus_.at(i);
    if (dynamic_cast<Bridge*>(&d) != nullptr) continue;
    const DeviceGuard guard(d.lock());
    DeviceResult result{d.name(), d.home(), {}};
    for (usize p = 0; p < kPhases; ++p) result.phases[p] = d.ledger().result(static_cast<Phase>(p));
    report_.devices.push_back(result);
  }
  return std::move(report_);
}

// --- slots -----------------------------------------------------------------------------------------------------------

void Auditor::check_slots(Device& device) {
  std::vector<u8> rings;
  {
    const DeviceGuard guard(device.lock());
    for (const auto& [ring, ledger] : device.ledger().rings()) rings.push_back(ring);
  }
  for (u8 ring : rings) {
    u32 generation = 0;
    for (u32 from = 0;; from += kBatch) {
      const DeviceGuard guard(device.lock());
      const RingLedger& r = device.ledger().rings().at(ring);
      if (from == 0) generation = r.generation;
      // A ring that started over meanwhile has nothing old to judge.
      if (r.generation != generation || from >= r.slots.size()) break;
      const u32 to = std::min<u32>(from + kBatch, static_cast<u32>(r.slots.size()));
      for (u32 slot = from; slot < to; ++slot) {
        if (r.slots[slot].sequence != 0) check_slot(device, ring, slot, r.slots[slot]);
      }
    }
  }
}

void Auditor::check_slot(Device& device, u8 ring, u32 slot, const SlotEntry& entry) {
  DeviceLedger& ledger = device.ledger();
  // Without an intent (never declared, or withdrawn) nobody says what should be there.
  const std::optional<Place> place = ledger.place_of(entry.iova);
  if (!place) return;
  PhaseResult& now = ledger.now();
  ++now.slots_checked;
  const std::optional<u64> phys = memory_.phys_of(place->host_id, place->offset);
  Record found;
  if (!phys || !load_record(*phys, found)) {
    ++now.lost;  // the memory itself is gone
    finding(Finding::Kind::Lost, device, ring, slot, entry.sequence, entry.iova, 0, 0);
    return;
  }
  if (found.valid()) {
    const bool same_slot = found.kind == static_cast<u8>(RecordKind::Device) && found.device == device.number() &&
                           found.ring == ring && found.slot == slot;
    if (same_slot && found.sequence == entry.sequence && found.checksum == entry.checksum) return;
    if (same_slot && found.sequence < entry.sequence) {
      ++now.lost;
      finding(Finding::Kind::Lost, device, ring, slot, entry.sequence, entry.iova, *phys, 0);
    } else {
      suspects_.push_back({&device, ring, slot, entry, *phys, found});
    }
    return;
  }
  const std::array<u64, 8> words = found.words();
  if (std::all_of(words.begin(), words.end(), [](u64 w) { return w == 0; })) {
    ++now.lost;
    finding(Finding::Kind::Lost, device, ring, slot, entry.sequence, entry.iova, *phys, 0);
  } else {
    ++now.corrupted;
    finding(Finding::Kind::Corrupted, device, ring, slot, entry.sequence, entry.iova, *phys, *phys);
  }
}

// A whole record of somebody else in a slot: legitimate if the other one was meant to write here, too.
void Auditor::settle_suspects() {
  for (const Suspect& s : suspects_) {
    bool superseded = false;
    Device* other = s.found.kind == static_cast<u8>(RecordKind::Device) ? bus_.by_home(Bdf(s.found.device)) : nullptr;
    if (other != nullptr) {
      const DeviceGuard guard(other->lock());
      const SlotEntry* last = other->ledger().slot(s.found.ring, s.found.generation, s.found.slot);
      const std::optional<Place> place = other->ledger().place_of(s.found.iova);
      const bool itself = other == s.device && s.found.ring == s.ring && s.found.slot == s.slot;
      superseded = !itself && last != nullptr && last->sequence >= s.found.sequence && place &&
                   memory_.phys_of(place->host_id, place->offset) == s.phys;
    }
    const DeviceGuard guard(s.device->lock());
    PhaseResult& now = s.device->ledger().now();
    if (superseded) {
      ++now.superseded;
    } else {
      ++now.corrupted;
      finding(Finding::Kind::Corrupted, *s.device, s.ring, s.slot, s.entry.sequence, s.entry.iova, s.phys, s.phys);
    }
  }
}

// --- everywhere else -------------------------------------------------------------------------------------------------

void Auditor::search() {
  for (usize i = 0; i < bus_.size(); ++i) {
    Device& d = bus_.at(i);
    const DeviceGuard guard(d.lock());
    if (!d.ledger().rings().empty()) intents_.push_back({&d, d.ledger().intents()});
  }
  if (intents_.empty()) return;
  std::vector<PhysRange> ranges;
  memory_.each_materialised_ram([&](PhysRange r) { ranges.push_back(r); });
  memory_.each_materialised_bank([&](const Bank&, PhysRange r) { ranges.push_back(r); });
  for (const PhysRange& r : ranges) {
    report_.scanned_bytes += r.length;
    memory_.find_lines(r, kRecordMagic, [this](u64 phys) { examine(phys); });
  }
}

void Auditor::examine(u64 phys) {
  Record record;
  if (strays_.size() >= kMaxStrays || !load_record(phys, record) || !record.valid() ||
      record.kind != static_cast<u8>(RecordKind::Device)) {
    return;
  }
  for (usize i = 0; i < intents_.size(); ++i) {
    if (intents_[i].device->number() != record.device) continue;
    const std::map<u64, Intent>& active = intents_[i].active;
    auto it = active.upper_bound(record.iova);
    if (it == active.begin()) return;
    const Intent& intent = (--it)->second;
    const u64 into = record.iova - intent.iova;
    if (into >= intent.length) return;
    if (memory_.phys_of(intent.host_id, intent.offset + into) == phys) return;  // where it belongs
    strays_.push_back({i, phys, record});
    return;
  }
}

void Auditor::settle_strays() {
  for (const Stray& s : strays_) {
    Device& device = *intents_[s.device].device;
    const DeviceGuard guard(device.lock());
    DeviceLedger& ledger = device.ledger();
    Record again;
    if (!load_record(s.phys, again) || again.words() != s.record.words()) continue;
    // Left from an earlier configuration of the ring, or from a place that was the right one at that time.
    const std::optional<Place> place = ledger.place_of(s.record.iova);
    if (ledger.slot(s.record.ring, s.record.generation, s.record.slot) == nullptr || !place) continue;
    const std::optional<u64> expected = memory_.phys_of(place->host_id, place->offset);
    if (expected == s.phys) continue;
    const std::optional<Bank> bank = memory_.bank_at(s.phys);
    if (bank && ledger.ever_intended(s.record.iova, bank->host_id, bank->offset + (s.phys - bank->base.value))) {
      continue;
    }
    Record there;
    const bool twice = expected && load_record(*expected, there) && there.words() == s.record.words();
    if (twice) {
      ++ledger.now().duplicated;
    } else {
      ++ledger.now().strays;
    }
    finding(twice ? Finding::Kind::Duplicated : Finding::Kind::Misdirected, device, s.record.ring, s.record.slot,
            s.record.sequence, s.record.iova, expected.value_or(0), s.phys);
  }
}

}  // namespace perdure::board
