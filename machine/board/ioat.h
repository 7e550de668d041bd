// Intel's I/OAT copy engine (QuickData, version 3.3) with one channel, register-compatible: software links descriptors
// into a chain and says how many of them the channel shall do; it copies at its own pace. docs/devices.md lists the
// registers.
#pragma once
#include <vector>

#include "machine/board/config.h"
#include "machine/board/device.h"

namespace perdure::board {

class Ioat final : public Device {
 public:
  Ioat(std::string name, Bdf home, const IoatConfig& config, DeviceBus& bus);

  void advance(u64 now_ns) override REQUIRES(lock_);
  u64 next_due_ns() const override REQUIRES(lock_) { return state_.due_ns; }

 private:
  enum Status : u8 { kActive = 0, kDone = 1, kSuspended = 2, kHalted = 3 };

  u64 read_register(unsigned bar, u64 offset, unsigned width) override REQUIRES(lock_);
  void write_register(unsigned bar, u64 offset, unsigned width, u64 value) override REQUIRES(lock_);
  void reset() override REQUIRES(lock_);
  void save_state(StateWriter& out) const override REQUIRES(lock_) { out.put(state_); }
  void load_state(StateReader& in) override REQUIRES(lock_);

  u64 load_lane(u64 lane) const REQUIRES(lock_);
  void store_lane(u64 lane, u64 mask, u64 value) REQUIRES(lock_);
  void set_address(u64& address, u64 mask, u64 value) REQUIRES(lock_);
  void command(u8 bits) REQUIRES(lock_);
  void reset_channel() REQUIRES(lock_);
  void kick() REQUIRES(lock_);
  void stand(Status status) REQUIRES(lock_);
  u64 time_of(u64 bytes) const;
  u32 piece() const REQUIRES(lock_);
  void fetch() REQUIRES(lock_);
  void move() REQUIRES(lock_);
  void complete(u64 now_ns) REQUIRES(lock_);
  bool write_completion() REQUIRES(lock_);
  void fail(u32 errors) REQUIRES(lock_);
  void interrupt() REQUIRES(lock_);
  u64 channel_status() const REQUIRES(lock_) { return state_.last | state_.status; }

  IoatConfig ioat_;
  struct State {
    // registers
    u64 chain = 0;
    u64 completion = 0;
    u32 error = 0;
    u32 error_mask = 0;
    u16 channel_control = 0;  // without the interrupt bit
    u16 count = 0;
    u8 interrupt_control = 0;
    u8 status = kHalted;
    u8 interrupt_off = 0;  // one was sent and the channel was not armed again
    // the engine
    u8 suspending = 0;  // after the descriptor in hand
    u8 in_hand = 0;     // a descriptor was fetched and is not done
    u16 done = 0;       // descriptors since the chain's address was written; runs until it is `count`
    u64 at = 0;         // the descriptor in hand, or the last one
    u64 last = 0;       // that was completed
    u64 next = 0;       // to be fetched
    u64 source = 0;
    u64 destination = 0;
    u32 size = 0;
    u32 moved = 0;  // of it
    u32 control = 0;
    u64 due_ns = ~u64{0};  // of the next fetch, piece or completion
  } state_;
  std::vector<std::byte> buffer_;
};

}  // namespace perdure::board
