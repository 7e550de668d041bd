// Intel 82574L and its like: an endless receive ring. Frames come from the host, numbered without a gap; the adapter
// puts each into the next buffer with no help from a CPU, as long as there are free ones. (82574 datasheet, 7.1
// and 10.)
//
// A frame, little-endian but for its type:
//    0  6  destination, any        6  6  source, any       12  2  type 0x88B5 (for local experiments)
//   14  2  length of the frame, 64 + 8·(sequence mod 21)   16  8  sequence, from 0
//   24  4  seed, the same in all frames                    28  4  0
//   32     words of 8: Pattern(seed ^ sequence).word(0, 1, …) to the end
#pragma once
#include "scenarios/drivers/bus_master.h"

namespace perdure::scenarios {

class E1000e final : public BusMaster {
 public:
  static constexpr u32 kVendorDevice = 0x10D3'8086;
  static constexpr u32 kBufferBytes = 256;
  static constexpr u32 kMostDescriptors = 65528;
  // Of guest memory, for a ring of so many descriptors (a multiple of 8).
  static constexpr u64 ring_bytes(u32 descriptors) {
    return align_up(u64{descriptors} * sizeof(Descriptor), kPageSize);
  }
  static constexpr u64 buffer_bytes(u32 descriptors) { return align_up(u64{descriptors} * kBufferBytes, kPageSize); }

  struct State {
    u64 frames;         // that were right
    u64 counted;        // by the adapter
    u64 missed;         // by the adapter: no room in it
    u64 no_buffer;      // by the adapter: no free descriptor
    u64 missing;        // sequence numbers that never came
    u64 sequence;       // expected next
    u64 last_frame_ns;  // when one was seen
    u32 seed;
    u32 next;  // descriptor that the adapter fills next, or has filled
    u32 tail;  // as the register has it
    u32 descriptors;
  };

  E1000e(Context context, const client::VfioDevice& device, DmaArea ring, DmaArea buffers, State& state)
      : BusMaster(context, device, ring), buffers_(buffers), state_(state) {}
  // Before start().
  void set_size(u32 descriptors) { state_.descriptors = descriptors; }

  Result<void> start() override;
  Result<void> resume() override;
  Result<void> check(bool patient) override;
  Result<void> leave() override { return check(false); }
  void report(Evidence& evidence) const override;

 private:
  // Legacy receive descriptor.
  struct Descriptor {
    u64 address;
    u64 status;  // 15:0 length, 39:32 status, 47:40 errors
  };
  static constexpr u64 kDone = 1, kEndOfPacket = 2;  // of the status
  static constexpr u64 kControl = 0x0000, kStatus = 0x0008, kInterruptMaskClear = 0x00D8, kReceiveControl = 0x0100,
                       kRingLow = 0x2800, kRingHigh = 0x2804, kRingLength = 0x2808, kHead = 0x2810, kTail = 0x2818,
                       kMissedPackets = 0x4010, kGoodPackets = 0x4074, kNoBuffers = 0x40A0, kFilterControl = 0x5008;
  static constexpr u32 kSetLinkUp = 1 << 6, kReset = 1 << 26;         // of CTRL
  static constexpr u32 kLinkUp = 1 << 1;                              // of STATUS
  static constexpr u32 kExtendedStatus = 1 << 15;                     // of RFCTL
  static constexpr u32 kReceive = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 15  // of RCTL: on, everything, broadcast,
                                  | 3 << 16 | 1 << 26;                // buffers of 256 bytes, without checksum

  Descriptor* descriptor(u32 i) const { return area_.word<Descriptor>(u64{i} * sizeof(Descriptor)); }
  u32 after(u32 i) const { return i + 1 == state_.descriptors ? 0 : i + 1; }
  void offer(u32 i);
  Result<void> count();
  Result<void> collect();
  Result<void> examine(u32 i, u64 status);
  Result<void> same_as_set_up();

  const DmaArea buffers_;
  State& state_;
  u64 frames_before_ = 0;
};

}  // namespace perdure::scenarios
