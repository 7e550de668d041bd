#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "machine/board/nvme.h"

namespace perdure::board {
namespace {

using namespace nvme_status;

constexpr u8 kDeleteSubmission = 0x00;
constexpr u8 kCreateSubmission = 0x01;
constexpr u8 kGetLogPage = 0x02;
constexpr u8 kDeleteCompletion = 0x04;
constexpr u8 kCreateCompletion = 0x05;
constexpr u8 kIdentify = 0x06;
constexpr u8 kAbort = 0x08;
constexpr u8 kSetFeatures = 0x09;
constexpr u8 kGetFeatures = 0x0A;
constexpr u8 kEventRequest = 0x0C;
constexpr u32 kFusedOrSgl = 0xC300;

constexpr u32 kContiguous = 1 << 0;
constexpr u32 kInterrupts = 1 << 1;
constexpr u32 kEveryNamespace = ~u32{0};

constexpr u8 kArbitration = 0x01, kPower = 0x02, kTemperature = 0x04, kErrorRecovery = 0x05, kQueues = 0x07,
             kCoalescing = 0x08, kVectors = 0x09, kAtomicity = 0x0A, kEvents = 0x0B;
constexpr u32 kSave = u32{1} << 31;

constexpr u16 kKelvin = 300;
constexpr usize kIdentifyBytes = 4096;

class Fields {
 public:
  explicit Fields(usize bytes) : bytes_(bytes) {}
  template <class T>
  void set(usize at, T value) {
    std::memcpy(&bytes_[at], &value, sizeof(value));
  }
  // Padded with spaces, not terminated.
  void text(usize at, usize bytes, std::string_view text) {
    std::memset(&bytes_[at], ' ', bytes);
    std::memcpy(&bytes_[at], text.data(), std::min(bytes, text.size()));
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace

Nvme::Outcome Nvme::admin(const Command& c) {
  if ((c.words[0] & kFusedOrSgl) != 0) return {kInvalidField};
  switch (c.opcode()) {
    case kDeleteSubmission: return delete_submission(c);
    case kCreateSubmission: return create_submission(c);
    case kGetLogPage: return log_page(c);
    case kDeleteCompletion: return delete_completion(c);
    case kCreateCompletion: return create_completion(c);
    case kIdentify: return identify(c);
    case kAbort: return abort(c);
    case kSetFeatures: return set_features(c);
    case kGetFeatures: return get_features(c);
    case kEventRequest: return event_request(c);
    default: return {kInvalidOpcode};
  }
}

// --- queues ----------------------------------------------------------------------------------------------------------

bool Nvme::no_queue_of(const Command& c) const {
  const u32 id = c.words[10] & 0xFFFF;
  return id == 0 || id >= submissions_.size();
}

Nvme::Outcome Nvme::create_completion(const Command& c) {
  const u32 entries = (c.words[10] >> 16) + 1;
  const u32 vector = c.words[11] >> 16;
  const u32 entry_size = state_.configuration >> 20 & 15;
  if (no_queue_of(c)) return {kInvalidQueueId};
  Completion& queue = completions_[c.words[10] & 0xFFFF];
  if (queue.entries != 0) return {kInvalidQueueId};
  if (entries < 2 || entries > kMostEntries || entry_size != 4) return {kInvalidQueueSize};
  if ((c.words[11] & kContiguous) == 0) return {kInvalidField};
  if (c.prp1() % page() != 0) return {kInvalidPrpOffset};
  if (vector > nvme_.queues) return {kInvalidVector};
  queue = {
      .base = c.prp1(), .entries = entries, .interrupts = (c.words[11] & kInterrupts) != 0 ? 1u : 0u, .vector = vector};
  return {};
}

Nvme::Outcome Nvme::create_submission(const Command& c) {
  const u32 entries = (c.words[10] >> 16) + 1;
  const u32 answers = c.words[11] >> 16;
  const u32 entry_size = state_.configuration >> 16 & 15;
  if (answers == 0 || answers >= completions_.size() || completions_[answers].entries == 0) {
    return {kCompletionQueueInvalid};
  }
  if (no_queue_of(c)) return {kInvalidQueueId};
  Submission& queue = submissions_[c.words[10] & 0xFFFF];
  if (queue.entries != 0) return {kInvalidQueueId};
  if (entries < 2 || entries > kMostEntries || entry_size != 6) return {kInvalidQueueSize};
  if ((c.words[11] & kContiguous) == 0) return {kInvalidField};
  if (c.prp1() % page() != 0) return {kInvalidPrpOffset};
  queue = {.base = c.prp1(), .entries = entries, .completion = answers};
  return {};
}

// Commands of the queue that are not done yet are answered first, as far as there is room for answers.
Nvme::Outcome Nvme::delete_submission(const Command& c) {
  const u32 id = c.words[10] & 0xFFFF;
  if (no_queue_of(c) || submissions_[id].entries == 0) return {kInvalidQueueId};
  for (usize i = 0; i < pending_.size();) {
    if (pending_[i].queue != id) {
      ++i;
      continue;
    }
    const Pending gone = pending_[i];
    pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(i));
    if (has_room(id)) post(id, gone.command.id(), kQueueDeleted, 0);
    if (!working()) return {};
  }
  submissions_[id] = {};
  return {};
}

Nvme::Outcome Nvme::delete_completion(const Command& c) {
  const u32 id = c.words[10] & 0xFFFF;
  if (no_queue_of(c) || completions_[id].entries == 0) return {kInvalidQueueId};
  const bool used = std::any_of(submissions_.begin(), submissions_.end(),
                                [id](const Submission& s) { return s.entries != 0 && s.completion == id; });
  if (used) return {kInvalidQueueDeletion};
  completions_[id] = {};
  return {};
}

// --- identify --------------------------------------------------------------------------------------------------------

std::vector<std::byte> Nvme::controller_data() const {
  char serial[16];
  std::snprintf(serial, sizeof serial, "PDR%08x", u32{home().segment} << 16 | home().value);
  constexpr std::string_view kModel = "Perdure NVMe";
  Fields f(kIdentifyBytes);
  f.set<u16>(0, 0x1B36);
  f.set<u16>(2, 0x1AF4);
  f.text(4, 20, serial);
  f.text(24, 40, kModel);
  f.text(64, 8, "1.0");
  f.set<u8>(77, 7);   // MDTS: 128 pages
  f.set<u16>(78, 1);  // controller id
  f.set<u32>(80, 0x0001'0400);
  f.set<u8>(111, 1);  // an I/O controller
  f.set<u8>(258, 3);  // abort commands at a time, minus one
  f.set<u8>(259, kMostEventRequests - 1);
  f.set<u8>(260, 0x03);    // one firmware slot, read-only
  f.set<u16>(266, 0x157);  // temperatures of warning and of danger
  f.set<u16>(268, 0x175);
  f.set<u8>(512, 0x66);  // entry sizes, at least and at most
  f.set<u8>(513, 0x44);
  f.set<u16>(514, 0);
  f.set<u32>(516, 1);       // namespaces
  f.set<u16>(520, 0x000D);  // compare, dataset management, write zeroes
  // The name that the standard makes of the other fields (NVM Express 1.4, 7.9).
  std::string name = "nqn.2014.08.org.nvmexpress:1b361af4";
  name += serial;
  name.resize(35 + 20, ' ');
  name += kModel;
  for (usize i = 0; i < name.size(); ++i) f.set<char>(768 + i, name[i]);
  f.set<u16>(2048, 500);  // power state 0: 5 W
  return f.take();
}

std::vector<std::byte> Nvme::namespace_data() const {
  Fields f(kIdentifyBytes);
  for (usize at : {0, 8, 16}) f.set<u64>(at, disk_.blocks());
  f.set<u8>(33, 1);  // deallocated blocks read as zeros
  // EUI-64, local: the place in the machine.
  for (const auto& [at, byte] : {std::pair<usize, u8>{120, 0x02}, {121, 'P'}, {122, 'D'}, {123, 'R'}}) f.set(at, byte);
  f.set<u16>(124, home().segment);
  f.set<u8>(126, home().bus());
  f.set<u8>(127, home().devfn());
  f.set<u32>(128, 9u << 16);  // format 0: blocks of 512 bytes, no metadata
  return f.take();
}

Nvme::Outcome Nvme::identify(const Command& c) {
  const u32 name_space = c.name_space();
  switch (c.words[10] & 0xFF) {
    case 0:
      if (name_space != 1) return {kInvalidNamespace};
      return {to_host(c, namespace_data())};
    case 1: return {to_host(c, controller_data())};
    case 2: {
      if (name_space >= kEveryNamespace - 1) return {kInvalidNamespace};
      Fields f(kIdentifyBytes);
      if (name_space == 0) f.set<u32>(0, 1);
      return {to_host(c, f.take())};
    }
    case 3: {
      if (name_space != 1) return {kInvalidNamespace};
      Fields f(kIdentifyBytes);
      f.set<u8>(0, 1);  // EUI-64
      f.set<u8>(1, 8);
      const std::vector<std::byte> about = namespace_data();
      for (usize i = 0; i < 8; ++i) f.set(4 + i, about[120 + i]);
      return {to_host(c, f.take())};
    }
    default: return {kInvalidField};
  }
}

// --- logs ------------------------------------------------------------------------------------------------------------

std::vector<std::byte> Nvme::health_data() const {
  Fields f(512);
  f.set<u16>(1, kKelvin);
  f.set<u8>(3, 100);  // spare, and where it becomes little, in percent
  f.set<u8>(4, 10);
  // In thousands of blocks, rounded up.
  f.set<u64>(32, (state_.blocks_read + 999) / 1000);
  f.set<u64>(48, (state_.blocks_written + 999) / 1000);
  f.set<u64>(64, state_.commands_read);
  f.set<u64>(80, state_.commands_written);
  return f.take();
}

Nvme::Outcome Nvme::log_page(const Command& c) {
  constexpr u32 kRetainEvent = 1 << 15;
  const u64 bytes = ((u64{c.words[11] & 0xFFFF} << 16 | c.words[10] >> 16) + 1) * 4;
  const u64 from = c.words[12] | u64{c.words[13]} << 32;
  if (bytes > kMostDataPages * kPageSize || from % 4 != 0) return {kInvalidField};
  std::vector<std::byte> page;
  switch (c.words[10] & 0xFF) {
    case 1: page.resize(64); break;  // no errors of commands are kept
    case 2: page = health_data(); break;
    case 3: {
      Fields f(512);
      f.set<u8>(0, 1);
      f.text(8, 8, "1.0");
      page = f.take();
      break;
    }
    default: return {kInvalidLogPage};
  }
  if (from > page.size()) return {kInvalidField};
  std::vector<std::byte> data(bytes);
  std::memcpy(data.data(), page.data() + from, std::min<u64>(bytes, page.size() - from));
  if (const u16 status = to_host(c, data); status != kSuccess) return {status};
  if ((c.words[10] & 0xFF) == 1 && (c.words[10] & kRetainEvent) == 0) state_.event_masked = 0;
  return {};
}

// --- the rest --------------------------------------------------------------------------------------------------------

// The result's bit 0 says that the command was not aborted.
Nvme::Outcome Nvme::abort(const Command& c) {
  const u32 queue = c.words[10] & 0xFFFF;
  const auto id = static_cast<u16>(c.words[10] >> 16);
  // This command will be answered as well.
  if (queue >= submissions_.size() || submissions_[queue].entries == 0 || !has_room(queue, queue == 0 ? 2 : 1)) {
    return {.result = 1};
  }
  for (usize i = 0; i < pending_.size(); ++i) {
    const Pending p = pending_[i];
    if (p.queue != queue || p.command.id() != id) continue;
    pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(i));
    post(queue, id, kAbortRequested, 0);
    return {};
  }
  const auto waiting = std::find(event_requests_.begin(), event_requests_.end(), id);
  if (queue != 0 || waiting == event_requests_.end()) return {.result = 1};
  event_requests_.erase(waiting);
  post(0, id, kAbortRequested, 0);
  return {};
}

Nvme::Outcome Nvme::set_features(const Command& c) {
  if ((c.words[10] & kSave) != 0) return {kNotSaveable};
  const u32 value = c.words[11];
  const u32 feature = c.words[10] & 0xFF;
  switch (feature) {
    case kArbitration:
    case kTemperature:
    case kErrorRecovery:
    case kCoalescing:
    case kAtomicity:
    case kEvents: state_.features[feature] = value; return {};
    case kPower: return {(value & 0x1F) == 0 ? kSuccess : kInvalidField};  // there is one power state
    case kVectors: return {(value & 0xFFFF) <= nvme_.queues ? kSuccess : kInvalidField};
    case kQueues: {
      if ((value & 0xFFFF) == 0xFFFF || value >> 16 == 0xFFFF) return {kInvalidField};
      const auto exists = [](const auto& q) { return q.entries != 0; };
      if (std::any_of(submissions_.begin() + 1, submissions_.end(), exists) ||
          std::any_of(completions_.begin() + 1, completions_.end(), exists)) {
        return {kSequenceError};
      }
      return get_features(c);
    }
    default: return {kInvalidField};
  }
}

Nvme::Outcome Nvme::get_features(const Command& c) {
  const u32 feature = c.words[10] & 0xFF;
  switch (feature) {
    case kArbitration:
    case kPower:
    case kTemperature:
    case kErrorRecovery:
    case kCoalescing:
    case kAtomicity:
    case kEvents: return {.result = state_.features[feature]};
    case kVectors:
      if ((c.words[11] & 0xFFFF) > nvme_.queues) return {kInvalidField};
      return {.result = c.words[11] & 0xFFFF};
    case kQueues: return {.result = (nvme_.queues - 1) | (nvme_.queues - 1) << 16};
    default: return {kInvalidField};
  }
}

Nvme::Outcome Nvme::event_request(const Command& c) {
  if (event_requests_.size() == kMostEventRequests) return {kEventRequestLimit};
  event_requests_.push_back(c.id());
  return {.held = true};
}

}  // namespace perdure::board
