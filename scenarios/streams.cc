#include "scenarios/streams.h"

#include <cstring>
#include <initializer_list>

namespace perdure::scenarios {

using client::Fd;
using client::Iommufd;
using client::LiveUpdate;
using client::Mapping;
using client::Memfd;
using client::VfioDevice;

namespace {

// Where a domain's pieces stand in the devices' address space. The first is aligned like its memory; the second is off
// by 2 MiB, the third by 4 KiB, so that no larger leaf can be used. The third stands in the last 2^39 bytes, all that
// three levels reach; with more levels, under the last entry of the top page.
constexpr u64 kGiantIova = u64{16} << 30;
constexpr u64 kHugeIova = (u64{300} << 30) + kHugePageSize;
constexpr u64 kSmallIova = (u64{400} << 30) + kPageSize;
constexpr u64 kMovingIova = (u64{440} << 30) + kPageSize;
constexpr u64 kReachOfThreeLevels = u64{1} << 39;

struct State {
  u64 magic;
  u64 hop;
  u64 seed;
};
constexpr u64 kStateMagic = 0x534D41455254'5350;

// "streams-0-7", NUL-terminated in `text`: the prefix, and each number behind a hyphen (or alone).
std::string_view numbered(std::string_view prefix, std::initializer_list<u32> numbers, char (&text)[40]) {
  std::memcpy(text, prefix.data(), prefix.size());
  usize n = prefix.size();
  for (u32 number : numbers) {
    if (numbers.size() > 1) text[n++] = '-';
    char digits[10];
    usize d = 0;
    do {
      digits[d++] = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number != 0);
    while (d > 0) text[n++] = digits[--d];
  }
  text[n] = 0;
  return {text, n};
}
// Of the program with this first device, in this hop.
std::string_view session_name(u32 first_device, u32 hop, char (&text)[40]) {
  return numbered("streams", {first_device, hop}, text);
}

}  // namespace

u64 StreamsPlan::total_memory() const {
  u64 sum = 0;
  for (u32 d = 0; d < domains; ++d) sum += memory[d];
  return sum;
}

void Streams::pieces(u32 domain, Piece* out) const {
  const u64 memory = plan_.memory[domain];
  out[0] = {0, memory - 2 * kGiantPageSize, kGiantIova};
  out[1] = {memory - 2 * kGiantPageSize, kGiantPageSize, kHugeIova};
  out[2] = {memory - kGiantPageSize, plan_.small_leaves,
            (u64{1} << plan_.iova_bits) - kReachOfThreeLevels + kSmallIova};
}

Streams::Piece Streams::moving(u32 domain) const {
  const u64 part = 1 + hop_ % 2;  // behind the last of pieces(), in turns
  return {plan_.memory[domain] - kGiantPageSize + part * plan_.small_leaves, plan_.small_leaves, kMovingIova};
}

Result<void> Streams::begin(u32 hop) {
  hop_ = hop;
  return hop == 0 ? set_up() : come_back(hop);
}

Result<void> Streams::set_up() {
  for (u32 d = 0; d < plan_.domains; ++d) {
    memory_[d] = TRY(told(context_, "create guest memory", Memfd::create(context_.sys, "guest", plan_.memory[d])));
  }
  state_ = TRY(told(context_, "create state", Memfd::create(context_.sys, "state", kPageSize)));
  iommufd_ = TRY(told(context_, "open /dev/iommu", Iommufd::open(context_.sys)));
  for (u32 i = 0; i < plan_.devices; ++i) {
    TRY(told(context_, "open device", open_device(i)));
    device_id_[i] = TRY(told(context_, "bind device", device_[i].bind(iommufd_)));
  }
  for (u32 d = 0; d < plan_.domains; ++d) {
    hwpt_[d] = TRY(map_domain(d));
    TRY(mark(d));
  }
  for (u32 i = 0; i < plan_.devices; ++i) {
    TRY(told(context_, "attach device", device_[i].attach(hwpt_[plan_.domain_of[i]])));
    TRY(declare(i));
    TRY(told(context_, "start device", start_device(i)));
    if (plan_.take == Take::Adopt) TRY(start_moving(i));
  }
  return write_state(0);
}

Result<void> Streams::open_device(u32 device) {
  char path[40];
  const u32 number = plan_.vfio[plan_.first_device + device];
  device_[device] = TRY(VfioDevice::open(context_.sys, numbered("/dev/vfio/devices/vfio", {number}, path)));
  return {};
}

Result<u32> Streams::first_device(u32 domain) const {
  for (u32 i = 0; i < plan_.devices; ++i) {
    if (plan_.domain_of[i] == domain) return i;
  }
  return fail(Errno::Enodev);
}

// A new address space with the domain's memory in it, and its page table.
Result<u32> Streams::map_domain(u32 domain) {
  const u32 ioas = ioas_[domain] = TRY(told(context_, "allocate address space", iommufd_.ioas_alloc()));
  Piece p[kPieces + 1];
  pieces(domain, p);
  p[kPieces] = moving(domain);
  for (u32 i = 0; i < (plan_.take == Take::Adopt ? kPieces + 1 : kPieces); ++i) {
    TRY(told(context_, "map guest memory",
             iommufd_.map_file(ioas, memory_[domain].number(), p[i].offset, p[i].length, p[i].iova)));
  }
  const u32 device = TRY(first_device(domain));
  return told(context_, "allocate page table", iommufd_.hwpt_alloc(device_id_[device], ioas));
}

Result<void> Streams::mark(u32 domain) {
  return told(context_, "mark page table", iommufd_.mark_preserve(hwpt_[domain], kHwptToken + domain));
}

Result<void> Streams::declare(u32 device) {
  const u32 domain = plan_.domain_of[device];
  const u64 id = TRY(memory_[domain].id());
  Piece p[kPieces];
  pieces(domain, p);
  for (const Piece& piece : p) {
    context_.witness.intend({.device = plan_.first_device + device,
                             .iova = piece.iova,
                             .length = piece.length,
                             .memory_id = id,
                             .offset = piece.offset});
  }
  return {};
}

// Writes all over the device's share of the piece: devices of one domain share its memory in equal parts.
RingPlan Streams::ring(u32 device, u32 number, const Piece& piece) const {
  u32 sharers = 0;
  u32 mine = 0;
  for (u32 i = 0; i < plan_.devices; ++i) {
    if (plan_.domain_of[i] != plan_.domain_of[device]) continue;
    if (i == device) mine = sharers;
    ++sharers;
  }
  const u64 part = align_down(piece.length / sharers, kPageSize);
  return {.base = piece.iova + mine * part,
          .length = part,
          .slots = plan_.slots,
          .seed = plan_.seed * 1000 + device * 10 + number,
          .rate = plan_.rate,
          .read = false,
          .source = 0,
          .irq_every = number < InterruptWatch::kVectors ? plan_.irq_every : 0,
          .vector = number};
}

// Three write rings, one for each leaf size, and one that reads back what the third wrote.
Result<void> Streams::start_device(u32 device) {
  const Streamer streamer = TRY(Streamer::open(device_[device]));
  TRY(device_[device].set_bus_master(true));
  if (plan_.irq_every != 0) TRY(interrupts_[device].connect(context_, device_[device]));
  Piece p[kPieces];
  pieces(plan_.domain_of[device], p);
  for (u32 number = 0; number < kPieces; ++number) TRY(streamer.start(number, ring(device, number, p[number])));
  RingPlan last = ring(device, kPieces - 1, p[kPieces - 1]);
  last.read = true;
  last.vector = kPieces;
  last.source = TRY(streamer.source_of(kPieces - 1));
  return streamer.start(kPieces, last);
}

Result<void> Streams::start_moving(u32 device) {
  const u32 domain = plan_.domain_of[device];
  const Piece piece = moving(domain);
  const u64 id = TRY(memory_[domain].id());
  context_.witness.intend({.device = plan_.first_device + device,
                           .iova = piece.iova,
                           .length = piece.length,
                           .memory_id = id,
                           .offset = piece.offset});
  const Streamer streamer = TRY(Streamer::open(device_[device]));
  return told(context_, "start the moving ring", streamer.start(kMoving, ring(device, kMoving, piece)));
}

// The address space is the former kernel's: nothing is mapped again, but the moving piece leads elsewhere from now on.
Result<void> Streams::adopt(u32 domain) {
  const Iommufd::Adopted adopted = TRY(told(context_, "adopt page table", iommufd_.hwpt_adopt(kHwptToken + domain)));
  hwpt_[domain] = adopted.hwpt;
  ioas_[domain] = adopted.ioas;
  for (u32 i = 0; i < plan_.devices; ++i) {
    if (plan_.domain_of[i] != domain) continue;
    TRY(told(context_, "stop the moving ring", TRY(Streamer::open(device_[i])).stop(kMoving)));
  }
  const Piece piece = moving(domain);
  TRY(told(context_, "unmap from an adopted page table", iommufd_.unmap(ioas_[domain], piece.iova, piece.length)));
  TRY(told(context_, "map in an adopted page table",
           iommufd_.map_file(ioas_[domain], memory_[domain].number(), piece.offset, piece.length, piece.iova)));
  for (u32 i = 0; i < plan_.devices; ++i) {
    if (plan_.domain_of[i] == domain) TRY(start_moving(i));
  }
  return {};
}

Result<void> Streams::write_state(u32 hop) {
  const Mapping page = TRY(told(context_, "map state", state_.map(0, kPageSize)));
  *page.at<State>() = State{kStateMagic, hop, plan_.seed};
  return {};
}

Result<void> Streams::check_state(u32 hop) {
  const Mapping page = TRY(told(context_, "map state", state_.map(0, kPageSize)));
  const State& state = *page.at<State>();
  if (state.magic != kStateMagic || state.hop != hop || state.seed != plan_.seed) {
    return told(context_, "state that came back", Result<void>(fail(Errno::Eio)));
  }
  return {};
}

Result<void> Streams::preserve() {
  char name[40];
  const LiveUpdate lu = TRY(told(context_, "open /dev/liveupdate", LiveUpdate::open(context_.sys)));
  session_ = TRY(told(context_, "create session", lu.create_session(session_name(plan_.first_device, hop_, name))));
  for (u32 d = 0; d < plan_.domains; ++d) {
    TRY(told(context_, "preserve guest memory", session_.preserve(memory_[d].number(), kMemoryToken + d)));
  }
  TRY(told(context_, "preserve state", session_.preserve(state_.number(), kStateToken)));
  TRY(told(context_, "preserve iommufd", session_.preserve(iommufd_.number(), kIommufdToken)));
  for (u32 i = 0; i < plan_.devices; ++i) {
    TRY(told(context_, "preserve device", session_.preserve(device_[i].number(), kDeviceToken + i)));
  }
  return {};
}

void Streams::unpreserve() {
  session_ = {};
}

Result<void> Streams::come_back(u32 hop) {
  char name[40];
  const LiveUpdate lu = TRY(told(context_, "open /dev/liveupdate", LiveUpdate::open(context_.sys)));
  const client::Session session =
      TRY(told(context_, "retrieve session", lu.retrieve_session(session_name(plan_.first_device, hop - 1, name))));
  state_ = Memfd(TRY(told(context_, "retrieve state", session.retrieve(kStateToken))));
  TRY(check_state(hop - 1));
  for (u32 d = 0; d < plan_.domains; ++d) {
    memory_[d] = Memfd(TRY(told(context_, "retrieve guest memory", session.retrieve(kMemoryToken + d))));
  }
  iommufd_ = Iommufd(TRY(told(context_, "retrieve iommufd", session.retrieve(kIommufdToken))));
  for (u32 i = 0; i < plan_.devices; ++i) {
    device_[i] = VfioDevice(TRY(told(context_, "retrieve device", session.retrieve(kDeviceToken + i))));
    device_id_[i] = TRY(told(context_, "bind retrieved device", device_[i].bind(iommufd_)));
  }
  if (plan_.irq_every != 0) {
    TRY(InterruptWatch::reconnect(context_, std::span(interrupts_, plan_.devices), std::span(device_, plan_.devices),
                                  plan_.rest_ns));
  }
  for (u32 d = 0; d < plan_.domains; ++d) {
    if (plan_.take == Take::Adopt) {
      TRY(adopt(d));
      continue;
    }
    const u32 restored = TRY(told(context_, "reclaim page table", iommufd_.hwpt_restore(kHwptToken + d)));
    if (plan_.take == Take::Keep) {
      hwpt_[d] = restored;
      continue;
    }
    hwpt_[d] = TRY(map_domain(d));
    for (u32 i = 0; i < plan_.devices; ++i) {
      if (plan_.domain_of[i] != d) continue;
      TRY(told(context_, "replace page table", device_[i].attach(hwpt_[d])));
    }
    TRY(told(context_, "destroy the former page table", iommufd_.destroy(restored)));
  }
  TRY(told(context_, "finish session", session.finish()));
  for (u32 d = 0; d < plan_.domains; ++d) TRY(mark(d));
  return write_state(hop);
}

Result<void> Streams::verify() {
  for (u32 i = 0; i < plan_.devices; ++i) {
    const Streamer streamer = TRY(told(context_, "find streamer", Streamer::open(device_[i])));
    for (unsigned number = 0; number <= (plan_.take == Take::Adopt ? kMoving : kPieces); ++number) {
      if (!TRY(streamer.running(number))) return told(context_, "ring stopped", Result<void>(fail(Errno::Eio)));
    }
    const Streamer::Counters c = TRY(streamer.totals());
    if (c.done == 0 || c.refused() != 0 || c.read_errors != 0) {
      return told(context_, "device counters", Result<void>(fail(Errno::Eio)));
    }
  }
  if (plan_.irq_every == 0) return {};
  return InterruptWatch::check(context_, std::span(interrupts_, plan_.devices), std::span(device_, plan_.devices),
                               plan_.rest_ns);
}

}  // namespace perdure::scenarios
