// Intel's copy engine with a ring of copies that never runs dry: each page that arrived is compared with the one that
// it is a copy of, and its descriptor is given the next one. A slow engine keeps the ring full, so that data goes on
// moving with no help from a CPU.
//
// Copy n: page n % kRing of the sources, Pattern(n + kSeed), goes to the same page of the destinations.
#pragma once
#include "scenarios/drivers/bus_master.h"

namespace perdure::scenarios {

class Ioat final : public BusMaster {
 public:
  static constexpr u32 kVendorDevice = 0x2021'8086;
  static constexpr u32 kRing = 32;  // descriptors
  static constexpr u64 kSeed = 0x696F'6174;
  static constexpr u64 kBytes = (2 + 2 * u64{kRing}) * kPageSize;  // of guest memory

  struct State {
    u64 submitted;
    u64 completed;
    u64 waiting_at_jump;  // copies, when the last kernel was left
    u64 since_ns;         // when something was last submitted or completed
  };

  Ioat(Context context, const client::VfioDevice& device, DmaArea area, State& state)
      : BusMaster(context, device, area), state_(state) {}

  Result<void> start() override;
  Result<void> resume() override;
  Result<void> check(bool patient) override;
  Result<void> leave() override;
  void report(Evidence& evidence) const override;

 private:
  // Parts of the area. A completion names the descriptor that was done last; one fewer than the ring has are under way
  // at a time, so that it is clear how many were done.
  static constexpr u64 kDescriptors = 0, kCompletion = kPageSize, kSources = 2 * kPageSize,
                       kDestinations = kSources + kRing * kPageSize;
  static constexpr u32 kUnderWay = kRing - 1;
  static constexpr u64 kDescriptorBytes = 64;

  static constexpr u64 kTransferLimit = 0x01, kVersion = 0x08, kControl = 0x80, kCommand = 0x84, kCount = 0x86,
                       kStatus = 0x88, kChain = 0x90, kCompletionAddress = 0x98, kErrors = 0xA8;
  static constexpr u32 kResetCommand = 0x20, kStopOnErrors = 8, kWriteCompletion = 8;
  static constexpr u64 kStatusBits = 7, kActive = 0, kDone = 1, kHalted = 3;

  DmaArea source(u64 n) const { return area_.part(kSources + n % kRing * kPageSize, kPageSize); }
  DmaArea destination(u64 n) const { return area_.part(kDestinations + n % kRing * kPageSize, kPageSize); }
  u64 descriptor(u64 n) const { return area_.iova + kDescriptors + n % kRing * kDescriptorBytes; }
  Result<void> same_as_set_up();
  Result<void> submit();
  Result<void> collect();
  Result<void> examine(u64 n);
  u64 waiting() const { return state_.submitted - state_.completed; }

  State& state_;
  u64 completed_before_ = 0;
};

}  // namespace perdure::scenarios
