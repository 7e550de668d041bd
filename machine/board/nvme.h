// An NVMe controller (NVM Express 1.4) with one namespace in memory: admin queue, I/O queues, PRPs, MSI-X. Its disk
// serves one command after the other at its own pace, so that commands are under way while nobody looks.
// docs/devices.md says what there is of the specification.
//
//   nvme.cc        registers, doorbells, the clock: commands are fetched, served and completed
//   nvme_admin.cc  admin commands
//   nvme_io.cc     I/O commands, and where their data is (PRPs)
#pragma once
#include <array>
#include <optional>
#include <vector>

#include "machine/board/config.h"
#include "machine/board/device.h"
#include "machine/board/nvme_disk.h"

namespace perdure::board {

class Nvme final : public Device {
 public:
  static constexpr unsigned kMaxQueues = 63;  // pairs for I/O; each has a vector, and so has the admin queue

  Nvme(std::string name, Bdf home, const NvmeConfig& config, DeviceBus& bus);

  void advance(u64 now_ns) override REQUIRES(lock_);
  u64 next_due_ns() const override REQUIRES(lock_);

 private:
  static constexpr u32 kMostEntries = 2048;       // of a queue
  static constexpr u32 kMostDataPages = 128;      // of 4 KiB, of a command: MDTS 7
  static constexpr usize kMostPending = 256;      // commands that were fetched and are not done
  static constexpr usize kMostEventRequests = 4;  // that wait for an event
  static constexpr u16 kTableBar = 4;

  struct Command {
    std::array<u32, 16> words{};
    u8 opcode() const { return static_cast<u8>(words[0]); }
    u16 id() const { return static_cast<u16>(words[0] >> 16); }
    u32 name_space() const { return words[1]; }
    u64 prp1() const { return words[6] | u64{words[7]} << 32; }
    u64 prp2() const { return words[8] | u64{words[9]} << 32; }
    u64 lba() const { return words[10] | u64{words[11]} << 32; }
    u32 blocks() const { return (words[12] & 0xFFFF) + 1; }
  };
  // entries 0: there is no such queue.
  struct Submission {
    u64 base = 0;
    u32 entries = 0;
    u32 head = 0;
    u32 tail = 0;
    u32 completion = 0;  // its completion queue
  };
  struct Completion {
    u64 base = 0;
    u32 entries = 0;
    u32 head = 0;
    u32 tail = 0;
    u32 phase = 1;
    u32 interrupts = 0;
    u32 vector = 0;
    u32 unused = 0;
  };
  struct Pending {
    Command command;
    u64 due_ns = 0;
    u32 queue = 0;  // its submission queue
    u32 unused = 0;
  };
  struct Segment {
    u64 iova = 0;
    u64 bytes = 0;
  };
  // Status as a completion carries it: 7:0 code, 10:8 type, 14 do not retry.
  struct Outcome {
    u16 status = 0;
    u32 result = 0;
    bool held = false;  // completes when there is something to tell
  };
  struct State {
    u32 interrupt_mask = 0;
    u32 configuration = 0;
    u32 status = 0;
    u32 admin_sizes = 0;
    u64 admin_submission = 0;
    u64 admin_completion = 0;
    u64 ready_due_ns = ~u64{0};
    u64 busy_until_ns = 0;  // the disk
    u32 next_queue = 0;     // whose turn it is to be fetched from
    // The oldest error that was not told yet, as an asynchronous event's result; and none is told until the log was
    // read.
    u32 event = 0;
    u32 event_masked = 0;
    u32 unused = 0;
    std::array<u32, 16> features{};
    u64 blocks_read = 0;
    u64 blocks_written = 0;
    u64 commands_read = 0;
    u64 commands_written = 0;
  };

  // --- registers and queues ------------------------------------------------------------------------------------------
  u64 read_register(unsigned bar, u64 offset, unsigned width) override REQUIRES(lock_);
  void write_register(unsigned bar, u64 offset, unsigned width, u64 value) override REQUIRES(lock_);
  void reset() override REQUIRES(lock_);
  void save_state(StateWriter& out) const override REQUIRES(lock_);
  void load_state(StateReader& in) override REQUIRES(lock_);

