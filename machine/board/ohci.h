// An OHCI USB host controller with nothing connected to it: the heartbeat of one. Each frame it reads its communication
// area and writes the frame's number there, until a request fails; then it stops for good. docs/devices.md lists the
// registers.
#pragma once
#include "machine/board/device.h"

namespace perdure::board {

class Ohci final : public Device {
 public:
  static constexpr u64 kFrameNs = 1'000'000;

  Ohci(std::string name, Bdf home, DeviceBus& bus);

  void advance(u64 now_ns) override REQUIRES(lock_);
  u64 next_due_ns() const override REQUIRES(lock_) { return state_.due_ns; }

 private:
  u64 read_register(unsigned bar, u64 offset, unsigned width) override REQUIRES(lock_);
  void write_register(unsigned bar, u64 offset, unsigned width, u64 value) override REQUIRES(lock_);
  void reset() override REQUIRES(lock_);
  void save_state(StateWriter& out) const override REQUIRES(lock_) { out.put(state_); }
  void load_state(StateReader& in) override REQUIRES(lock_) { state_ = in.get<State>(); }
  void control(u32 value) REQUIRES(lock_);
  void stop() REQUIRES(lock_);
  void frame(u64 now_ns) REQUIRES(lock_);
  void die(Cause cause) REQUIRES(lock_);

  struct State {
    u32 control = 0;
    u32 interrupt_status = 0;
    u32 interrupt_enable = 0;
    u32 hcca = 0;
    u32 interval = 0x2EDF;
    u32 frame_number = 0;
    u64 due_ns = ~u64{0};  // of the next frame
  } state_;
};

}  // namespace perdure::board
