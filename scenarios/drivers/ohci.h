// OHCI host controller without a device on it: each millisecond it reads its communication area (HCCA) and writes the
// number of the frame there. It stops for ever at the first request that fails. (OpenHCI 1.0a, 4.4 and 7.)
#pragma once
#include "scenarios/drivers/bus_master.h"

namespace perdure::scenarios {

class Ohci final : public BusMaster {
 public:
  static constexpr u32 kVendorDevice = 0x003F'106B;
  static constexpr u64 kBytes = kPageSize;  // of guest memory
  struct State {
    u64 started_ns;   // before its first frame
    u64 frames;       // that it counted, in all
    u64 looked_ns;    // when `last` was seen, or shortly before
    u32 last;         // frame number, 16 bits
    u32 before_jump;  // frame number when the last kernel was left
  };

  Ohci(Context context, const client::VfioDevice& device, DmaArea area, State& state)
      : BusMaster(context, device, area), state_(state) {}

  Result<void> start() override;
  Result<void> resume() override;
  Result<void> check(bool patient) override;
  Result<void> leave() override;
  void report(Evidence& evidence) const override;

 private:
  u32 in_memory() const { return hw::load(area_.word<u16>(kHccaFrame)); }
  Result<u32> number() const {
    const u32 value = TRY(get32(kFrameNumber));
    return value & 0xFFFF;
  }
  Result<void> alive();
  Result<void> look();
  Result<void> wait_frames(u32 frames);
  u64 frames_due() const;
  static constexpr u64 slack(u64 due) { return 3 + due / 1000; }

  static constexpr u64 kControl = 0x04, kCommandStatus = 0x08, kInterruptStatus = 0x0C, kInterruptDisable = 0x14,
                       kHcca = 0x18, kFrameNumber = 0x3C;
  static constexpr u32 kStateMask = 3 << 6, kOperational = 2 << 6;  // of HcControl
  static constexpr u32 kReset = 1;                                  // of HcCommandStatus
  static constexpr u32 kUnrecoverable = 1 << 4;                     // of HcInterruptStatus
  static constexpr u64 kHccaFrame = 0x80;
  static constexpr u64 kFrameNs = 1'000'000;

  State& state_;
  u64 frames_before_ = 0;  // this program
};

}  // namespace perdure::scenarios
