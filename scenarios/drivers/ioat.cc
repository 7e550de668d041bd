#include "scenarios/drivers/ioat.h"

#include "scenarios/drivers/pattern.h"

namespace perdure::scenarios {

namespace {
constexpr u64 kPoison = 0xDEAD'BEEF'DEAD'BEEF;
}

Result<void> Ioat::start() {
  TRY(find_registers());
  state_ = {};
  const u64 version = TRY(device_.read(registers_, kVersion, 1));
  if (version < 0x30 || version > 0x34) return wrong("the engine is of a version that this driver does not know");
  const u64 limit = TRY(device_.read(registers_, kTransferLimit, 1))
  &31;
  if (limit != 0 && limit < kPageShift) return wrong("the engine does not copy pages");
  TRY(device_.set_bus_master(true));
  TRY(set32(kErrors, TRY(get32(kErrors))));
  TRY(device_.write(registers_, kCommand, 1, kResetCommand));
  const bool idle = TRY(wait_until(kPatienceNs, [&]() -> Result<bool> {
    return (TRY(device_.read(registers_, kCommand, 1)) & kResetCommand) == 0;
  }));
  if (!idle || (TRY(get64(kStatus)) & kStatusBits) != kHalted) return wrong("the engine does not reset");
  area_.fill(0);
  for (u64 n = 0; n < kRing; ++n) {
    const DmaArea entry = area_.part(kDescriptors + n * kDescriptorBytes, kDescriptorBytes);
    hw::store(entry.word<u64>(0), kPageSize | u64{kWriteCompletion} << 32);
    hw::store(entry.word<u64>(8), source(n).iova);
    hw::store(entry.word<u64>(16), destination(n).iova);
    hw::store(entry.word<u64>(24), descriptor(n + 1));
  }
  TRY(set64(kCompletionAddress, area_.iova + kCompletion));
  TRY(set64(kChain, descriptor(0)));
  TRY(device_.write(registers_, kControl, 2, kStopOnErrors));
  return submit();
}

Result<void> Ioat::resume() {
  TRY(find_registers());
  completed_before_ = state_.completed;
  return check(false);
}

Result<void> Ioat::same_as_set_up() {
  if (TRY(get32(kErrors)) != 0) return wrong("channel error: a request of the engine failed");
  const u64 status = TRY(get64(kStatus))
  &kStatusBits;
  if (status != kActive && status != kDone) return wrong("the channel has stopped: it was reset");
  if (TRY(get64(kChain)) != descriptor(0)) return wrong("the engine's chain is another");
  return {};
}

// Fills the ring. The count is of all copies since the beginning.
Result<void> Ioat::submit() {
  while (waiting() < kUnderWay) {
    const u64 n = state_.submitted++;
    const Pattern pattern(n + kSeed);
    const DmaArea from = source(n);
    for (u64 i = 0; i < kPageSize / 8; ++i) hw::store(from.word<u64>(8 * i), pattern.word(i));
    destination(n).fill(kPoison);
  }
  state_.since_ns = context_.sys.now_ns();
  return device_.write(registers_, kCount, 2, state_.submitted & 0xFFFF);
}

Result<void> Ioat::examine(u64 n) {
  const Pattern pattern(n + kSeed);
  const DmaArea to = destination(n);
  for (u64 i = 0; i < kPageSize / 8; ++i) {
    const u64 found = hw::load(to.word<u64>(8 * i));
    if (found == kPoison) return wrong("a copy completed without its data");
    if (found != pattern.word(i)) return wrong("a copy brought other data than its source holds");
  }
  return {};
}

Result<void> Ioat::collect() {
  const u64 completion = hw::load(area_.word<u64>(kCompletion));
  if (completion != 0) {
    const u64 last = (completion & ~(kDescriptorBytes - 1)) - descriptor(0);
    if (last >= kRing * kDescriptorBytes) return wrong("a completion of no copy that was submitted");
    const u64 done = (last / kDescriptorBytes + 1 + kRing - state_.completed % kRing) % kRing;
    if (done > waiting()) return wrong("a completion of no copy that was submitted");
    for (u64 i = 0; i < done; ++i) {
      TRY(examine(state_.completed));
      ++state_.completed;
    }
    if (done != 0) return submit();
  }
  const u64 now = context_.sys.now_ns();
  if (state_.since_ns < now && now - state_.since_ns > kPatienceNs) return wrong("nothing was copied for ten seconds");
  return {};
}

Result<void> Ioat::check(bool patient) {
  forget_wrong();
  if (TRY(bus_errors()) != 0) return wrong("the function has recorded bus errors");
  TRY(same_as_set_up());
  TRY(collect());
  if (!patient) return {};
  // What is in the ring now, once.
  const u64 until = state_.submitted;
  const bool came = TRY(wait_until(kPatienceNs, [&]() -> Result<bool> {
    TRY(same_as_set_up());
    TRY(collect());
    return state_.completed >= until;
  }));
  if (!came) return wrong("copies do not complete");
  return {};
}

Result<void> Ioat::leave() {
  TRY(check(false));
  state_.waiting_at_jump = waiting();
  return {};
}

void Ioat::report(Evidence& evidence) const {
  evidence.add("completed", state_.completed);
  evidence.add("here", state_.completed - completed_before_);
  evidence.add("submitted", state_.submitted);
  evidence.add("waiting", waiting());
  evidence.add("waiting_at_jump", state_.waiting_at_jump);
}

}  // namespace perdure::scenarios