  u32 load(u64 offset) const REQUIRES(lock_);
  void store(u64 offset, u32 value) REQUIRES(lock_);
  void configure(u32 value) REQUIRES(lock_);
  void become_ready() REQUIRES(lock_);
  void stop_controller() REQUIRES(lock_);
  void ring(u64 index, u32 value) REQUIRES(lock_);
  bool working() const REQUIRES(lock_);
  u64 page() const REQUIRES(lock_);
  // For so many more answers.
  bool has_room(u32 queue, u32 answers = 1) const REQUIRES(lock_);
  void fetch(u64 now_ns) REQUIRES(lock_);
  bool fetch_from(u32 queue, u64 now_ns) REQUIRES(lock_);
  void serve(const Pending& pending, u64 now_ns) REQUIRES(lock_);
  void post(u32 queue, u16 id, u16 status, u32 result) REQUIRES(lock_);
  void fail(Cause cause) REQUIRES(lock_);
  void tell_error(u8 info) REQUIRES(lock_);
  void tell_event() REQUIRES(lock_);
  void note_work() REQUIRES(lock_);

  // --- commands ------------------------------------------------------------------------------------------------------
  Outcome admin(const Command& c) REQUIRES(lock_);
  Outcome create_completion(const Command& c) REQUIRES(lock_);
  Outcome create_submission(const Command& c) REQUIRES(lock_);
  Outcome delete_completion(const Command& c) REQUIRES(lock_);
  Outcome delete_submission(const Command& c) REQUIRES(lock_);
  Outcome identify(const Command& c) REQUIRES(lock_);
  Outcome log_page(const Command& c) REQUIRES(lock_);
  Outcome abort(const Command& c) REQUIRES(lock_);
  Outcome set_features(const Command& c) REQUIRES(lock_);
  Outcome get_features(const Command& c) REQUIRES(lock_);
  Outcome event_request(const Command& c) REQUIRES(lock_);
  bool no_queue_of(const Command& c) const REQUIRES(lock_);
  std::vector<std::byte> controller_data() const;
  std::vector<std::byte> namespace_data() const;
  std::vector<std::byte> health_data() const REQUIRES(lock_);

  Outcome io(const Command& c) REQUIRES(lock_);
  Outcome read_blocks(const Command& c) REQUIRES(lock_);
  Outcome write_blocks(const Command& c, bool compare) REQUIRES(lock_);
  Outcome manage_blocks(const Command& c) REQUIRES(lock_);
  // Data of a command: 0, or the status that it completes with.
  u16 find_data(const Command& c, u64 bytes, std::vector<Segment>& segments) REQUIRES(lock_);
  u16 to_host(const Command& c, std::span<const std::byte> data) REQUIRES(lock_);
  u16 from_host(const Command& c, std::span<std::byte> data) REQUIRES(lock_);

  NvmeConfig nvme_;
  State state_;
  // By number; 0: the admin queue.
  std::vector<Submission> submissions_;
  std::vector<Completion> completions_;
  std::vector<Pending> pending_;  // the next to be done first
  std::vector<u16> event_requests_;
  NvmeDisk disk_;
};

// What commands complete with (NVM Express 1.4, 4.6.1): type in bits 10:8, "do not retry" where trying again is of no
// use.
namespace nvme_status {
inline constexpr u16 kNoRetry = 1 << 14;
inline constexpr u16 kSuccess = 0;
inline constexpr u16 kInvalidOpcode = kNoRetry | 0x001;
inline constexpr u16 kInvalidField = kNoRetry | 0x002;
inline constexpr u16 kDataTransferError = 0x004;
inline constexpr u16 kAbortRequested = 0x007;
inline constexpr u16 kQueueDeleted = 0x008;
inline constexpr u16 kInvalidNamespace = kNoRetry | 0x00B;
inline constexpr u16 kSequenceError = kNoRetry | 0x00C;
inline constexpr u16 kInvalidPrpOffset = kNoRetry | 0x013;
inline constexpr u16 kLbaOutOfRange = kNoRetry | 0x080;
inline constexpr u16 kCompletionQueueInvalid = kNoRetry | 0x100;
inline constexpr u16 kInvalidQueueId = kNoRetry | 0x101;
inline constexpr u16 kInvalidQueueSize = kNoRetry | 0x102;
inline constexpr u16 kEventRequestLimit = kNoRetry | 0x105;
inline constexpr u16 kInvalidVector = kNoRetry | 0x108;
inline constexpr u16 kInvalidLogPage = kNoRetry | 0x109;
inline constexpr u16 kInvalidQueueDeletion = kNoRetry | 0x10C;
inline constexpr u16 kNotSaveable = kNoRetry | 0x10D;
inline constexpr u16 kCompareFailure = 0x285;
}  // namespace nvme_status

}  // namespace perdure::board
