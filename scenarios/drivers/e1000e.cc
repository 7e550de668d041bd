#include "scenarios/drivers/e1000e.h"

#include "scenarios/drivers/pattern.h"

namespace perdure::scenarios {

namespace {
constexpr u64 kPoison = 0xDEAD'BEEF'DEAD'BEEF;
// That a descriptor may be passed before it is written back.
constexpr u64 kWriteBackNs = 1'000'000'000;
// In words of 8 of a frame. The first two share theirs with the addresses.
constexpr u64 kTypeAt = 1, kSequenceAt = 2, kSeedAt = 3, kPayloadAt = 4;
constexpr u64 kTypeAndLengthShift = 32;  // within its word: type, most significant byte first, then the length
constexpr u32 kType = 0xB588;            // as a little-endian load sees it

constexpr u64 length_of(u64 sequence) {
  return 64 + 8 * (sequence % 21);
}
static_assert(length_of(20) <= E1000e::kBufferBytes);
}  // namespace

// A free descriptor, whose buffer shows when nothing was written to it.
void E1000e::offer(u32 i) {
  const DmaArea buffer = buffers_.part(u64{i} * kBufferBytes, kBufferBytes);
  buffer.fill(kPoison);
  hw::store(&descriptor(i)->address, buffer.iova);
  hw::store(&descriptor(i)->status, u64{0});
}

Result<void> E1000e::start() {
  TRY(find_registers());
  const u32 descriptors = state_.descriptors;
  if (descriptors < 16 || descriptors % 8 != 0 || descriptors > kMostDescriptors) {
    return wrong("a ring has 16 to 65528 descriptors, a multiple of 8");
  }
  state_ = {};
  state_.descriptors = descriptors;
  TRY(set32(kInterruptMaskClear, ~u32{0}));
  TRY(set32(kReceiveControl, 0));
  TRY(set32(kControl, TRY(get32(kControl)) | kReset));
  if (!TRY(wait_until(kPatienceNs, [&]() -> Result<bool> { return (TRY(get32(kControl)) & kReset) == 0; }))) {
    return wrong("the adapter does not come out of its reset");
  }
  TRY(set32(kInterruptMaskClear, ~u32{0}));
  TRY(set32(kControl, TRY(get32(kControl)) | kSetLinkUp));
  if (!TRY(wait_until(kPatienceNs, [&]() -> Result<bool> { return (TRY(get32(kStatus)) & kLinkUp) != 0; }))) {
    return wrong("the adapter's link does not come up");
  }
  for (u32 i = 0; i < descriptors; ++i) offer(i);
  TRY(set32(kFilterControl, TRY(get32(kFilterControl)) & ~kExtendedStatus));
  TRY(set32(kRingLow, static_cast<u32>(area_.iova)));
  TRY(set32(kRingHigh, static_cast<u32>(area_.iova >> 32)));
  TRY(set32(kRingLength, descriptors * static_cast<u32>(sizeof(Descriptor))));
  TRY(set32(kHead, 0));
  // Reading them clears them.
  TRY(get32(kGoodPackets));
  TRY(get32(kMissedPackets));
  TRY(get32(kNoBuffers));
  state_.last_frame_ns = context_.sys.now_ns();
  // Frames that came early wait for descriptors. Those that are offered to an adapter which is off are dropped, and
  // QEMU offers them whenever the ring, or bus mastering, changes: so the adapter is turned on before these.
  TRY(set32(kReceiveControl, kReceive));
  TRY(device_.set_bus_master(true));
  // One less than there are: head and tail are the same only in an empty ring.
  state_.tail = descriptors - 1;
  return set32(kTail, state_.tail);
}

Result<void> E1000e::same_as_set_up() {
  const u64 base = TRY(get32(kRingLow))
  | u64 {
    TRY(get32(kRingHigh))
  }
  << 32;
  const u32 length = TRY(get32(kRingLength));
  const u32 tail = TRY(get32(kTail));
  const bool ring = base == area_.iova && length == state_.descriptors * sizeof(Descriptor) && tail == state_.tail;
  if (!ring) return wrong("the adapter's ring is another: it was reset");
  if (TRY(get32(kReceiveControl)) != kReceive) return wrong("the adapter does not receive any more: it was reset");
  if ((TRY(get32(kStatus)) & kLinkUp) == 0) return wrong("the adapter's link is down");
  return {};
}

Result<void> E1000e::resume() {
  TRY(find_registers());
  frames_before_ = state_.frames;
  state_.last_frame_ns = context_.sys.now_ns();
  return check(false);
}

Result<void> E1000e::count() {
  state_.counted += TRY(get32(kGoodPackets));
  state_.missed += TRY(get32(kMissedPackets));
  state_.no_buffer += TRY(get32(kNoBuffers));
  return {};
}

Result<void> E1000e::examine(u32 i, u64 status) {
  const u64* const frame = buffers_.word<u64>(u64{i} * kBufferBytes);
  const u64 flags = status >> 32 & 0xFF;
  if ((flags & kEndOfPacket) == 0 || (status >> 40 & 0xFF) != 0) return wrong("a frame in pieces, or with errors");
  const u64 head = hw::load(frame + kTypeAt);
  const u64 sequence = hw::load(frame + kSequenceAt);
  const u64 seed = hw::load(frame + kSeedAt);
  if (head == kPoison || sequence == kPoison)
    return wrong("a descriptor says done, and nothing was written to its buffer");
  const u64 length = head >> 48;
  if ((head >> kTypeAndLengthShift & 0xFFFF) != kType || length != length_of(sequence)) {
    return wrong("a frame that is none of the host's");
  }
  if ((status & 0xFFFF) != length) return wrong("a descriptor with another length than its frame");
  if (state_.frames == 0) state_.seed = static_cast<u32>(seed);
  if (seed != state_.seed) return wrong("a frame of another seed");
  const Pattern pattern(seed ^ sequence);
  for (u64 w = kPayloadAt; w < length / 8; ++w) {
    if (hw::load(frame + w) != pattern.word(w - kPayloadAt)) return wrong("a frame whose contents are not its own");
  }
  for (u64 w = length / 8; w < kBufferBytes / 8; ++w) {
    if (hw::load(frame + w) != kPoison) return wrong("more was written to a buffer than its frame");
  }
  if (sequence < state_.sequence) return wrong("a frame came twice");
  state_.missing += sequence - state_.sequence;
  state_.sequence = sequence + 1;
  ++state_.frames;
  return {};
}

// Every descriptor that the adapter has passed must be done, in order; each is given back.
Result<void> E1000e::collect() {
  const u32 head = TRY(get32(kHead));
  if (head >= state_.descriptors) return wrong("the adapter's head is outside of its ring");
  const u32 first = state_.next;
  while (state_.next != head) {
    const u32 i = state_.next;
    u64 status = 0;
    // It may pass a descriptor a little before it is written back.
    const bool done = TRY(wait_until(kWriteBackNs, [&]() -> Result<bool> {
      status = hw::load(&descriptor(i)->status);
      return (status >> 32 & kDone) != 0;
    }));
    if (!done) return wrong("the adapter passed a descriptor and did not write it");
    TRY(examine(i, status));
    offer(i);
    state_.next = after(i);
  }
  if (state_.next == first) return {};
  state_.last_frame_ns = context_.sys.now_ns();
  state_.tail = state_.next == 0 ? state_.descriptors - 1 : state_.next - 1;
  return set32(kTail, state_.tail);
}

Result<void> E1000e::check(bool patient) {
  forget_wrong();
  if (TRY(bus_errors()) != 0) return wrong("the function has recorded bus errors");
  TRY(same_as_set_up());
  TRY(count());
  const u64 counted = state_.counted;
  TRY(collect());
  // What it had counted had been written; the last one may have been written and not counted yet.
  if (state_.frames < counted) return wrong("the adapter counted frames that are not in memory");
  TRY(count());
  if (state_.frames > state_.counted + 1) return wrong("there are frames in memory that the adapter did not count");
  if (state_.missing != 0) return wrong("frames are missing");
  if (state_.missed != 0) return wrong("the adapter missed frames (MPC)");
  if (patient) {
    const u64 before = state_.frames;
    if (!TRY(wait_until(kPatienceNs, [&]() -> Result<bool> {
          TRY(collect());
          return state_.frames > before;
        }))) {
      return wrong("no frame for ten seconds; is the host sending?");
    }
    TRY(count());
  }
  if (context_.sys.now_ns() - state_.last_frame_ns > kPatienceNs) {
    return wrong("no frame for ten seconds; is the host sending?");
  }
  return {};
}

void E1000e::report(Evidence& evidence) const {
  evidence.add("frames", state_.frames);
  evidence.add("here", state_.frames - frames_before_);
  evidence.add("counted", state_.counted);
  evidence.add("missed", state_.missed);
  evidence.add("no_buffer", state_.no_buffer);
  evidence.add("missing", state_.missing);
  evidence.add("next", state_.sequence);
}

}  // namespace perdure::scenarios
