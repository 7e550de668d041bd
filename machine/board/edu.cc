#include "machine/board/edu.h"

namespace perdure::board {
namespace {

constexpr u32 kIdent = 0x0100'00ED;
constexpr u32 kComputing = 0x01;
constexpr u32 kFactorialInterrupt = 0x80;
constexpr u32 kFactorialDone = 0x001;
constexpr u32 kDmaDone = 0x100;
constexpr u64 kRun = 1;
constexpr u64 kToMemory = 2;
constexpr u64 kDmaInterrupt = 4;

u64 cut(u64 value, unsigned width) {
  return width == 8 ? value : value & ((u64{1} << (8 * width)) - 1);
}

}  // namespace

Edu::Edu(std::string name, Bdf home, const EduConfig& config, DeviceBus& bus)
    : Device(std::move(name), home, bus), edu_(config) {
  set_ids(0x1234, 0x11E8, 0x10, 0x00FF00, 0x1AF4, 0x1100);
  add_bar(0, u64{1} << 20, false);
  add_msi_capability();
}

u64 Edu::read_register(unsigned, u64 offset, unsigned width) {
  // Below 0x80 only 4 bytes wide, from there on 4 or 8; everything else reads as ones.
  if ((offset < 0x80 && width != 4) || (width != 4 && width != 8)) return cut(~u64{0}, width);
  switch (offset) {
    case 0x00: return kIdent;
    case 0x04: return state_.liveness;
    case 0x08: return state_.factorial;
    case 0x20: return state_.status | (state_.computing != 0 ? kComputing : 0);
    case 0x24: return state_.irq_status;
    case 0x80: return cut(state_.source, width);
    case 0x88: return cut(state_.destination, width);
    case 0x90: return cut(state_.count, width);
    case 0x98: return cut(state_.command, width);
    default: return cut(~u64{0}, width);
  }
}

void Edu::write_register(unsigned, u64 offset, unsigned width, u64 value) {
  if ((offset < 0x80 && width != 4) || (width != 4 && width != 8)) return;
  const bool busy = (state_.command & kRun) != 0;
  switch (offset) {
    case 0x04: state_.liveness = ~static_cast<u32>(value); break;
    case 0x08:
      if (state_.computing != 0) break;
      state_.factorial_input = static_cast<u32>(value);
      state_.computing = 1;
      break;
    case 0x20: state_.status = static_cast<u32>(value) & kFactorialInterrupt; break;
    case 0x60: interrupt(static_cast<u32>(value)); break;
    case 0x64: state_.irq_status &= ~static_cast<u32>(value); break;
    // The DMA registers are frozen while a transfer is under way.
    case 0x80:
      if (!busy) state_.source = value;
      break;
    case 0x88:
      if (!busy) state_.destination = value;
      break;
    case 0x90:
      if (!busy) state_.count = value;
      break;
    case 0x98:
      if (busy || (value & kRun) == 0) break;
      state_.command = value;
      state_.due_ns = bus_.now_ns() + edu_.transfer_ns;
      ledger_.set_running(true, bus_.now_ns());
      break;
    default: break;
  }
}

u64 Edu::next_due_ns() const {
  return state_.computing != 0 ? 0 : state_.due_ns;
}

void Edu::advance(u64 now_ns) {
  if (state_.computing != 0) {
    u32 product = 1;
    // From 34! on the product is 0 in 32 bits, so a large input needs no long loop.
    for (u32 n = state_.factorial_input; n > 1 && product != 0; --n) product *= n;
    state_.factorial = product;
    state_.computing = 0;
    if ((state_.status & kFactorialInterrupt) != 0) interrupt(kFactorialDone);
  }
  if (now_ns >= state_.due_ns) transfer(now_ns);
}

void Edu::transfer(u64 now_ns) {
  state_.due_ns = ~u64{0};
  const bool to_memory = (state_.command & kToMemory) != 0;
  const u64 inside = to_memory ? state_.source : state_.destination;
  const u64 outside = to_memory ? state_.destination : state_.source;
  const u64 count = state_.count;
  const bool fits = inside >= kBufferAt && inside - kBufferAt <= kBufferBytes &&
                    count <= kBufferBytes - (inside - kBufferAt) && !range_overflows(outside & edu_.dma_mask, count);
  if (!fits) {
    ++refused_;
  } else if (count != 0) {
    const std::span<std::byte> window = std::span(buffer_).subspan(inside - kBufferAt, count);
    // Addresses are cut to the mask, as the device does.
    const u64 iova = outside & edu_.dma_mask;
    const DmaResult r = to_memory ? bus_.dma_write(*this, iova, window) : bus_.dma_read(*this, iova, window);
    if (r.done) {
      ledger_.done(now_ns);
    } else {
      ledger_.not_done(r.cause);
    }
  }
  ledger_.set_running(false, now_ns);
  state_.command &= ~kRun;
  if ((state_.command & kDmaInterrupt) != 0) interrupt(kDmaDone);
}

void Edu::interrupt(u32 status) {
  state_.irq_status |= status;
  if (state_.irq_status != 0) raise(0);
}

void Edu::reset() {
  state_ = State{};
  buffer_.fill(std::byte{0});
  ledger_.set_running(false, bus_.now_ns());
}

void Edu::save_state(StateWriter& out) const {
  out.put(state_);
  out.put(buffer_);
  out.put(refused_);
}

void Edu::load_state(StateReader& in) {
  state_ = in.get<State>();
  buffer_ = in.get<decltype(buffer_)>();
  refused_ = in.get<u64>();
}

}  // namespace perdure::board
