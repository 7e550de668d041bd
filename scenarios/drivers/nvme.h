// An NVMe controller with a queue of reads that never runs dry: each completion is taken once, its data compared with
// what the disk is known to hold, and the next read is submitted in its place. A slow disk keeps the queue full, so
// that data and completions go on coming with no help from a CPU. (NVM Express 1.4, 3.1, 4 to 6.)
//
// The disk: blocks of 512 bytes; word i of block `lba` is Pattern(lba + kDiskSeed).word(i), little-endian.
#pragma once
#include "scenarios/drivers/bus_master.h"

namespace perdure::scenarios {

class Nvme final : public BusMaster {
 public:
  static constexpr u32 kVendorDevice = 0x0010'1B36;
  static constexpr u32 kMostReads = 64;  // in the queue at a time
  static constexpr u64 kDiskSeed = 0x6E76'6D65;
  static constexpr u64 kBytes = (5 + kMostReads) * kPageSize;  // of guest memory

  struct State {
    u64 submitted;
    u64 completed;
    u64 waiting_at_jump;  // reads, when the last kernel was left
    u64 blocks;           // of the disk
    u32 reads;            // kept in the queue
    u32 tail;             // of the submission queue
    u32 head;             // of the completion queue
    u32 phase;            // that a new completion has
    struct Read {
      u64 lba;
      u64 since_ns;  // when it was submitted; 0: it is not in the queue
    } read[kMostReads];
  };

  Nvme(Context context, const client::VfioDevice& device, DmaArea area, State& state)
      : BusMaster(context, device, area), state_(state) {}
  // Before start().
  void set_reads(u32 reads) { state_.reads = reads; }

  Result<void> start() override;
  Result<void> resume() override;
  Result<void> check(bool patient) override;
  Result<void> leave() override;
  void report(Evidence& evidence) const override;

 private:
  struct Command {
    u32 opcode = 0;  // 7:0, 31:16 identifier
    u32 namespace_id = 0;
    u64 prp1 = 0;
    u32 dword[6] = {};  // 10 to 15
  };
  struct Completion {
    u32 result;
    u32 reserved;
    u32 queue;   // 15:0 head of the submission queue, 31:16 its number
    u32 status;  // 15:0 identifier, 16 phase, 31:17 status
  };
  static constexpr u64 kBlockBytes = 512;
  static constexpr u64 kBlocksARead = kPageSize / kBlockBytes;
  // Pages of the area.
  static constexpr u64 kAdminCommands = 0, kAdminCompletions = kPageSize, kCommands = 2 * kPageSize,
                       kCompletions = 3 * kPageSize, kIdentify = 4 * kPageSize, kData = 5 * kPageSize;
  static constexpr u32 kAdminEntries = 8, kCommandEntries = kPageSize / 64, kCompletionEntries = kPageSize / 16;
  static_assert(kMostReads <= kCommandEntries && kMostReads < kCompletionEntries);

  static constexpr u64 kCapabilities = 0x00, kInterruptMaskSet = 0x0C, kConfiguration = 0x14, kStatus = 0x1C,
                       kAdminSizes = 0x24, kAdminSubmission = 0x28, kAdminCompletion = 0x30, kDoorbells = 0x1000;
  static constexpr u32 kEnable = 1, kEntrySizes = 6 << 16 | 4 << 20;  // of CC: 64 and 16 bytes
  static constexpr u32 kReady = 1, kFatal = 2;                        // of CSTS
  static constexpr u32 kRead = 2, kCreateSubmission = 1, kCreateCompletion = 5, kIdentifyCommand = 6;

  // What an admin command needs: which they are, one after the other.
  struct Admin {
    u32 tail = 0;
    u32 head = 0;
    u32 phase = 1;
  };
  Result<void> set_enabled(bool on);
  Result<void> admin(Admin& queue, const Command& command);
  Result<void> identify(Admin& queue);
  u64 doorbell(u32 queue, bool completion) const {
    return kDoorbells + (u64{2} * queue + (completion ? 1 : 0)) * stride_;
  }
  void put(u64 queue, u32 slot, const Command& command) const;
  Result<void> same_as_set_up();
  Result<void> submit(u32 id);
  Result<void> collect();
  Result<void> examine(const Completion& completion);
  u64 waiting() const { return state_.submitted - state_.completed; }

  State& state_;
  u64 stride_ = 4;  // of doorbells
  u64 completed_before_ = 0;
};

}  // namespace perdure::scenarios
