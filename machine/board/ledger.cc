#include "machine/board/ledger.h"

#include <algorithm>

namespace perdure::board {

void DeviceLedger::cut(u64 iova, u64 length) {
  const u64 last = iova + (length - 1);
  auto it = intents_.upper_bound(iova);
  if (it != intents_.begin()) --it;
  while (it != intents_.end() && it->first <= last) {
    const Intent old = it->second;
    const u64 old_last = old.iova + (old.length - 1);
    if (old_last < iova) {
      ++it;
      continue;
    }
    it = intents_.erase(it);
    const u64 from = std::max(old.iova, iova);
    const u64 to = std::min(old_last, last);
    Intent gone = old;
    gone.iova = from;
    gone.length = to - from + 1;
    gone.offset = old.offset + (from - old.iova);
    if (std::find(former_.begin(), former_.end(), gone) == former_.end()) former_.push_back(gone);
    if (old.iova < iova) {
      Intent head = old;
      head.length = iova - old.iova;
      intents_[head.iova] = head;
    }
    if (old_last > last) {
      Intent tail = old;
      tail.iova = last + 1;
      tail.length = old_last - last;
      tail.offset = old.offset + (tail.iova - old.iova);
      it = intents_.insert({tail.iova, tail}).first;
      ++it;
    }
  }
}

bool DeviceLedger::declare(const Intent& intent) {
  if (intent.length == 0 || range_overflows(intent.iova, intent.length) ||
      range_overflows(intent.offset, intent.length) || (intent.iova | intent.length | intent.offset) % kRecordBytes) {
    return false;
  }
  cut(intent.iova, intent.length);
  intents_[intent.iova] = intent;
  return true;
}

void DeviceLedger::withdraw(u64 iova, u64 length) {
  if (length == 0) return;
  if (range_overflows(iova, length)) length = u64{0} - iova;
  cut(iova, length);
}

std::optional<Place> DeviceLedger::place_of(u64 iova) const {
  auto it = intents_.upper_bound(iova);
  if (it == intents_.begin()) return std::nullopt;
  const Intent& i = (--it)->second;
  const u64 into = iova - i.iova;
  if (into >= i.length) return std::nullopt;
  return Place{i.host_id, i.offset + into, i.length - into, i.access};
}

bool DeviceLedger::ever_intended(u64 iova, u64 host_id, u64 offset) const {
  const auto covers = [&](const Intent& i) {
    return i.host_id == host_id && iova >= i.iova && iova - i.iova < i.length && i.offset + (iova - i.iova) == offset;
  };
  return std::any_of(intents_.begin(), intents_.end(), [&](const auto& entry) { return covers(entry.second); }) ||
         std::any_of(former_.begin(), former_.end(), covers);
}

void DeviceLedger::rename_hosts(const std::map<u64, u64>& to_new) {
  const auto rename = [&](Intent& i) {
    const auto it = to_new.find(i.host_id);
    if (it != to_new.end()) i.host_id = it->second;
  };
  for (auto& [iova, intent] : intents_) rename(intent);
  for (Intent& i : former_) rename(i);
}

void DeviceLedger::ring_configured(u8 ring, u32 generation, u32 slots) {
  RingLedger& r = rings_[ring];
  r.generation = generation;
  r.slots.assign(slots, SlotEntry{});
}

const SlotEntry* DeviceLedger::slot(u8 ring, u32 generation, u32 slot) const {
  const auto it = rings_.find(ring);
  if (it == rings_.end() || it->second.generation != generation || slot >= it->second.slots.size()) return nullptr;
  return &it->second.slots[slot];
}

void DeviceLedger::enter_phase(Phase next, u64 now_ns) {
  close_gap(now_ns);
  // Another update begins: its numbers are its own.
  if (next == Phase::Before) results_ = {};
  phase_ = next;
}

void DeviceLedger::done(u64 now_ns) {
  ++now().done;
  close_gap(now_ns);
  last_done_ns_ = now_ns;
}

void DeviceLedger::set_running(bool running, u64 now_ns) {
  if (running && !running_) last_done_ns_ = now_ns;
  if (!running && running_) close_gap(now_ns);
  running_ = running;
}

void DeviceLedger::close_gap(u64 now_ns) {
  if (!running_ || now_ns < last_done_ns_) return;
  now().longest_gap_ns = std::max(now().longest_gap_ns, now_ns - last_done_ns_);
}

void DeviceLedger::save(StateWriter& out) const {
  out.section("ledger");
  out.put(phase_);
  out.put(results_);
  out.put<u8>(running_ ? 1 : 0);
  out.put(last_done_ns_);
  out.put<u64>(intents_.size());
  for (const auto& [iova, intent] : intents_) out.put(intent);
  out.blob(std::as_bytes(std::span(former_)));
  out.put<u64>(rings_.size());
  for (const auto& [ring, r] : rings_) {
    out.put(ring);
    out.put(r.generation);
    out.blob(std::as_bytes(std::span(r.slots)));
  }
}

namespace {
template <class T>
std::vector<T> vector_from(std::span<const std::byte> bytes) {
  if (bytes.size() % sizeof(T) != 0) throw StateError("saved machine: a list of the ledger is cut");
  std::vector<T> v(bytes.size() / sizeof(T));
  if (!v.empty()) std::memcpy(v.data(), bytes.data(), bytes.size());
  return v;
}
}  // namespace

void DeviceLedger::load(StateReader& in) {
  in.section("ledger");
  phase_ = in.get<Phase>();
  if (static_cast<usize>(phase_) >= kPhases) throw StateError("saved machine: no such phase");
  results_ = in.get<std::array<PhaseResult, kPhases>>();
  running_ = in.get<u8>() != 0;
  last_done_ns_ = in.get<u64>();
  intents_.clear();
  for (u64 n = in.get<u64>(); n > 0; --n) {
    const auto intent = in.get<Intent>();
    intents_[intent.iova] = intent;
  }
  former_ = vector_from<Intent>(in.blob());
  rings_.clear();
  for (u64 n = in.get<u64>(); n > 0; --n) {
    const auto ring = in.get<u8>();
    RingLedger& r = rings_[ring];
    r.generation = in.get<u32>();
    r.slots = vector_from<SlotEntry>(in.blob());
  }
}

}  // namespace perdure::board
