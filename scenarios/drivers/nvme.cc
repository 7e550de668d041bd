#include "scenarios/drivers/nvme.h"

#include "scenarios/drivers/pattern.h"

namespace perdure::scenarios {

namespace {
constexpr u64 kPoison = 0xDEAD'BEEF'DEAD'BEEF;
}

Result<void> Nvme::set_enabled(bool on) {
  TRY(set32(kConfiguration, on ? kEnable | kEntrySizes : 0));
  const bool done = TRY(wait_until(kPatienceNs, [&]() -> Result<bool> {
    const u32 status = TRY(get32(kStatus));
    if ((status & kFatal) != 0) return wrong("the controller failed while it was turned on or off");
    return ((status & kReady) != 0) == on;
  }));
  if (!done) return wrong("the controller does not become ready, or idle");
  return {};
}

void Nvme::put(u64 queue, u32 slot, const Command& command) const {
  const DmaArea entry = area_.part(queue + u64{slot} * 64, 64);
  const auto word = [&](u32 i, u64 value) { hw::store(entry.word<u64>(u64{i} * 8), value); };
  word(0, command.opcode | u64{command.namespace_id} << 32);
  word(1, 0);
  word(2, 0);
  word(3, command.prp1);
  word(4, 0);
  for (u32 i = 0; i < 3; ++i) word(5 + i, command.dword[2 * i] | u64{command.dword[2 * i + 1]} << 32);
}

Result<void> Nvme::admin(Admin& queue, const Command& command) {
  put(kAdminCommands, queue.tail, command);
  queue.tail = (queue.tail + 1) % kAdminEntries;
  TRY(set32(doorbell(0, false), queue.tail));
  const u32* const answer = area_.word<u32>(kAdminCompletions + u64{queue.head} * 16 + 12);
  const bool done =
      TRY(wait_until(kPatienceNs, [&]() -> Result<bool> { return (hw::load(answer) >> 16 & 1) == queue.phase; }));
  if (!done) return wrong("the controller does not answer an admin command");
  if (hw::load(answer) >> 17 != 0) return wrong("the controller refuses an admin command");
  queue.head = (queue.head + 1) % kAdminEntries;
  if (queue.head == 0) queue.phase ^= 1;
  return set32(doorbell(0, true), queue.head);
}

// How large namespace 1 is.
Result<void> Nvme::identify(Admin& queue) {
  TRY(admin(queue, {.opcode = kIdentifyCommand, .namespace_id = 1, .prp1 = area_.iova + kIdentify}));
  state_.blocks = hw::load(area_.word<u64>(kIdentify));
  const u64 format = hw::load(area_.word<u8>(kIdentify + 26)) & 15;
  const u32 shift = hw::load(area_.word<u32>(kIdentify + 128 + 4 * format)) >> 16 & 0xFF;
  if (u64{1} << (shift & 63) != kBlockBytes) return wrong("the disk has blocks of another size than 512 bytes");
  if (state_.blocks < kBlocksARead) return wrong("the disk is empty");
  return {};
}

Result<void> Nvme::start() {
  TRY(find_registers());
  const u32 reads = state_.reads;
  if (reads == 0 || reads > kMostReads - 1) return wrong("the queue holds 1 to 63 reads");
  state_ = {};
  state_.reads = reads;
  state_.phase = 1;
  const u64 capabilities = TRY(get64(kCapabilities));
  if ((capabilities >> 48 & 15) != 0) return wrong("the controller has no pages of 4 KiB");
  if ((capabilities & 0xFFFF) + 1 < kCompletionEntries) return wrong("the controller's queues are too short");
  stride_ = u64{4} << (capabilities >> 32 & 15);
  TRY(set_enabled(false));
  area_.fill(0);
  TRY(set32(kInterruptMaskSet, ~u32{0}));
  TRY(set32(kAdminSizes, (kAdminEntries - 1) << 16 | (kAdminEntries - 1)));
  TRY(set64(kAdminSubmission, area_.iova + kAdminCommands));
  TRY(set64(kAdminCompletion, area_.iova + kAdminCompletions));
  TRY(device_.set_bus_master(true));
  TRY(set_enabled(true));
  Admin queue;
  TRY(identify(queue));
  constexpr u32 kContiguous = 1;
  TRY(admin(queue, {.opcode = kCreateCompletion,
                    .prp1 = area_.iova + kCompletions,
                    .dword = {(kCompletionEntries - 1) << 16 | 1, kContiguous}}));
  TRY(admin(queue, {.opcode = kCreateSubmission,
                    .prp1 = area_.iova + kCommands,
                    .dword = {(kCommandEntries - 1) << 16 | 1, 1 << 16 | kContiguous}}));
  for (u32 id = 0; id < reads; ++id) TRY(submit(id));
  return {};
}

Result<void> Nvme::resume() {
  TRY(find_registers());
  stride_ = u64{4} << (TRY(get64(kCapabilities)) >> 32 & 15);
  completed_before_ = state_.completed;
  return check(false);
}

Result<void> Nvme::same_as_set_up() {
  const u32 status = TRY(get32(kStatus));
  if ((status & kFatal) != 0) return wrong("fatal status: a request of the controller failed");
  if ((status & kReady) == 0 || TRY(get32(kConfiguration)) != (kEnable | kEntrySizes)) {
    return wrong("the controller is off: it was reset");
  }
  if (TRY(get64(kAdminSubmission)) != area_.iova + kAdminCommands) return wrong("the controller's queues are others");
  return {};
}

// The next part of the disk, into the buffer of this identifier.
Result<void> Nvme::submit(u32 id) {
  const u64 chunks = state_.blocks / kBlocksARead;
  const u64 lba = mix64(state_.submitted) % chunks * kBlocksARead;
  const DmaArea data = area_.part(kData + u64{id} * kPageSize, kPageSize);
  data.fill(kPoison);
  put(kCommands, state_.tail,
      {.opcode = kRead | id << 16,
       .namespace_id = 1,
       .prp1 = data.iova,
       .dword = {static_cast<u32>(lba), static_cast<u32>(lba >> 32), static_cast<u32>(kBlocksARead - 1)}});
  state_.read[id] = {lba, context_.sys.now_ns() | 1};
  ++state_.submitted;
  state_.tail = (state_.tail + 1) % kCommandEntries;
  return set32(doorbell(1, false), state_.tail);
}

Result<void> Nvme::examine(const Completion& completion) {
  const u32 id = completion.status & 0xFFFF;
  if (completion.status >> 17 != 0) return wrong("a read failed");
  if (completion.queue >> 16 != 1 || id >= state_.reads) return wrong("a completion of no read that was submitted");
  State::Read& read = state_.read[id];
  if (read.since_ns == 0) return wrong("a read completed twice");
  read.since_ns = 0;
  ++state_.completed;
  const u64* const data = area_.word<u64>(kData + u64{id} * kPageSize);
  for (u64 block = 0; block < kBlocksARead; ++block) {
    const Pattern pattern(read.lba + block + kDiskSeed);
    for (u64 i = 0; i < kBlockBytes / 8; ++i) {
      const u64 found = hw::load(data + block * (kBlockBytes / 8) + i);
      if (found == kPoison) return wrong("a read completed without its data");
      if (found != pattern.word(i)) return wrong("a read brought other data than the disk holds there");
    }
  }
  return {};
}

Result<void> Nvme::collect() {
  for (;;) {
    const u64 at = kCompletions + u64{state_.head} * 16;
    // The dword with the phase first: what else there is was written before it.
    const u32 status = hw::load(area_.word<u32>(at + 12));
    if ((status >> 16 & 1) != state_.phase) break;
    const Completion completion{.result = hw::load(area_.word<u32>(at)),
                                .reserved = 0,
                                .queue = hw::load(area_.word<u32>(at + 8)),
                                .status = status};
    state_.head = (state_.head + 1) % kCompletionEntries;
    if (state_.head == 0) state_.phase ^= 1;
    TRY(set32(doorbell(1, true), state_.head));
    TRY(examine(completion));
    TRY(submit(status & 0xFFFF));
  }
  const u64 now = context_.sys.now_ns();
  for (u32 id = 0; id < state_.reads; ++id) {
    const u64 since = state_.read[id].since_ns;
    if (since == 0) return wrong("a read that failed is not repeated");
    if (since < now && now - since > kPatienceNs) return wrong("a read has not completed for ten seconds");
  }
  return {};
}

Result<void> Nvme::check(bool patient) {
  forget_wrong();
  if (TRY(bus_errors()) != 0) return wrong("the function has recorded bus errors");
  TRY(same_as_set_up());
  TRY(collect());
  if (!patient) return {};
  // What is in the queue now, once.
  const u64 until = state_.completed + state_.reads;
  const bool came = TRY(wait_until(kPatienceNs, [&]() -> Result<bool> {
    TRY(collect());
    return state_.completed >= until;
  }));
  if (!came) return wrong("reads do not complete");
  return {};
}

Result<void> Nvme::leave() {
  TRY(check(false));
  state_.waiting_at_jump = waiting();
  return {};
}

void Nvme::report(Evidence& evidence) const {
  evidence.add("completed", state_.completed);
  evidence.add("here", state_.completed - completed_before_);
  evidence.add("submitted", state_.submitted);
  evidence.add("waiting", waiting());
  evidence.add("waiting_at_jump", state_.waiting_at_jump);
}

}  // namespace perdure::scenarios
