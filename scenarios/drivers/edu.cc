#include "scenarios/drivers/edu.h"

#include "scenarios/drivers/pattern.h"

namespace perdure::scenarios {

namespace {
Pattern block(u64 round) {
  return Pattern(0x6564'7500'0000'0000 + round);
}
}  // namespace

Result<void> Edu::start() {
  TRY(find_registers());
  if ((TRY(get32(kId)) & 0xFF) != 0xED) return wrong("no edu answers at the device's registers");
  if (TRY(busy())) return wrong("the device is in the middle of a transfer that nobody here asked for");
  const u32 interrupting = state_.interrupting;
  state_ = {};
  state_.interrupting = interrupting;
  TRY(connect());
  TRY(device_.set_bus_master(true));
  return arm();
}

Result<void> Edu::connect() {
  if (state_.interrupting == 0) return {};
  event_ = client::Fd(context_.sys, TRY(context_.sys.eventfd()));
  const s32 number = event_.number();
  return device_.set_irqs(kMsi, &number, 1);
}

// One for each transfer, whoever the kernel was when it was sent.
Result<void> Edu::take_interrupt() {
  if (state_.interrupting == 0) return {};
  u64 came = 0;
  const bool arrived = TRY(wait_until(kPatienceNs, [&]() -> Result<bool> {
    came += TRY(context_.sys.eventfd_read(event_.number()));
    return came != 0;
  }));
  if (!arrived) return wrong("the interrupt of a transfer did not arrive");
  if (came != 1) return wrong("a transfer interrupted more than once");
  ++state_.interrupts;
  return set32(kAcknowledge, TRY(get32(kInterruptStatus)));
}

Result<void> Edu::resume() {
  TRY(find_registers());
  ++state_.kernels;
  TRY(connect());
  if (state_.under_way == kNothing) return wrong("no transfer was under way at the jump");
  const u64 expected = state_.under_way == kIn ? area_.iova + kFrom : kBuffer;
  if (TRY(get(kSource)) != expected || TRY(get(kCount)) != kBlock) {
    return wrong("the device has forgotten its transfer: it was reset");
  }
  return {};
}

Result<void> Edu::command(u64 source, u64 destination, u64 bytes, u32 way) {
  TRY(set(kSource, source));
  TRY(set(kDestination, destination));
  TRY(set(kCount, bytes));
  return set(kCommand, kRun | way | (state_.interrupting != 0 ? kInterrupt : 0));
}

Result<void> Edu::arm() {
  ++state_.transfers;
  state_.kernels = 0;
  if (state_.loaded == 0) {
    const Pattern pattern = block(++state_.round);
    area_.part(0, kPageSize).fill(kPoison);
    for (u64 i = 0; i < kWords; ++i) hw::store(area_.word<u64>(kFrom + 8 * i), pattern.word(i));
    state_.under_way = kIn;
    return command(area_.iova + kFrom, kBuffer, kBlock, 0);
  }
  area_.part(kPageSize, kPageSize).fill(kPoison);
  state_.under_way = kOut;
  return command(kBuffer, area_.iova + kTo, kBlock, kToMemory);
}

// What came is what went, whole, and nothing else on its page has changed.
Result<void> Edu::judge() {
  TRY(take_interrupt());
  const Pattern pattern = block(state_.round);
  if (state_.under_way == kOut) {
    for (u64 at = kPageSize; at < 2 * kPageSize; at += 8) {
      const bool inside = at >= kTo && at < kTo + kBlock;
      const u64 found = hw::load(area_.word<u64>(at));
      if (inside && found == kPoison) return wrong("the device says that it is done, and wrote nothing");
      if (inside && found != pattern.word((at - kTo) / 8)) return wrong("other data came back than went to the device");
      if (!inside && found != kPoison) return wrong("data landed beside its place");
    }
  }
  ++state_.landed;
  if (state_.kernels != 0) ++state_.carried;
  state_.loaded = state_.under_way == kIn ? 1 : 0;
  state_.under_way = kNothing;
  return {};
}

Result<void> Edu::wait() {
  const bool done = TRY(wait_until(kPatienceNs, [&]() -> Result<bool> { return !TRY(busy()); }));
  if (!done) return wrong("the transfer does not end");
  return {};
}

Result<void> Edu::check(bool patient) {
  forget_wrong();
  if (TRY(bus_errors()) != 0) return wrong("the function has recorded bus errors");
  if (!patient) {
    if (state_.under_way != kNothing && TRY(busy())) return {};
    if (state_.under_way != kNothing) TRY(judge());
    return arm();
  }
  // Only what comes back can be looked at, so a block goes both ways.
  do {
    if (state_.under_way == kNothing) TRY(arm());
    TRY(wait());
    TRY(judge());
  } while (state_.loaded != 0);
  return {};
}

Result<void> Edu::leave() {
  return check(false);
}

Result<u64> Edu::store(u64 i, u64 iova) {
  TRY(command(kBuffer + 8 * i, iova, 8, kToMemory));
  TRY(wait());
  TRY(take_interrupt());
  return block(state_.round).word(i);
}

void Edu::report(Evidence& evidence) const {
  evidence.add("transfers", state_.transfers);
  evidence.add("landed", state_.landed);
  evidence.add("carried", state_.carried);
  evidence.add("rounds", state_.round);
  if (state_.interrupting != 0) evidence.add("interrupts", state_.interrupts);
}

}  // namespace perdure::scenarios
