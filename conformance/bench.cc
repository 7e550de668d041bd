#include "conformance/bench.h"

#include "core/base/hw.h"

namespace perdure::conformance {

using namespace vtd;

namespace {
constexpr u64 kPage = perdure::kPageSize;
constexpr u64 kLow32 = 0xFFFF'FFFF;
// Present, with reserved bits set in every kind of entry, and not silent.
constexpr u64 kPoison = 0xDEAD'BEEF'DEAD'BEED;
}  // namespace

Bench::Bench(Hardware& hardware) : hardware_(hardware) {
  cap_ = read64(kCap);
  ecap_ = read64(kEcap);
}

u64 offers(u64 cap, u64 ecap, unsigned requesters) {
  u64 n = kKeeps;
  const auto add = [&](bool has, u64 yes, u64 no = 0) { n |= has ? yes : no; };
  const u64 sagaw = cap >> 8 & 0x1F;
  add((sagaw & 2) != 0, kLevels3);
  add((sagaw & 4) != 0, kLevels4);
  add((sagaw & 8) != 0, kLevels5);
  add((sagaw & 0xE) != 0xE, kNotAllLevels);
  add((sagaw & 2) != 0 && mgaw(cap) > 39, kNarrowTables);
  add((cap & bit(34)) != 0, kHugePages, kNoHugePages);
  add((cap & bit(35)) != 0, kGiantPages);
  add((cap & bit(7)) != 0, kCachingMode, kNoCachingMode);
  add((cap & bit(39)) != 0, kPageFlush);
  add((cap & bit(4)) != 0, kWriteBuffers);
  add((cap & bit(63)) != 0, kFlushesAtRoot, kKeepsAtRoot);
  add((cap & 7) < 6, kNarrowDomains);
  add((cap & bit(5)) != 0, kProtects);
  add(records(cap) > 1, kManyRecords, kOneRecord);
  add((ecap & bit(0)) != 0, 0, kNotCoherent);
  add((ecap & bit(1)) != 0, kQueued);
  add((ecap & bit(2)) != 0, 0, kNoDeviceTlb);
  add((ecap & bit(3)) != 0, kRemaps, kCannotRemap);
  add((ecap & bit(6)) != 0, kPassesThrough);
  add((ecap & bit(7)) != 0, kSnoops, kCannotSnoop);
  const bool scalable = (ecap & bit(43)) != 0;
  add(scalable && (ecap & bit(46)) != 0, kScalable);
  add(!scalable, kLegacyOnly);
  add(scalable && (ecap & bit(45)) != 0, kTracksDirty);
  add(scalable && (ecap & bit(47)) != 0, kFirstStage);
  add((ecap & bit(52)) != 0, kAborts);
  add(requesters > 2, kThreeRequesters);
  return n;
}

unsigned Bench::widest() const {
  return (cap_ & bit(11)) != 0 ? 5 : (cap_ & bit(10)) != 0 ? 4 : 3;
}

unsigned Bench::narrowest() const {
  return (cap_ & bit(9)) != 0 ? 3 : (cap_ & bit(10)) != 0 ? 4 : 5;
}

// --- coming to rest -------------------------------------------------------------------------------------------------

bool Bench::rest() {
  problem_ = {};
  for (unsigned i = 0; i < hardware_.requester_count; ++i) finish(i);
  if (!rest_queue()) return false;
  bool good = true;
  for (u32 b : {kTranslation, kRemapping, kCompatible}) {
    if ((status() & b) != 0) good = command(b, false) && good;
  }
  good = flush_context(Grain::Global) && flush_iotlb(Grain::Global) && good;
  rest_faults();
  if ((offers() & kQueued) != 0) write64(kQueueTail, 0);

  next_page_ = hardware_.memory.value;
  // Physical page numbers that a wrong walk does not hit by chance.
  targets_ = pages(kTargets);
  mailbox_ = pages();
  mailbox_iova_ = kMailbox;
  status_word_ = pages();
  mode_ = Mode::Legacy;
  root_ = 0;
  for (unsigned i = 0; i < hardware_.requester_count; ++i) {
    if (!probes_[i].loaded) load_stamps(i);
  }
  return good;
}

// Whatever became of the queue: off. QEMU wants it empty, with a wait as the last descriptor.
bool Bench::rest_queue() {
  if (!queue_on()) return true;
  const bool usable = queue_ >= hardware_.memory.value && queue_ + queue_bytes_ <= next_page_;
  u64 head = read64(kQueueHead);
  if (usable) {
    const u32 cookie = next_cookie();
    put(head / slot_bytes(), wait_with_status(status_word_, cookie));
    write32(kFaultStatus, kQueueStopped | kDeviceTlbErrors);
    tail_ = (head + slot_bytes()) % queue_bytes_;
    ring();
    completed();
  } else {
    write64(kQueueTail, head);
    write32(kFaultStatus, kQueueStopped | kDeviceTlbErrors);
  }
  return stop_queue();
}

void Bench::rest_faults() {
  write32(kFaultControl, kMasked);
  write32(kFaultStatus, kOverflow | kQueueStopped | kDeviceTlbErrors);
  for (unsigned i = 0; i < records(); ++i) {
    if (record(i).found) clear_record(i);
  }
  write32(kFaultStatus, kOverflow);
  if ((offers() & kQueued) != 0) {
    write32(kDoneControl, kMasked);
    write32(kDone, 1);
  }
  last_fault_ = {};
}

// --- memory ---------------------------------------------------------------------------------------------------------

u64 Bench::pages(u64 count, u64 alignment) {
  const u64 at = align_up(next_page_, alignment);
  if (at + count * kPage > hardware_.memory.value + hardware_.memory_bytes) {
    require(false, "memory for tables");
    return hardware_.memory.value;
  }
  next_page_ = at + count * kPage;
  for (u64 i = 0; i < count * kPage; i += 8) store_only(at + i, 0);
  write_back(at, count * kPage);
  return at;
}

u64 Bench::load(u64 phys) const {
  return hw::load(reinterpret_cast<const u64*>(hardware_.direct_map + phys));
}

void Bench::store_only(u64 phys, u64 value) {
  hw::store(reinterpret_cast<u64*>(hardware_.direct_map + phys), value);
}

void Bench::store(u64 phys, u64 value) {
  store_only(phys, value);
  write_back(phys, 8);
}

void Bench::copy_page(u64 to, u64 from) {
  for (u64 i = 0; i < kPage; i += 8) store_only(to + i, load(from + i));
  write_back(to, kPage);
}

void Bench::poison(u64 page) {
  for (u64 i = 0; i < kPage; i += 8) store_only(page + i, kPoison);
  write_back(page, kPage);
}

// --- registers ------------------------------------------------------------------------------------------------------

bool Bench::command(u32 bit, bool on) {
  const u32 stated = status() & kPersistent;
  write32(kCommand, on ? stated | bit : stated & ~bit);
  const bool raised = on && bit != kWriteBuffer;
  return wait([&] { return ((status() & bit) != 0) == raised; });
}

bool Bench::set_root(u64 value) {
  write64(kRoot, value);
  return command(kSetRoot, true);
}

bool Bench::prepare(Mode mode) {
  mode_ = mode;
  root_ = pages();
  bool good = true;
  if (mode == Mode::Scalable) good = start_queue(0, true);
  good = good && set_root(root_value()) && flush_all();
  require(good, "a root table set");
  return good;
}

bool Bench::start(Mode mode) {
  const bool good = prepare(mode) && command(kTranslation, true);
  require(good, "translation on");
  return good;
}

// --- tables ---------------------------------------------------------------------------------------------------------

// The table that the entry at `slot` leads to, made when there is none.
u64 Bench::table_at(u64 slot, u64 flags) {
  if ((load(slot) & kReadWrite) == 0) store(slot, pages() | flags);
  return load(slot) & kAddress;
}

u64 Bench::root_entry_at(unsigned requester) const {
  const u16 id = source(requester);
  return root_ + (id >> 8) * 16 + (mode_ == Mode::Scalable && (id & 0x80) != 0 ? 8 : 0);
}

u64 Bench::context_at(unsigned requester) {
  const u16 id = source(requester);
  const u64 contexts = table_at(root_entry_at(requester), kPresent);
  return mode_ == Mode::Scalable ? contexts + (id & 0x7F) * 32 : contexts + (id & 0xFF) * 16;
}

u64 Bench::directory_at(unsigned requester, u32 pasid) {
  return table_at(context_at(requester), kPresent) + (pasid >> 6) * 8;
}

u64 Bench::pasid_at(unsigned requester, u32 pasid) {
  return table_at(directory_at(requester, pasid), kPresent) + (pasid & 63) * 64;
}

Table Bench::table(unsigned levels) {
  return {pages(), levels != 0 ? levels : widest()};
}

u64 Bench::entry_at(const Table& table, u64 iova, unsigned level) {
  const auto slot = [&](u64 at, unsigned l) { return at + (iova >> (12 + 9 * (l - 1)) & 0x1FF) * 8; };
  u64 at = table.top;
  for (unsigned l = table.levels; l > level; --l) at = table_at(slot(at, l), kReadWrite);
  return slot(at, level);
}

// The last store makes the entry present.
void Bench::attach(unsigned requester, const Table& table, u16 did, u64 flags) {
  const u64 width = table.levels - 2;
  if (mode_ == Mode::Legacy) {
    const u64 at = context_at(requester);
    store(at + 8, width | u64{did} << 8);
    store(at, table.top | flags);
  } else {
    const u64 at = pasid_at(requester);
    const bool snoops = (ecap_ & bit(48)) != 0;
    store(at + 8, did | (snoops ? kSnoopWalks : 0));
    store(at, table.top | width << 2 | kGrantSecond | flags);
  }
}

Table Bench::simple(unsigned requester, u16 did) {
  const Table made = table();
  map(made, kIova, target(0));
  attach(requester, made, did);
  return made;
}

// --- flushes --------------------------------------------------------------------------------------------------------

bool Bench::flush_context(Grain grain, u16 did, u16 source, unsigned function_mask) {
  if (queue_on()) return submit({context_flush(grain, did, source, function_mask)});
  write64(kContextFlush, bit(63) | u64(grain) << 61 | u64{function_mask} << 32 | u64{source} << 16 | did);
  return wait([&] { return (read64(kContextFlush) & bit(63)) == 0; });
}

bool Bench::flush_iotlb(Grain grain, u16 did, u64 iova, unsigned order, bool leaves_only) {
  if (queue_on()) return submit({iotlb_flush(grain, did, iova, order, leaves_only)});
  const u64 at = iotlb_at();
  if (grain == Grain::Fine) write64(at, iova | order | (leaves_only ? 0x40u : 0u));
  write64(at + 8, bit(63) | u64(grain) << 60 | bit(49) | bit(48) | u64{did} << 32);
  return wait([&] { return (read64(at + 8) & bit(63)) == 0; });
}

bool Bench::flush_all() {
  if (mode_ == Mode::Scalable) {
    return submit({context_flush(Grain::Global), pasid_flush_global(), iotlb_flush(Grain::Global)});
  }
  return flush_context(Grain::Global) && flush_iotlb(Grain::Global);
}

// --- the queue ------------------------------------------------------------------------------------------------------

bool Bench::start_queue(unsigned order, bool wide) {
  return start_queue_at(pages(u64{1} << order), order, wide);
}

bool Bench::start_queue_at(u64 base, unsigned order, bool wide) {
  queue_ = base;
  queue_bytes_ = kPage << order;
  wide_ = wide;
  tail_ = 0;
  write64(kQueueTail, 0);
  write64(kQueueAddress, base | (wide ? 0x800 : 0) | order);
  const bool on = command(kQueue, true);
  require(on, "a queue");
  return on;
}

void Bench::put(u64 n, const Descriptor& d) {
  const u64 at = queue_ + n * slot_bytes();
  store(at, d.q0);
  store(at + 8, d.q1);
  if (wide_) {
    store(at + 16, d.q2);
    store(at + 24, d.q3);
  }
}

void Bench::push(const Descriptor& d) {
  put(tail_ / slot_bytes(), d);
  tail_ = (tail_ + slot_bytes()) % queue_bytes_;
}

bool Bench::submit(std::initializer_list<Descriptor> descriptors) {
  for (const Descriptor& d : descriptors) push(d);
  push(wait_with_status(status_word_, next_cookie()));
  ring();
  return completed();
}

bool Bench::completed(u64 limit_ns) {
  return wait([&] { return (load(status_word_) & kLow32) == cookie_; }, limit_ns);
}

bool Bench::stop_queue() {
  const u32 stated = status() & kPersistent;
  write32(kCommand, stated & ~kQueue);
  return wait([&] { return !queue_on(); }, 1'000'000);
}

// --- faults ---------------------------------------------------------------------------------------------------------

Fault Bench::record(unsigned i) {
  Fault f;
  f.low = read64(record_at(i));
  f.high = read64(record_at(i) + 8);
  f.found = (f.high & bit(63)) != 0;
  f.reason = static_cast<u8>(f.high >> 32);
  f.source = static_cast<u16>(f.high);
  f.page = f.low & ~u64{0xFFF};
  f.of_read = (f.high & bit(62)) != 0;
  return f;
}

Fault Bench::take_fault() {
  const u32 now = fault_status();
  Fault taken;
  if ((now & kPending) != 0) {
    // FRI stays where the first one was.
    const unsigned first = now >> 8 & 0xFF;
    for (unsigned i = 0; i < records() && !taken.found; ++i) {
      const unsigned at = (first + i) % records();
      taken = record(at);
      if (taken.found) clear_record(at);
    }
  }
  if ((now & kOverflow) != 0) write32(kFaultStatus, kOverflow);
  if (taken.found) last_fault_ = taken;
  return taken;
}

Observation Bench::fault_of(unsigned requester, u64 iova, bool of_read) {
  const Fault f = take_fault();
  if (!f.found) return lost();
  const bool right = f.source == source(requester) && f.page == (iova & ~u64{0xFFF}) && f.of_read == of_read &&
                     (f.high & bit(28)) == 0;
  return right ? faults(f.reason) : Observation{What::Wrong, f.reason};
}

u8 Bench::fresh_vector() {
  require(next_vector_ < 0xEF, "a vector that was not used yet");
  return next_vector_++;
}

u8 Bench::aim(u64 control, bool unmask) {
  const u8 vector = fresh_vector();
  const MsiTarget to = message(vector);
  write32(control, kMasked);
  write32(control + 4, to.data);
  write32(control + 8, static_cast<u32>(to.address));
  write32(control + 12, static_cast<u32>(to.address >> 32));
  if (unmask) write32(control, 0);
  return vector;
}

}  // namespace perdure::conformance
