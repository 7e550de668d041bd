#include "machine/board/ioat.h"

#include <algorithm>
#include <cstring>

namespace perdure::board {
namespace {

constexpr u64 kSecond = 1'000'000'000;
constexpr u64 kFetchNs = 100;          // from a kick, or the end of a descriptor, to the next one's
constexpr u32 kPiece = u32{64} << 10;  // data moves in pieces of this, each at its own moment
constexpr u64 kBurst = u64{1} << 20;   // bytes that one call of advance() moves, so that nobody waits long for the lock
constexpr u64 kDescriptorBytes = 64;

// Lanes of 8 bytes with several registers in them.
constexpr u64 kGeneral = 0x00;  // CHANCNT, XFERCAP, GENCTRL, INTRCTRL, ATTNSTATUS
constexpr u64 kVersionLane = 0x08;
constexpr u64 kCapabilities = 0x10;
constexpr u64 kChannel = 0x80;  // CHANCTRL, -, CHANCMD, -, DMACOUNT
constexpr u64 kStatusLane = 0x88;
constexpr u64 kChainAddress = 0x90;
constexpr u64 kCompletionAddress = 0x98;
constexpr u64 kCurrent = 0xA0;
constexpr u64 kErrors = 0xA8;  // CHANERR, CHANERR_MASK

constexpr u64 kVersion = 0x33;
constexpr u64 kFills = 0x40;
constexpr u8 kInterruptControlMask = 0x09;
constexpr u16 kInterruptOff = 0x0001;
constexpr u16 kErrorCompletion = 0x0004;
constexpr u16 kErrorInterrupt = 0x0010;
constexpr u16 kChannelControlMask = 0x003C;
constexpr u8 kReset = 0x20;
constexpr u8 kSuspend = 0x04;

// Of a descriptor's control word.
constexpr u32 kInterruptWhenDone = 1 << 0;
constexpr u32 kWriteCompletion = 1 << 3;
constexpr u32 kNull = 1 << 5;
constexpr u32 kCopy = 0;
constexpr u32 kFill = 1;

// CHANERR.
constexpr u32 kNextAddressError = 0x0004;
constexpr u32 kNextAlignmentError = 0x0008;
constexpr u32 kChainAddressError = 0x0010;
constexpr u32 kReadError = 0x0100;
constexpr u32 kWriteError = 0x0200;
constexpr u32 kControlError = 0x0400;
constexpr u32 kLengthError = 0x0800;
constexpr u32 kCompletionAddressError = 0x1000;

// Beyond any capability, where drivers look for them.
constexpr u16 kUncorrectableErrors = 0x148;
constexpr u16 kChannelErrors = 0x180;
constexpr u16 kChannelErrorsMask = 0x184;

u64 bits(unsigned first, unsigned count, u64 value) {
  return (value & ((u64{1} << count) - 1)) << first;
}

}  // namespace

Ioat::Ioat(std::string name, Bdf home, const IoatConfig& config, DeviceBus& bus)
    : Device(std::move(name), home, bus), ioat_(config), buffer_(kPiece) {
  set_ids(0x8086, 0x2021, 4, 0x088000, 0x8086, 0x0001);
  add_bar(0, u64{16} << 10, true);
  add_bar(2, u64{4} << 10, true);
  add_msi_capability();
  add_msix_capability(2, 1);
  config_.define(kUncorrectableErrors, 4, 0, 0, ~u32{0});
  config_.define(kChannelErrors, 4, 0, 0, ~u32{0});
  config_.define(kChannelErrorsMask, 4, 0, ~u32{0});
}

// --- registers -------------------------------------------------------------------------------------------------------

// Registers have 1 to 8 bytes, and drivers read and write some of them together: any width that is aligned will do.
u64 Ioat::read_register(unsigned bar, u64 offset, unsigned width) {
  if (bar != 0 || offset % width != 0) return Device::read_register(bar, offset, width);
  const u64 lane = load_lane(offset & ~u64{7}) >> (8 * (offset & 7));
  return width == 8 ? lane : lane & ((u64{1} << (8 * width)) - 1);
}

void Ioat::write_register(unsigned bar, u64 offset, unsigned width, u64 value) {
  if (bar != 0 || offset % width != 0) return;
  const unsigned shift = 8 * (offset & 7);
  const u64 mask = (width == 8 ? ~u64{0} : (u64{1} << (8 * width)) - 1) << shift;
  store_lane(offset & ~u64{7}, mask, value << shift & mask);
}

u64 Ioat::load_lane(u64 lane) const {
  const State& s = state_;
  switch (lane) {
    case kGeneral:
      return 1 | bits(8, 8, ioat_.transfer_log2) | bits(24, 8, s.interrupt_control) | bits(32, 1, s.interrupt_off);
    case kVersionLane: return kVersion;
    case kCapabilities: return kFills;
    case kChannel: return bits(0, 16, u64{s.channel_control} | s.interrupt_off) | bits(48, 16, s.count);
    case kStatusLane: return channel_status();
    case kChainAddress: return s.chain;
    case kCompletionAddress: return s.completion;
    case kCurrent: return s.at;
    case kErrors: return s.error | u64{s.error_mask} << 32;
    default: return 0;
  }
}

void Ioat::store_lane(u64 lane, u64 mask, u64 value) {
  State& s = state_;
  const auto byte = [](unsigned i) { return u64{0xFF} << (8 * i); };
  switch (lane) {
    case kGeneral:
      if ((mask & byte(3)) != 0) s.interrupt_control = static_cast<u8>(value >> 24) & kInterruptControlMask;
      break;
    case kChannel: {
      const u64 merged = (load_lane(kChannel) & ~mask) | value;
      s.channel_control = static_cast<u16>(merged) & kChannelControlMask;
      // Written 1: armed for one more.
      if ((value & kInterruptOff) != 0) s.interrupt_off = 0;
      s.count = static_cast<u16>(merged >> 48);
      if ((mask & byte(4)) != 0) command(static_cast<u8>(value >> 32));
      if ((mask & (byte(6) | byte(7))) != 0) kick();
      break;
    }
    case kChainAddress:
      if (s.status == kActive) break;  // it would pull the chain from under the channel
      set_address(s.chain, mask, value);
      s.next = s.chain;
      s.done = 0;
      break;
    case kCompletionAddress: set_address(s.completion, mask, value & ~u64{7}); break;
    case kErrors:
      s.error &= ~static_cast<u32>(value);
      s.error_mask = static_cast<u32>(((u64{s.error_mask} << 32 & ~mask) | value) >> 32);
      break;
    default: break;
  }
}

void Ioat::set_address(u64& address, u64 mask, u64 value) {
  address = (address & ~mask) | value;
}

void Ioat::command(u8 bits) {
  if ((bits & kReset) != 0) {
    reset_channel();
    return;
  }
  if ((bits & kSuspend) == 0) return;
  if (state_.status == kDone || (state_.status == kActive && state_.in_hand == 0)) {
    stand(kSuspended);
  } else if (state_.status == kActive) {
    state_.suspending = 1;
  }
}

// All of the channel but its errors, which only software clears.
void Ioat::reset_channel() {
  const State old = state_;
  state_ = State{};
  state_.error = old.error;
  state_.error_mask = old.error_mask;
  state_.interrupt_control = old.interrupt_control;
  ledger_.set_running(false, bus_.now_ns());
}

void Ioat::reset() {
  state_ = State{};
  ledger_.set_running(false, bus_.now_ns());
}

// --- the engine ------------------------------------------------------------------------------------------------------

void Ioat::stand(Status status) {
  state_.status = status;
  state_.suspending = 0;
  state_.in_hand = 0;
  state_.due_ns = ~u64{0};
  ledger_.set_running(false, bus_.now_ns());
}

// DMACOUNT is a free-running number: the channel works until it has done as many. A channel with errors stays where it
// is.
void Ioat::kick() {
  if (state_.count == state_.done || state_.error != 0) return;
  state_.suspending = 0;
  if (state_.status == kActive) return;
  const u64 now = bus_.now_ns();
  state_.status = kActive;
  state_.due_ns = now + kFetchNs;
  ledger_.set_running(true, now);
  bus_.wake();
}

u64 Ioat::time_of(u64 bytes) const {
  return bytes * kSecond / ioat_.bytes_per_second;
}

u32 Ioat::piece() const {
  return std::min(kPiece, state_.size - state_.moved);
}

void Ioat::advance(u64 now_ns) {
  for (u64 burst = 0; burst < kBurst && now_ns >= state_.due_ns;) {
    burst += kDescriptorBytes;
    if (state_.in_hand == 0) {
      fetch();
      continue;
    }
    burst += piece();
    move();
    if (state_.status != kActive) return;
    if (state_.moved == state_.size) {
      complete(now_ns);
    } else {
      state_.due_ns += time_of(piece());
    }
  }
}

void Ioat::fetch() {
  State& s = state_;
  const bool first = s.done == 0;
  if (s.next % kDescriptorBytes != 0) return fail(first ? kChainAddressError : kNextAlignmentError);
  struct {
    u32 size;
    u32 control;
    u64 source;
    u64 destination;
    u64 next;
  } head{};
  s.at = s.next;
  if (const DmaResult r = bus_.dma_read(*this, s.at, std::as_writable_bytes(std::span(&head, 1))); !r.done) {
    read_refused();
    ledger_.not_done(r.cause);
    return fail(first ? kChainAddressError : kNextAddressError);
  }
  const u32 operation = head.control >> 24;
  const bool idle = (head.control & kNull) != 0;
  if (operation != kCopy && operation != kFill) return fail(kControlError);
  if (!idle && (head.size == 0 || head.size > u64{1} << ioat_.transfer_log2)) return fail(kLengthError);
  s.in_hand = 1;
  s.size = idle ? 0 : head.size;
  s.moved = 0;
  s.control = head.control;
  s.source = head.source;
  s.destination = head.destination;
  s.next = head.next;
  s.due_ns += time_of(piece());
}

void Ioat::move() {
  State& s = state_;
  const u32 bytes = piece();
  if (bytes == 0) return;
  const std::span<std::byte> data = std::span(buffer_).first(bytes);
  if (s.control >> 24 == kFill) {
    // `source` is the pattern; it begins at the destination, wherever that lies.
    for (u32 i = 0; i < bytes; ++i) {
      data[i] = static_cast<std::byte>(s.source >> (8 * ((s.moved + i) % sizeof(s.source))));
    }
  } else if (const DmaResult r = bus_.dma_read(*this, s.source + s.moved, data); !r.done) {
    read_refused();
    ledger_.not_done(r.cause);
    return fail(kReadError);
  }
  if (const DmaResult r = bus_.dma_write(*this, s.destination + s.moved, data); !r.done) {
    ledger_.not_done(r.cause);
    return fail(kWriteError);
  }
  s.moved += bytes;
}

// The data was written; now what tells of it, the interrupt last.
void Ioat::complete(u64 now_ns) {
  State& s = state_;
  ++s.done;
  s.last = s.at;
  s.in_hand = 0;
  ledger_.done(now_ns);
  if (s.done == s.count) {
    stand(s.suspending != 0 ? kSuspended : kDone);
  } else if (s.suspending != 0) {
    stand(kSuspended);
  } else {
    s.due_ns += kFetchNs;
  }
  const u32 control = s.control;
  if ((control & kWriteCompletion) != 0 && !write_completion()) return fail(kCompletionAddressError);
  if ((control & kInterruptWhenDone) != 0) interrupt();
}

bool Ioat::write_completion() {
  const u64 status = channel_status();
  const DmaResult r = bus_.dma_write(*this, state_.completion, std::as_bytes(std::span(&status, 1)));
  if (!r.done) ledger_.not_done(r.cause);
  return r.done;
}

void Ioat::fail(u32 errors) {
  state_.error |= errors;
  config_.set(kChannelErrors, 4, config_.read(kChannelErrors, 4) | errors);
  stand(kHalted);
  if ((state_.channel_control & kErrorCompletion) != 0) static_cast<void>(write_completion());
  if ((state_.channel_control & kErrorInterrupt) != 0) interrupt();
}

void Ioat::interrupt() {
  if (state_.interrupt_off != 0) return;
  state_.interrupt_off = 1;
  raise(0);
}

void Ioat::load_state(StateReader& in) {
  state_ = in.get<State>();
  const bool active = state_.status == kActive;
  if (state_.status > kHalted || state_.moved > state_.size || active != (state_.due_ns != ~u64{0})) {
    throw StateError("saved machine: a copy engine in no state it can be in");
  }
}

}  // namespace perdure::board
