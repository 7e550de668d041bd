#include "scenarios/drivers/ohci.h"

namespace perdure::scenarios {

Result<void> Ohci::start() {
  TRY(find_registers());
  if ((TRY(get32(0)) & 0xFF) != 0x10) return wrong("no OHCI 1.0 answers at the controller's registers");
  area_.fill(0);
  TRY(set32(kCommandStatus, kReset));
  if (!TRY(wait_until(kPatienceNs, [&]() -> Result<bool> { return (TRY(get32(kCommandStatus)) & kReset) == 0; }))) {
    return wrong("the controller does not come out of its reset");
  }
  TRY(set32(kInterruptDisable, ~u32{0}));
  TRY(set32(kInterruptStatus, ~u32{0}));
  TRY(set32(kHcca, static_cast<u32>(area_.iova)));
  TRY(device_.set_bus_master(true));
  if (TRY(bus_errors()) != 0) return wrong("the controller has recorded bus errors before its first frame");
  const u32 first = TRY(number());
  const u64 now = context_.sys.now_ns();
  state_ = {.started_ns = now, .frames = 0, .looked_ns = now, .last = first, .before_jump = 0};
  TRY(set32(kControl, kOperational));
  TRY(wait_frames(2));
  state_.before_jump = state_.last;
  return {};
}

Result<void> Ohci::resume() {
  TRY(find_registers());
  frames_before_ = state_.frames;
  return check(false);
}

// What sticks once a request has failed.
Result<void> Ohci::alive() {
  if ((TRY(get32(kInterruptStatus)) & kUnrecoverable) != 0) {
    return wrong("unrecoverable error: a request of the controller failed");
  }
  if ((TRY(get32(kControl)) & kStateMask) != kOperational) return wrong("the controller is not operational any more");
  if (TRY(bus_errors()) != 0) return wrong("the function has recorded bus errors");
  if (TRY(get32(kHcca)) != area_.iova) return wrong("the controller's area is another: it was reset");
  return {};
}

// Counts frames, whose number has 16 bits, by the clock; and memory must say what the register says.
Result<void> Ohci::look() {
  const u64 begin = context_.sys.now_ns();
  u32 first = 0;
  u32 written = 0;
  u32 second = 0;
  // The register is ahead by one while a frame begins.
  const bool agreed = TRY(wait_until(kPatienceNs, [&]() -> Result<bool> {
    first = TRY(number());
    written = in_memory();
    second = TRY(number());
    const u32 range = (second - first + 1) & 0xFFFF;
    return ((written - (first - 1)) & 0xFFFF) <= range;
  }));
  if (!agreed) return wrong("the frame number in memory does not follow the controller's");
  const u64 elapsed = (context_.sys.now_ns() - state_.looked_ns) / kFrameNs + 1;
  u64 frames = (written - state_.last) & 0xFFFF;
  while (frames + 0x8000 < elapsed) frames += 0x1'0000;
  // A number that went back, as after a reset, looks like one far ahead of the clock: of the one that runs since the
  // start, because emulated controllers may be late at one look and make up for it until the next.
  const u64 due = frames_due();
  if (state_.frames + frames > due + slack(due)) {
    return wrong("the frame number is not where the clock says: the controller was reset");
  }
  if (frames == 0 && elapsed * kFrameNs > kPatienceNs) return wrong("no frame for ten seconds");
  if (frames == 0) return {};
  state_.frames += frames;
  state_.last = written;
  state_.looked_ns = begin;
  return {};
}

Result<void> Ohci::wait_frames(u32 frames) {
  const u64 until = state_.frames + frames;
  const bool came = TRY(wait_until(kPatienceNs, [&]() -> Result<bool> {
    TRY(alive());
    TRY(look());
    return state_.frames >= until;
  }));
  if (!came) return wrong("frames do not begin");
  return {};
}

Result<void> Ohci::check(bool patient) {
  forget_wrong();
  TRY(alive());
  if (!patient) return look();
  TRY(wait_frames(2));
  // All of them, from the first.
  const u64 due = frames_due();
  if (state_.frames + slack(due) < due) TRY(wait_frames(static_cast<u32>(due - slack(due) - state_.frames)));
  return alive();
}

Result<void> Ohci::leave() {
  TRY(check(false));
  state_.before_jump = state_.last;
  return {};
}

// By this clock; the controller's is another.
u64 Ohci::frames_due() const {
  return (context_.sys.now_ns() - state_.started_ns) / kFrameNs;
}

void Ohci::report(Evidence& evidence) const {
  evidence.add("frames", state_.frames);
  evidence.add("here", state_.frames - frames_before_);
  evidence.add("number", state_.last);
  evidence.add("before_jump", state_.before_jump);
}

}  // namespace perdure::scenarios
