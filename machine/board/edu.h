// QEMU's teaching device, register-compatible, without its ways to kill the emulator: what is out of range is refused.
// docs/devices.md lists the registers.
#pragma once
#include <array>

#include "machine/board/config.h"
#include "machine/board/device.h"

namespace perdure::board {

class Edu final : public Device {
 public:
  static constexpr u64 kBufferAt = 0x40000;
  static constexpr u64 kBufferBytes = 4096;

  Edu(std::string name, Bdf home, const EduConfig& config, DeviceBus& bus);

  void advance(u64 now_ns) override REQUIRES(lock_);
  u64 next_due_ns() const override REQUIRES(lock_);
  // Transfers that asked for something outside the buffer or the DMA mask, and were not done.
  u64 refused() const REQUIRES(lock_) { return refused_; }

 private:
  u64 read_register(unsigned bar, u64 offset, unsigned width) override REQUIRES(lock_);
  void write_register(unsigned bar, u64 offset, unsigned width, u64 value) override REQUIRES(lock_);
  void reset() override REQUIRES(lock_);
  void save_state(StateWriter& out) const override REQUIRES(lock_);
  void load_state(StateReader& in) override REQUIRES(lock_);
  void transfer(u64 now_ns) REQUIRES(lock_);
  void interrupt(u32 status) REQUIRES(lock_);

  EduConfig edu_;
  struct State {
    u32 liveness = 0;
    u32 factorial = 0;
    u32 factorial_input = 0;
    u32 computing = 0;
    u32 status = 0;
    u32 irq_status = 0;
    u64 source = 0;
    u64 destination = 0;
    u64 count = 0;
    u64 command = 0;
    u64 due_ns = ~u64{0};
  } state_;
  std::array<std::byte, kBufferBytes> buffer_{};
  u64 refused_ = 0;
};

}  // namespace perdure::board
