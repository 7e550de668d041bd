#include "machine/board/streamer.h"

#include <algorithm>
#include <numeric>

#include "machine/board/record.h"

namespace perdure::board {
namespace {

constexpr u64 kSecond = 1'000'000'000;

// Registers: 8 bytes apart, accessed whole or by halves.
constexpr u64 kId = 0x00;
constexpr u64 kCapabilities = 0x08;
constexpr u64 kControl = 0x10;
constexpr u64 kIrqStatus = 0x18;
constexpr u64 kTime = 0x20;
constexpr u64 kMemoryAddress = 0x28;
constexpr u64 kMemoryData = 0x30;
constexpr u64 kTotals = 0x40;
constexpr u64 kMessages = 0x400;
constexpr u64 kRings = 0x1000;
constexpr u64 kRingStride = 0x100;

constexpr u64 kRingControl = 0x00;
constexpr u64 kRingStatus = 0x08;
constexpr u64 kRingBase = 0x10;
constexpr u64 kRingLength = 0x18;
constexpr u64 kRingSlots = 0x20;
constexpr u64 kRingSeed = 0x28;
constexpr u64 kRingRate = 0x30;
constexpr u64 kRingIrqEvery = 0x38;
constexpr u64 kRingSource = 0x40;
constexpr u64 kRingSlotIndex = 0x48;
constexpr u64 kRingSlotIova = 0x50;
constexpr u64 kRingSequence = 0x58;
constexpr u64 kRingCursor = 0x60;
constexpr u64 kRingFailedIova = 0x68;
constexpr u64 kRingGeneration = 0x70;
constexpr u64 kRingCounters = 0x80;

constexpr u64 kRun = 1 << 0;
constexpr u64 kRead = 1 << 1;
constexpr u64 kIrqEnable = 1 << 2;
constexpr u64 kVectorMask = 0xFF00;
constexpr u64 kControlMask = kRun | kRead | kIrqEnable | kVectorMask;
constexpr u64 kRunning = 1 << 0;
constexpr u64 kConfigError = 1 << 1;
constexpr u64 kLastFailed = 1 << 2;
constexpr u64 kCauseShift = 8;

constexpr u64 kIdValue = 0x0000'0001'4D52'5453;  // version 1, "STRM"
constexpr u64 kSourceProgram = u64{1} << 24;

}  // namespace

// --- slots -----------------------------------------------------------------------------------------------------------

SlotPlan::SlotPlan(u64 base, u64 length, u32 slots, u64 seed)
    : base_(base), lines_(length / kRecordBytes), slots_(slots), seed_(seed) {
  stride_ = slots == 1 ? 1 : static_cast<u32>(mix64(seed ^ 0x5354'5249'4445) % slots);
  while (stride_ == 0 || std::gcd(stride_, slots) != 1) stride_ = stride_ + 1 >= slots ? 1 : stride_ + 1;
}

u64 SlotPlan::iova(u32 slot) const {
  // lines_ <= 2^42 and slot < 2^20, so nothing overflows.
  const u64 first = lines_ * slot / slots_;
  const u64 end = lines_ * (u64{slot} + 1) / slots_;
  return base_ + (first + mix64(seed_ + slot) % (end - first)) * kRecordBytes;
}

// --- registers -------------------------------------------------------------------------------------------------------

Streamer::Streamer(std::string name, Bdf home, const StreamerConfig& config, DeviceBus& bus)
    : Device(std::move(name), home, bus),
      streamer_(config),
      rings_(config.rings),
      plans_(config.rings),
      seen_(config.rings) {
  set_ids(0x1234, 0x5354, 1, 0x088000, 0x1234, 0x0001);
  add_bar(0, u64{16} << 10, true);
  add_bar(2, u64{4} << 10, true);
  if (config.memory != 0) add_memory_bar(kMemoryBar, config.memory);
  add_msi_capability();
  add_msix_capability(2, config.vectors);
}

u64 Streamer::read_register(unsigned bar, u64 offset, unsigned width) {
  if (bar != 0 || (width != 4 && width != 8) || offset % width != 0) return Device::read_register(bar, offset, width);
  const u64 word = load_word(offset & ~u64{7});
  return width == 8 ? word : word >> (8 * (offset & 4)) & 0xFFFF'FFFF;
}

void Streamer::write_register(unsigned bar, u64 offset, unsigned width, u64 value) {
  if (bar != 0 || (width != 4 && width != 8) || offset % width != 0) return;
  const u64 at = offset & ~u64{7};
  if (width == 4) {
    // The other half keeps its value; bits that clear by writing 1 must see zeros there.
    const unsigned shift = 8 * (offset & 4);
    const u64 other = at == kIrqStatus ? 0 : load_word(at) & ~(u64{0xFFFF'FFFF} << shift);
    value = other | (value & 0xFFFF'FFFF) << shift;
  }
  store_word(at, value);
}

u64 Streamer::load_word(u64 offset) {
  if (offset >= kRings) {
    const u64 index = (offset - kRings) / kRingStride;
    return index < rings_.size() ? load_ring(rings_[index], (offset - kRings) % kRingStride) : 0;
  }
  if (offset >= kTotals && offset < kTotals + 8 * kCounters) return totals_[(offset - kTotals) / 8];
  if (offset >= kMessages && offset < kMessages + 8 * messages_.size()) return messages_[(offset - kMessages) / 8];
  switch (offset) {
    case kId: return kIdValue;
    case kCapabilities: return rings_.size() | u64{streamer_.vectors} << 8 | u64{number()} << 16;
    case kIrqStatus: return irq_status_;
    case kTime: return bus_.now_ns();
    case kMemoryAddress: return memory_address_;
    case kMemoryData:
      return memory_address_ < bar(kMemoryBar).size ? memory_bars_.read(kMemoryBar, memory_address_, 8) : ~u64{0};
    default: return 0;
  }
}

void Streamer::store_word(u64 offset, u64 value) {
  if (offset >= kRings) {
    const u64 index = (offset - kRings) / kRingStride;
    if (index < rings_.size()) store_ring(static_cast<u8>(index), (offset - kRings) % kRingStride, value);
    return;
  }
  if (offset == kMemoryAddress) memory_address_ = value & ~u64{7};
  if (offset == kMemoryData && memory_address_ < bar(kMemoryBar).size) {
    memory_bars_.write(kMemoryBar, memory_address_, 8, value);
  }
  if (offset == kIrqStatus) irq_status_ &= ~value;
  if (offset == kControl && (value & 1) != 0) reset();
}

u64 Streamer::load_ring(const Ring& r, u64 offset) const {
  if (offset >= kRingCounters && offset < kRingCounters + 8 * kCounters)
    return r.counters[(offset - kRingCounters) / 8];
  switch (offset) {
    case kRingControl: return r.control;
    case kRingStatus: return r.status;
    case kRingBase: return r.base;
    case kRingLength: return r.length;
    case kRingSlots: return r.slots;
    case kRingSeed: return r.seed;
    case kRingRate: return r.rate;
    case kRingIrqEvery: return r.irq_every;
    case kRingSource: return r.source;
    case kRingSlotIndex: return r.slot_index;
    case kRingSlotIova:
      if (!sound(r) || r.slot_index >= r.slots) return ~u64{0};
      return SlotPlan(r.base, r.length, static_cast<u32>(r.slots), r.seed).iova(static_cast<u32>(r.slot_index));
    case kRingSequence: return r.sequence;
    case kRingCursor: return r.cursor;
    case kRingFailedIova: return r.last_failed_iova;
    case kRingGeneration: return r.generation;
    default: return 0;
  }
}

void Streamer::store_ring(u8 index, u64 offset, u64 value) {
  Ring& r = rings_[index];
  const bool running = (r.status & kRunning) != 0;
  if (offset == kRingControl) {
    value &= kControlMask;
    // The direction belongs to the plan.
    if (running) value = (value & ~kRead) | (r.control & kRead);
    if (((value ^ r.control) & kRead) != 0) r.changed = 1;
    r.control = value;
    if ((value & kRun) != 0 && !running) start(index);
    if ((value & kRun) == 0 && running) stop(index);
    return;
  }
  if (offset == kRingSlotIndex) r.slot_index = value;
  if (offset == kRingIrqEvery) r.irq_every = value;
  if (running) return;
  u64* plan = offset == kRingBase     ? &r.base
              : offset == kRingLength ? &r.length
              : offset == kRingSlots  ? &r.slots
              : offset == kRingSeed   ? &r.seed
              : offset == kRingSource ? &r.source
                                      : nullptr;
  if (plan != nullptr && *plan != value) {
    *plan = value;
    r.changed = 1;
  }
  if (offset == kRingRate) r.rate = value;
}

// --- starting and stopping -------------------------------------------------------------------------------------------

bool Streamer::sound(const Ring& r) {
  return r.base % kRecordBytes == 0 && r.length % kRecordBytes == 0 && r.length != 0 && r.length <= kMaxLength &&
         !range_overflows(r.base, r.length) && r.slots != 0 && r.slots <= kMaxSlots &&
         r.slots <= r.length / kRecordBytes && r.rate <= kMaxRate;
}

bool Streamer::any_running() const {
  return std::any_of(rings_.begin(), rings_.end(), [](const Ring& r) { return (r.status & kRunning) != 0; });
}

void Streamer::start(u8 index) {
  Ring& r = rings_[index];
  if (!sound(r) || r.rate == 0) {
    r.status = kConfigError;
    r.control &= ~kRun;
    return;
  }
  const auto slots = static_cast<u32>(r.slots);
  if (r.changed != 0) {
    r.changed = 0;
    r.generation = ++generations_;
    r.sequence = 0;
    r.cursor = 0;
    plans_[index] = SlotPlan(r.base, r.length, slots, r.seed);
    const bool reads = (r.control & kRead) != 0;
    seen_[index].assign(reads ? slots : 0, 0);
    ledger_.ring_configured(index, r.generation, reads ? 0 : slots);
  }
  r.status = kRunning;
  r.origin_ns = bus_.now_ns();
  r.issued = 0;
  ledger_.set_running(true, r.origin_ns);
}

void Streamer::stop(u8 index) {
  rings_[index].status &= ~kRunning;
  if (!any_running()) ledger_.set_running(false, bus_.now_ns());
}

void Streamer::reset() {
  for (Ring& r : rings_) r = Ring{};
  totals_ = {};
  irq_status_ = 0;
  memory_address_ = 0;
  ledger_.set_running(false, bus_.now_ns());
}

// --- time ------------------------------------------------------------------------------------------------------------

u64 Streamer::due(const Ring& r, u64 now_ns) const {
  // advance() keeps the distance to the origin near a second.
  const u64 elapsed = now_ns - r.origin_ns;
  return elapsed / kSecond * r.rate + elapsed % kSecond * r.rate / kSecond;
}

u64 Streamer::next_due_ns() const {
  u64 next = ~u64{0};
  for (const Ring& r : rings_) {
    if ((r.status & kRunning) == 0) continue;
    next = std::min(next, r.origin_ns + ((r.issued + 1) * kSecond + r.rate - 1) / r.rate);
  }
  return next;
}

void Streamer::advance(u64 now_ns) {
  for (usize i = 0; i < rings_.size(); ++i) {
    Ring& r = rings_[i];
    if ((r.status & kRunning) == 0 || now_ns <= r.origin_ns) continue;
    const u64 until = due(r, now_ns);
    u64 n = until - r.issued;
    // What fell due long ago (5 ms) is not made up for: a device has no such buffer.
    const u64 burst = std::max<u64>(64, r.rate / 200);
    if (n > burst) {
      count_not_done(r, Cause::NotScheduled, n - burst);
      n = burst;
    }
    for (; n > 0; --n) transfer(static_cast<u8>(i), now_ns);
    r.issued = until;
    // Whole seconds move into the origin.
    const u64 seconds = r.issued / r.rate;
    r.origin_ns += seconds * kSecond;
    r.issued -= seconds * r.rate;
  }
}

// --- transfers -------------------------------------------------------------------------------------------------------

void Streamer::count(Ring& ring, Counter counter, u64 n) {
  ring.counters[counter] += n;
  totals_[counter] += n;
}

void Streamer::count_not_done(Ring& ring, Cause cause, u64 n) {
  static constexpr Counter kOf[kCauses] = {kNotScheduled, kFaulted, kBlocked, kBusMasterOff, kUnbacked};
  count(ring, kOf[static_cast<usize>(cause)], n);
  ledger_.not_done(cause, n);
}

void Streamer::transfer(u8 index, u64 now_ns) {
  Ring& r = rings_[index];
  const u32 slot = r.cursor;
  r.cursor = plans_[index].next(slot);
  const u64 iova = plans_[index].iova(slot);
  const DmaResult result =
      (r.control & kRead) != 0 ? read_slot(index, slot, iova) : write_slot(index, slot, iova, now_ns);
  if (!result.done) {
    r.last_failed_iova = iova;
    r.status = kRunning | kLastFailed | (u64{static_cast<u8>(result.cause)} + 1) << kCauseShift;
    count_not_done(r, result.cause, 1);
    return;
  }
  r.status = kRunning;
  count(r, kDone);
  ledger_.done(now_ns);
  if (r.irq_every == 0 || ++r.since_irq < r.irq_every) return;
  r.since_irq = 0;
  irq_status_ |= u64{1} << index;
  if ((r.control & kIrqEnable) != 0 && raise(static_cast<unsigned>((r.control & kVectorMask) >> 8))) {
    count(r, kInterrupts);
  }
}

DmaResult Streamer::write_slot(u8 index, u32 slot, u64 iova, u64 now_ns) {
  Ring& r = rings_[index];
  Record record;
  record.device = number();
  record.ring = index;
  record.slot = slot;
  record.sequence = r.sequence + 1;
  record.time_ns = now_ns;
  record.iova = iova;
  record.generation = r.generation;
  record.seal();
  const std::array<u64, 8> words = record.words();
  const DmaResult result = bus_.dma_write(*this, iova, std::as_bytes(std::span(words)));
  if (!result.done) return result;
  ++r.sequence;
  ledger_.wrote(index, slot, {record.sequence, record.checksum, iova, result.phys});
  return result;
}

DmaResult Streamer::read_slot(u8 index, u32 slot, u64 iova) {
  DmaResult result;
  // A program may be in the middle of writing the record: its words are atomic, the record is not.
  for (unsigned attempt = 0; attempt < 3; ++attempt) {
    std::array<u64, 8> words{};
    result = bus_.dma_read(*this, iova, std::as_writable_bytes(std::span(words)));
    if (!result.done) return result;
    const Record record = Record::from(words);
    const bool empty = std::all_of(words.begin(), words.end(), [](u64 w) { return w == 0; });
    if (!plausible(index, slot, record, empty)) continue;
    ++rings_[index].sequence;
    return result;
  }
  ++rings_[index].sequence;
  count(rings_[index], kReadErrors);
  ++ledger_.now().read_errors;
  return result;
}

bool Streamer::plausible(u8 index, u32 slot, const Record& record, bool empty) {
  const Ring& r = rings_[index];
  const auto source_device = static_cast<u16>(r.source);
  const auto source_ring = static_cast<u8>(r.source >> 16);
  const bool program = (r.source & kSourceProgram) != 0;
  const bool identity = record.valid() && record.device == source_device && record.ring == source_ring &&
                        record.slot == slot &&
                        record.kind == static_cast<u8>(program ? RecordKind::Program : RecordKind::Device);
  u64& seen = seen_[index][slot];
  if (!program && source_device == number() && source_ring < rings_.size()) {
    // A ring of this device: what is there must be the very last record, since both run under one lock.
    const Ring& writer = rings_[source_ring];
    const SlotEntry* last = ledger_.slot(source_ring, writer.generation, slot);
    if (last == nullptr || last->sequence == 0) return true;  // nothing to compare with yet
    return identity && record.sequence == last->sequence && record.checksum == last->checksum;
  }
  // Elsewhere: nothing older than what was seen before.
  if (seen == 0 && empty) return true;
  if (!identity || record.sequence < seen) return false;
  seen = record.sequence;
  return true;
}

// --- files -----------------------------------------------------------------------------------------------------------

void Streamer::save_state(StateWriter& out) const {
  out.put<u64>(rings_.size());
  for (usize i = 0; i < rings_.size(); ++i) {
    out.put(rings_[i]);
    out.blob(std::as_bytes(std::span(seen_[i])));
  }
  out.put(totals_);
  out.put(irq_status_);
  out.put(memory_address_);
  out.put(messages_);
  out.put(generations_);
}

void Streamer::load_state(StateReader& in) {
  if (in.get<u64>() != rings_.size()) throw StateError("saved machine: number of rings");
  for (usize i = 0; i < rings_.size(); ++i) {
    rings_[i] = in.get<Ring>();
    const std::span<const std::byte> seen = in.blob();
    seen_[i].assign(seen.size() / sizeof(u64), 0);
    if (!seen.empty()) std::memcpy(seen_[i].data(), seen.data(), seen_[i].size() * sizeof(u64));
    const Ring& r = rings_[i];
    if (sound(r)) plans_[i] = SlotPlan(r.base, r.length, static_cast<u32>(r.slots), r.seed);
    const bool reads = (r.control & kRead) != 0;
    if ((r.status & kRunning) != 0 &&
        (!sound(r) || r.rate == 0 || r.cursor >= r.slots || (reads && seen_[i].size() != r.slots))) {
      throw StateError("saved machine: a running ring without a plan");
    }
  }
  totals_ = in.get<Counters>();
  irq_status_ = in.get<u64>();
  memory_address_ = in.get<u64>();
  messages_ = in.get<std::array<u64, 64>>();
  generations_ = in.get<u32>();
}

}  // namespace perdure::board
