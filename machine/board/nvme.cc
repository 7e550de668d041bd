#include "machine/board/nvme.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace perdure::board {
namespace {

constexpr u64 kReadyNs = 10'000;            // from "enable" to "ready"
constexpr u64 kAdminNs = 1'000;             // that an admin command takes
constexpr u64 kBurst = u64{1} << 20;        // bytes that one call of advance() moves, about
constexpr u64 kCommandCost = u64{4} << 10;  // at least that many count for each command
constexpr u64 kCommandBytes = 64;
constexpr u64 kCompletionBytes = 16;

constexpr u64 kCapabilities = 0x00;
constexpr u64 kVersion = 0x08;
constexpr u64 kMaskSet = 0x0C;
constexpr u64 kMaskClear = 0x10;
constexpr u64 kConfiguration = 0x14;
constexpr u64 kStatus = 0x1C;
constexpr u64 kAdminSizes = 0x24;
constexpr u64 kAdminSubmission = 0x28;
constexpr u64 kAdminCompletion = 0x30;
constexpr u64 kDoorbells = 0x1000;

// CAP: MQES, queues are contiguous, 7.5 s to become ready, NVM command set; pages of 4 KiB to 64 KiB.
constexpr u32 kMostPageSize = 4;
constexpr u32 capabilities_low(u32 entries) {
  return (entries - 1) | 1u << 16 | 15u << 24;
}
constexpr u32 kCapabilitiesHigh = 1u << 5 | kMostPageSize << 20;
constexpr u32 kVersion14 = 0x0001'0400;

constexpr u32 kEnable = 1 << 0;
constexpr u32 kShutdown = 3 << 14;
constexpr u32 kConfigurationMask = 0x00FF'FFF1;
constexpr u32 kReady = 1 << 0;
constexpr u32 kFatal = 1 << 1;
constexpr u32 kShutdownStatus = 3 << 2;
constexpr u32 kShutdownComplete = 2 << 2;

// Asynchronous events of type "error": what was wrong with a doorbell. The log page is the error log's.
constexpr u8 kNoSuchDoorbell = 0;
constexpr u8 kNoSuchEntry = 1;
constexpr u32 kErrorLog = 1 << 16;
constexpr u32 kEventIsThere = u32{1} << 31;  // in State::event alone

}  // namespace

Nvme::Nvme(std::string name, Bdf home, const NvmeConfig& config, DeviceBus& bus)
    : Device(std::move(name), home, bus),
      nvme_(config),
      submissions_(config.queues + 1),
      completions_(config.queues + 1),
      disk_(config.disk_bytes, config.contents) {
  set_ids(0x1B36, 0x0010, 2, 0x010802, 0x1AF4, 0x1100);
  add_bar(0, u64{16} << 10, true);
  add_bar(kTableBar, u64{4} << 10, true);
  add_msix_capability(kTableBar, config.queues + 1);
  stop_controller();
}

// --- registers -------------------------------------------------------------------------------------------------------

u64 Nvme::read_register(unsigned bar, u64 offset, unsigned width) {
  if (bar != 0 || (width != 4 && width != 8) || offset % width != 0) return Device::read_register(bar, offset, width);
  return width == 4 ? load(offset) : load(offset) | u64{load(offset + 4)} << 32;
}

void Nvme::write_register(unsigned bar, u64 offset, unsigned width, u64 value) {
  if (bar != 0 || (width != 4 && width != 8) || offset % width != 0) return;
  store(offset, static_cast<u32>(value));
  if (width == 8) store(offset + 4, static_cast<u32>(value >> 32));
}

