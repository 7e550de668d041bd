#include "machine/board/ohci.h"

#include <array>
#include <cstring>

namespace perdure::board {
namespace {

constexpr u32 kFunctionalState = 3 << 6;
constexpr u32 kOperational = 2 << 6;
constexpr u32 kSuspend = 3 << 6;
constexpr u32 kControlBits = 0x7FF;
constexpr u32 kControllerReset = 1;
constexpr u32 kStartOfFrame = 1 << 2;
constexpr u32 kUnrecoverable = 1 << 4;
constexpr u32 kFrameNumberOverflow = 1 << 5;
constexpr u32 kInterruptBits = 0xC000'007F;
constexpr u32 kHccaMask = 0xFFFF'FF00;
constexpr u32 kHccaBytes = 256;
constexpr u32 kHccaFrame = 0x80;
constexpr u16 kDetectedParity = 1 << 15;

}  // namespace

Ohci::Ohci(std::string name, Bdf home, DeviceBus& bus) : Device(std::move(name), home, bus) {
  set_ids(0x106B, 0x003F, 0x00, 0x0C0310, 0x1AF4, 0x1100);
  add_bar(0, 4096, false);
}

u64 Ohci::read_register(unsigned, u64 offset, unsigned width) {
  if (width != 4) return width == 8 ? ~u64{0} : (u64{1} << (8 * width)) - 1;
  switch (offset) {
    case 0x00: return 0x10;
    case 0x04: return state_.control;
    case 0x0C: return state_.interrupt_status;
    case 0x10:
    case 0x14: return state_.interrupt_enable;
    case 0x18: return state_.hcca;
    case 0x34: return state_.interval;
    case 0x3C: return state_.frame_number;
    default: return 0;
  }
}

void Ohci::write_register(unsigned, u64 offset, unsigned width, u64 value) {
  if (width != 4) return;
  const u32 word = static_cast<u32>(value);
  switch (offset) {
    case 0x04: control(word & kControlBits); break;
    case 0x08:
      if ((word & kControllerReset) == 0) break;
      // Done at once; it leaves the controller suspended, not in its reset state.
      reset();
      state_.control = kSuspend;
      break;
    case 0x0C: state_.interrupt_status &= ~word; break;
    case 0x10: state_.interrupt_enable |= word & kInterruptBits; break;
    case 0x14: state_.interrupt_enable &= ~word; break;
    case 0x18: state_.hcca = word & kHccaMask; break;
    case 0x34: state_.interval = word; break;
    default: break;
  }
}

void Ohci::control(u32 value) {
  const bool was = (state_.control & kFunctionalState) == kOperational;
  const bool is = (value & kFunctionalState) == kOperational;
  state_.control = value;
  if (was == is) return;
  if (!is) return stop();
  state_.due_ns = bus_.now_ns() + kFrameNs;
  ledger_.set_running(true, bus_.now_ns());
}

void Ohci::stop() {
  state_.due_ns = ~u64{0};
  ledger_.set_running(false, bus_.now_ns());
}

void Ohci::advance(u64 now_ns) {
  // One that was served late makes up for it.
  while (now_ns >= state_.due_ns) {
    state_.due_ns += kFrameNs;
    frame(now_ns);
  }
}

void Ohci::frame(u64 now_ns) {
  std::array<std::byte, kHccaBytes> area{};
  if (const DmaResult r = bus_.dma_read(*this, state_.hcca, area); !r.done) return die(r.cause);
  const u32 next = (state_.frame_number + 1) & 0xFFFF;
  if (((next ^ state_.frame_number) & 0x8000) != 0) state_.interrupt_status |= kFrameNumberOverflow;
  state_.frame_number = next;
  // The number, and 16 bits of zeros.
  const DmaResult r =
      bus_.dma_write(*this, u64{state_.hcca} + kHccaFrame, std::as_bytes(std::span(&state_.frame_number, 1)));
  if (!r.done) return die(r.cause);
  ledger_.done(now_ns);
  state_.interrupt_status |= kStartOfFrame;
}

// Nothing but a reset gets it out of this.
void Ohci::die(Cause cause) {
  ledger_.not_done(cause);
  state_.interrupt_status |= kUnrecoverable;
  state_.control &= ~kFunctionalState;
  config_.set(pci_reg::kStatus, 2, config_.read(pci_reg::kStatus, 2) | kDetectedParity);
  stop();
}

void Ohci::reset() {
  stop();
  state_ = State{};
}

}  // namespace perdure::board
