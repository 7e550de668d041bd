// Endless DMA: rings of slots scattered over an IOVA range, written with self-describing records or read and verified,
// at a rate, with no help from a CPU. docs/devices.md is its data sheet.
#pragma once
#include <array>
#include <vector>

#include "machine/board/config.h"
#include "machine/board/device.h"

namespace perdure::board {

// Which IOVA each slot of a ring has, and in which order they are visited: from four registers alone.
class SlotPlan {
 public:
  SlotPlan() = default;
  SlotPlan(u64 base, u64 length, u32 slots, u64 seed);
  u32 slots() const { return slots_; }
  // Slot i lies in the i-th of `slots` equal parts of the range, at a place of its own.
  u64 iova(u32 slot) const;
  u32 next(u32 slot) const { return static_cast<u32>((u64{slot} + stride_) % slots_); }

 private:
  u64 base_ = 0;
  u64 lines_ = 0;  // of 64 bytes
  u32 slots_ = 1;
  u32 stride_ = 1;  // has no divisor in common with slots_
  u64 seed_ = 0;
};

class Streamer final : public Device {
 public:
  static constexpr unsigned kMaxRings = 16;
  static constexpr u32 kMaxSlots = u32{1} << 20;
  static constexpr u64 kMaxLength = u64{1} << 48;
  static constexpr u64 kMaxRate = 10'000'000;
  static constexpr unsigned kMemoryBar = 4;
  static constexpr u64 kMaxMemory = u64{16} << 20;

  Streamer(std::string name, Bdf home, const StreamerConfig& config, DeviceBus& bus);

  void advance(u64 now_ns) override REQUIRES(lock_);
  u64 next_due_ns() const override REQUIRES(lock_);

 private:
  enum Counter : u8 { kDone, kNotScheduled, kFaulted, kBlocked, kBusMasterOff, kUnbacked, kInterrupts, kReadErrors };
  static constexpr unsigned kCounters = 8;
  using Counters = std::array<u64, kCounters>;

  struct Ring {
    // registers
    u64 control = 0;
    u64 base = 0;
    u64 length = 0;
    u64 slots = 0;
    u64 seed = 0;
    u64 rate = 0;
    u64 irq_every = 0;
    u64 source = 0;
    u64 slot_index = 0;
    // state
    u64 status = 0;
    u64 sequence = 0;
    u64 last_failed_iova = 0;
    u64 origin_ns = 0;  // transfers are due at origin + k / rate, k = 1, 2, …
    u64 issued = 0;     // k of the last one accounted for
    u64 since_irq = 0;
    u32 cursor = 0;
    u32 generation = 0;
    u8 changed = 1;  // the plan's registers, since the last start
    Counters counters{};
  };

  u64 read_register(unsigned bar, u64 offset, unsigned width) override REQUIRES(lock_);
  void write_register(unsigned bar, u64 offset, unsigned width, u64 value) override REQUIRES(lock_);
  void reset() override REQUIRES(lock_);
  void message_sent(unsigned vector) override REQUIRES(lock_) { ++messages_[vector]; }
  void save_state(StateWriter& out) const override REQUIRES(lock_);
  void load_state(StateReader& in) override REQUIRES(lock_);

  u64 load_word(u64 offset) REQUIRES(lock_);
  void store_word(u64 offset, u64 value) REQUIRES(lock_);
  u64 load_ring(const Ring& ring, u64 offset) const;
  void store_ring(u8 index, u64 offset, u64 value) REQUIRES(lock_);
  void start(u8 index) REQUIRES(lock_);
  void stop(u8 index) REQUIRES(lock_);
  bool any_running() const;
  static bool sound(const Ring& ring);
  u64 due(const Ring& ring, u64 now_ns) const;
  void transfer(u8 index, u64 now_ns) REQUIRES(lock_);
  DmaResult write_slot(u8 index, u32 slot, u64 iova, u64 now_ns) REQUIRES(lock_);
  DmaResult read_slot(u8 index, u32 slot, u64 iova) REQUIRES(lock_);
  bool plausible(u8 index, u32 slot, const Record& record, bool empty) REQUIRES(lock_);
  void count(Ring& ring, Counter counter, u64 n = 1);
  void count_not_done(Ring& ring, Cause cause, u64 n) REQUIRES(lock_);

  StreamerConfig streamer_;
  std::vector<Ring> rings_;
  std::vector<SlotPlan> plans_;
  std::vector<std::vector<u64>> seen_;  // read rings: newest sequence found in each slot
  Counters totals_{};
  u64 irq_status_ = 0;
  u64 memory_address_ = 0;
  std::array<u64, 64> messages_{};  // by vector; survives resets
  u32 generations_ = 0;             // survives resets: no two configurations share a number
};

}  // namespace perdure::board