u32 Nvme::load(u64 offset) const {
  const State& s = state_;
  switch (offset) {
    case kCapabilities: return capabilities_low(kMostEntries);
    case kCapabilities + 4: return kCapabilitiesHigh;
    case kVersion: return kVersion14;
    case kMaskSet:
    case kMaskClear: return s.interrupt_mask;
    case kConfiguration: return s.configuration;
    case kStatus: return s.status;
    case kAdminSizes: return s.admin_sizes;
    case kAdminSubmission: return static_cast<u32>(s.admin_submission);
    case kAdminSubmission + 4: return static_cast<u32>(s.admin_submission >> 32);
    case kAdminCompletion: return static_cast<u32>(s.admin_completion);
    case kAdminCompletion + 4: return static_cast<u32>(s.admin_completion >> 32);
    default: return 0;
  }
}

void Nvme::store(u64 offset, u32 value) {
  State& s = state_;
  if (offset >= kDoorbells) return ring((offset - kDoorbells) / 4, value);
  const auto half = [](u64& word, bool upper, u32 v) {
    word = upper ? (word & 0xFFFF'FFFF) | u64{v} << 32 : (word & ~u64{0xFFFF'FFFF}) | v;
  };
  switch (offset) {
    case kMaskSet: s.interrupt_mask |= value; return;
    case kMaskClear: s.interrupt_mask &= ~value; return;
    case kConfiguration: return configure(value & kConfigurationMask);
    default: break;
  }
  // Where the admin queues are is settled while the controller is off.
  if ((s.configuration & kEnable) != 0) return;
  switch (offset) {
    case kAdminSizes: s.admin_sizes = value & 0x0FFF'0FFF; break;
    case kAdminSubmission:
    case kAdminSubmission + 4: half(s.admin_submission, offset != kAdminSubmission, value); break;
    case kAdminCompletion:
    case kAdminCompletion + 4: half(s.admin_completion, offset != kAdminCompletion, value); break;
    default: break;
  }
}

void Nvme::configure(u32 value) {
  State& s = state_;
  const u32 old = s.configuration;
  if ((old & kEnable) != 0 && (value & kEnable) == 0) {
    stop_controller();
  } else if ((old & kEnable) == 0 && (value & kEnable) != 0) {
    s.ready_due_ns = bus_.now_ns() + kReadyNs;
    bus_.wake();
  }
  s.configuration = value;
  // Nothing is kept that would have to be written back first.
  if ((value & kShutdown) != 0 && (old & kShutdown) == 0) s.status |= kShutdownComplete;
  if ((value & kShutdown) == 0) s.status &= ~kShutdownStatus;
  note_work();
}

// Off: everything is forgotten but the registers of the admin queues (NVM Express 1.4, 7.3.2).
void Nvme::stop_controller() {
  State& s = state_;
  s.status = 0;
  s.ready_due_ns = ~u64{0};
  s.busy_until_ns = 0;
  s.next_queue = 0;
  s.event = s.event_masked = 0;
  s.features = {};
  s.features[0x04] = 0x157;  // K, over which the disk would be too hot
  submissions_.assign(submissions_.size(), Submission{});
  completions_.assign(completions_.size(), Completion{});
  pending_.clear();
  event_requests_.clear();
}

void Nvme::reset() {
  stop_controller();
  State fresh;
  fresh.features = state_.features;
  state_ = fresh;
  ledger_.set_running(false, bus_.now_ns());
}

u64 Nvme::page() const {
  return kPageSize << (state_.configuration >> 7 & 15);
}

void Nvme::become_ready() {
  State& s = state_;
  s.ready_due_ns = ~u64{0};
  const u32 commands = (s.admin_sizes & 0xFFF) + 1;
  const u32 answers = (s.admin_sizes >> 16) + 1;
  const u32 command_set = s.configuration >> 4 & 7;
  const u32 arbitration = s.configuration >> 11 & 7;
  const bool sound = commands >= 2 && answers >= 2 && command_set == 0 && arbitration == 0 &&
                     (s.configuration >> 7 & 15) <= kMostPageSize && s.admin_submission % page() == 0 &&
                     s.admin_completion % page() == 0;
  if (!sound) {
    s.status |= kFatal;
    return;
  }
  submissions_[0] = {.base = s.admin_submission, .entries = commands};
  completions_[0] = {.base = s.admin_completion, .entries = answers, .interrupts = 1};
  s.status |= kReady;
}

bool Nvme::working() const {
  return (state_.status & (kReady | kFatal | kShutdownStatus)) == kReady;
}

void Nvme::ring(u64 index, u32 value) {
  if (!working()) return;
  const u64 queue = index / 2;
  const bool answers = index % 2 != 0;
  const u32 entries = queue >= submissions_.size() ? 0
                      : answers                    ? completions_[queue].entries
                                                   : submissions_[queue].entries;
  if (entries == 0) return tell_error(kNoSuchDoorbell);
  if (value >= entries) return tell_error(kNoSuchEntry);
  (answers ? completions_[queue].head : submissions_[queue].tail) = value;
  bus_.wake();
}

// --- events ----------------------------------------------------------------------------------------------------------

void Nvme::tell_error(u8 info) {
  if ((state_.event & kEventIsThere) == 0) state_.event = kEventIsThere | kErrorLog | u32{info} << 8;
  tell_event();
}

// One request completes for each event, and none of a kind again before its log was read (NVM Express 1.4, 5.2).
void Nvme::tell_event() {
  State& s = state_;
  if ((s.event & kEventIsThere) == 0 || s.event_masked != 0 || event_requests_.empty() || !has_room(0)) return;
  const u16 id = event_requests_.front();
  event_requests_.erase(event_requests_.begin());
  s.event_masked = 1;
  post(0, id, nvme_status::kSuccess, std::exchange(s.event, 0) & ~kEventIsThere);
}

// --- the clock -------------------------------------------------------------------------------------------------------

bool Nvme::has_room(u32 queue, u32 answers) const {
  const Completion& c = completions_[submissions_[queue].completion];
  return (c.head + c.entries - c.tail - 1) % c.entries >= answers;
}

u64 Nvme::next_due_ns() const {
  if (!working()) return state_.ready_due_ns;
  if (pending_.size() < kMostPending) {
    for (const Submission& s : submissions_) {
      if (s.head != s.tail) return 0;
    }
  }
  for (const Pending& p : pending_) {
    if (has_room(p.queue)) return p.due_ns;
  }
  return ~u64{0};
}

void Nvme::advance(u64 now_ns) {
  if (now_ns >= state_.ready_due_ns) become_ready();
  for (u64 burst = 0; working() && burst < kBurst;) {
    fetch(now_ns);
    usize next = 0;
    while (next < pending_.size() && !has_room(pending_[next].queue)) ++next;
    if (next == pending_.size() || pending_[next].due_ns > now_ns) break;
    const Pending taken = pending_[next];
    pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(next));
    burst += taken.queue == 0 ? kCommandCost : std::max(kCommandCost, taken.command.blocks() * NvmeDisk::kBlock);
    serve(taken, now_ns);
  }
  if (working()) tell_event();
  note_work();
}

// From each queue one in turn, until the controller can hold no more.
void Nvme::fetch(u64 now_ns) {
  const auto queues = static_cast<u32>(submissions_.size());
  for (u32 empty = 0; working() && empty < queues && pending_.size() < kMostPending;) {
    const u32 queue = state_.next_queue;
    state_.next_queue = (queue + 1) % queues;
    empty = fetch_from(queue, now_ns) ? 0 : empty + 1;
  }
}

bool Nvme::fetch_from(u32 queue, u64 now_ns) {
  Submission& s = submissions_[queue];
  if (s.head == s.tail) return false;
  Pending p;
  const u64 at = s.base + u64{s.head} * kCommandBytes;
  const DmaResult r = bus_.dma_read(*this, at, std::as_writable_bytes(std::span(p.command.words)));
  if (!r.done) {
    read_refused();
    fail(r.cause);
    return false;
  }
  s.head = (s.head + 1) % s.entries;
  p.queue = queue;
  if (queue == 0) {
    p.due_ns = now_ns + kAdminNs;
  } else {
    p.due_ns = state_.busy_until_ns = std::max(now_ns, state_.busy_until_ns) + nvme_.command_ns;
  }
  const auto after = std::upper_bound(pending_.begin(), pending_.end(), p.due_ns,
                                      [](u64 due, const Pending& other) { return due < other.due_ns; });
  pending_.insert(after, p);
  return true;
}

void Nvme::serve(const Pending& p, u64 now_ns) {
  const Outcome outcome = p.queue == 0 ? admin(p.command) : io(p.command);
  if (!working() || outcome.held) return;
  post(p.queue, p.command.id(), outcome.status, outcome.result);
  if (outcome.status == nvme_status::kSuccess && working()) ledger_.done(now_ns);
}

// An answer, and the interrupt after it. There is room.
void Nvme::post(u32 queue, u16 id, u16 status, u32 result) {
  const Submission& s = submissions_[queue];
  Completion& c = completions_[s.completion];
  const std::array<u32, 4> words{result, 0, s.head | queue << 16, id | c.phase << 16 | u32{status} << 17};
  // The word with the phase is written last: what there is of the answer is there when software sees it.
  const DmaResult r = bus_.dma_write(*this, c.base + u64{c.tail} * kCompletionBytes, std::as_bytes(std::span(words)));
  if (!r.done) return fail(r.cause);
  if (++c.tail == c.entries) {
    c.tail = 0;
    c.phase ^= 1;
  }
  if (c.interrupts != 0) raise(c.vector);
}

// A queue that cannot be reached: software has to turn the controller off and on.
void Nvme::fail(Cause cause) {
  ledger_.not_done(cause);
  state_.status |= kFatal;
  pending_.clear();
}

// Gaps count while there is something to do.
void Nvme::note_work() {
  ledger_.set_running(!pending_.empty(), bus_.now_ns());
}

// --- files -----------------------------------------------------------------------------------------------------------

void Nvme::save_state(StateWriter& out) const {
  out.put(state_);
  out.blob(std::as_bytes(std::span(submissions_)));
  out.blob(std::as_bytes(std::span(completions_)));
  out.blob(std::as_bytes(std::span(pending_)));
  out.blob(std::as_bytes(std::span(event_requests_)));
  disk_.save(out);
}

void Nvme::load_state(StateReader& in) {
  const auto list = [&in]<class T>(std::vector<T>& to) {
    const std::span<const std::byte> bytes = in.blob();
    to.assign(bytes.size() / sizeof(T), T{});
    if (!to.empty()) std::memcpy(to.data(), bytes.data(), to.size() * sizeof(T));
  };
  state_ = in.get<State>();
  list(submissions_);
  list(completions_);
  list(pending_);
  list(event_requests_);
  const auto inside = [](const auto& q) {
    return q.entries == 0 ? (q.head | q.tail) == 0
                          : q.entries <= kMostEntries * 2 && q.head < q.entries && q.tail < q.entries;
  };
  bool sound = submissions_.size() == nvme_.queues + 1 && completions_.size() == nvme_.queues + 1 &&
               state_.next_queue < nvme_.queues + 1 && event_requests_.size() <= kMostEventRequests;
  for (const Completion& c : completions_) sound = sound && inside(c) && c.vector <= nvme_.queues;
  for (const Submission& s : submissions_) {
    sound = sound && inside(s) && s.completion < completions_.size() &&
            (s.entries == 0 || completions_[s.completion].entries != 0);
  }
  for (const Pending& p : pending_)
    sound = sound && p.queue < submissions_.size() && submissions_[p.queue].entries != 0;
  if (!sound) throw StateError("saved machine: an NVMe controller with queues that it cannot have");
  disk_.load(in);
}

}  // namespace perdure::board
