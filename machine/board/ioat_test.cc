// The copy engine, driven as its drivers drive it: register numbers and descriptor layouts are those of the hardware's
// tables (uapi.md 7), not the model's.
#include "machine/board/ioat.h"

#include <chrono>

#include "machine/board/board_fixture.h"

namespace perdure::board {
namespace {

constexpr Bdf kIoatAt{0, 6, 0};
constexpr u64 kDescriptors = 0x30'0000, kCompletion = 0x31'0000, kFrom = 0x100'0000, kTo = 0x200'0000;
constexpr u32 kActive = 0, kDone = 1, kSuspended = 2, kHalted = 3;
constexpr u32 kInterruptBit = 1, kCompletionBit = 8, kNullBit = 32;

class IoatTest : public testing::BoardTest {
 protected:
  void SetUp() override { set_up(); }
  void set_up(unsigned transfer_log2 = 12, u64 bytes_per_second = 4'000'000'000) {
    BoardConfig config = testing::small_machine();
    DeviceConfig ioat;
    ioat.kind = DeviceKind::Ioat;
    ioat.bdf = kIoatAt;
    ioat.ioat = {transfer_log2, bytes_per_second};
    config.devices.push_back(ioat);
    build(config);
    messages.clear();
    set_up_function();
  }
  void set_up_function() {
    set_command(kIoatAt, 0x406);
    bar = bar64(kIoatAt);
    // MSI-X: one vector.
    const u64 table = bar64(kIoatAt, 0x18);
    write32(table + 0, 0xFEE0'0000);
    write32(table + 4, 0);
    write32(table + 8, 0x51);
    write32(table + 12, 0);
    set_config16(kIoatAt, capability(kIoatAt, 0x11) + 2, 0x8000);
  }
  u64 get(u64 offset, Width width) { return board->mmio_read(Phys(bar + offset), width); }
  void set(u64 offset, Width width, u64 value) { board->mmio_write(Phys(bar + offset), width, value); }

  // --- a driver of a few lines ---------------------------------------------------------------------------------------
  u32 status() { return static_cast<u32>(get(0x88, Width::W64) & 7); }
  u32 errors() { return static_cast<u32>(get(0xA8, Width::W32)); }
  void clear_and_reset() {
    set_config32(kIoatAt, 0x180, config32(kIoatAt, 0x180));
    set(0xA8, Width::W32, errors());
    set(0x84, Width::W8, 0x20);
    EXPECT_EQ(get(0x84, Width::W8) & 0x20, 0u);
    EXPECT_EQ(status(), kHalted);
  }
  static u64 descriptor_at(unsigned n) { return kDescriptors + 64 * n; }
  void describe(unsigned n, u64 from, u64 to, u32 size, u32 control, u64 next) {
    const u64 at = descriptor_at(n);
    store(at, size | u64{control} << 32);
    store(at + 8, from);
    store(at + 16, to);
    store(at + 24, next);
  }
  void start(u64 chain, u16 count) {
    set(0x90, Width::W64, chain);
    set(0x80, Width::W16, 9);
    set(0x86, Width::W16, count);
  }
  // One copy by a descriptor that leads to itself, as often as asked.
  void copy(u64 from, u64 to, u32 size, u32 control = 0, u16 count = 1) {
    describe(0, from, to, size, control, descriptor_at(0));
    start(descriptor_at(0), count);
  }
  u32 finish() {
    for (int i = 0; i < 100'000 && status() == kActive; ++i) board->step(10);
    return status();
  }
  void fill(u64 phys, u64 bytes, u64 seed) {
    for (u64 i = 0; i < bytes; i += 8) store(phys + i, (seed + i) * 0x9E37'79B9'7F4A'7C15);
  }
  bool same(u64 a, u64 b, u64 bytes) {
    return std::memcmp(board->direct_map() + a, board->direct_map() + b, bytes) == 0;
  }
  u8 byte_at(u64 phys) { return static_cast<u8>(board->direct_map()[phys]); }
  PhaseResult result() { return now(board->audit(), kIoatAt); }

  u64 bar = 0;
};

TEST_F(IoatTest, IsFoundByItsDrivers) {
  EXPECT_EQ(config32(kIoatAt, 0), 0x2021'8086u);
  EXPECT_EQ(config32(kIoatAt, 8) >> 8, 0x088000u);
  EXPECT_EQ(get(0x00, Width::W8), 1u) << "channels";
  EXPECT_EQ(get(0x01, Width::W8), 12u) << "copies of 4 KiB";
  EXPECT_EQ(get(0x08, Width::W8), 0x33u);
  EXPECT_EQ(get(0x10, Width::W32) & 0x40, 0x40u) << "it fills, too";
  EXPECT_EQ(get(0x88, Width::W64), kHalted);
  // Registers may be read together, and have no other widths than aligned ones.
  EXPECT_EQ(get(0x00, Width::W32), 0x0C01u);
  EXPECT_EQ(get(0x08, Width::W64), 0x33u);
  EXPECT_EQ(get(0x89, Width::W16), 0xFFFFu);
  set(0x03, Width::W8, 0x08);
  EXPECT_EQ(get(0x03, Width::W8), 8u);
  EXPECT_EQ(get(0x00, Width::W64), 0x0800'0C01u);
  EXPECT_EQ(config32(kIoatAt, 0x180), 0u);
  EXPECT_EQ(config32(kIoatAt, 0x148), 0u);
  set_config32(kIoatAt, 0x184, 0x3E07);
  EXPECT_EQ(config32(kIoatAt, 0x184), 0x3E07u);
  EXPECT_EQ(config32(kIoatAt, 0xFFC), 0u) << "4 KiB of configuration space";
  // It can reset its function.
  EXPECT_NE(config32(kIoatAt, capability(kIoatAt, 0x10) + 4) & u32{1} << 28, 0u);
}

TEST_F(IoatTest, StatusChangesWhenDriversExpectIt) {
  clear_and_reset();
  fill(kFrom, 4096, 1);
  describe(0, kFrom, kTo, 4096, 0, descriptor_at(0));
  set(0x90, Width::W64, descriptor_at(0));
  EXPECT_EQ(status(), kHalted) << "until it is kicked";
  set(0x80, Width::W16, 9);
  set(0x86, Width::W16, 1);
  EXPECT_EQ(status(), kActive) << "at once: drivers take HALTED for an error";
  EXPECT_FALSE(same(kFrom, kTo, 4096)) << "and takes its time";
  EXPECT_EQ(finish(), kDone);
  EXPECT_TRUE(same(kFrom, kTo, 4096));
  EXPECT_EQ(get(0x88, Width::W64), descriptor_at(0) | kDone);
  EXPECT_TRUE(messages.empty());
  set(0x84, Width::W8, 4);
  EXPECT_EQ(status(), kSuspended);
  // And again from there.
  fill(kFrom, 4096, 2);
  start(descriptor_at(0), 1);
  EXPECT_EQ(status(), kActive);
  EXPECT_EQ(finish(), kDone);
  EXPECT_TRUE(same(kFrom, kTo, 4096));
  EXPECT_EQ(result().done, 2u);
}

TEST_F(IoatTest, CopiesExactlyWhatItIsTold) {
  fill(kFrom, 8192, 3);
  for (const auto& [from, to, size] :
       {std::tuple<u64, u64, u32>{1, 7, 4089}, {4095, 3, 2}, {0, 4095, 1}, {5, 0, 4096}}) {
    std::memset(board->direct_map() + kTo, 0xEE, 0x3000);
    copy(kFrom + from, kTo + 0x100 + to, size);
    ASSERT_EQ(finish(), kDone);
    EXPECT_TRUE(same(kFrom + from, kTo + 0x100 + to, size)) << from;
    EXPECT_EQ(byte_at(kTo + 0x100 + to - 1), 0xEE);
    EXPECT_EQ(byte_at(kTo + 0x100 + to + size), 0xEE);
  }
}

// A ring as kernels use it: DMACOUNT is the number of descriptors since the chain's address was written.
TEST_F(IoatTest, FollowsAChainAsFarAsItIsTold) {
  constexpr unsigned kRing = 8;
  for (unsigned n = 0; n < kRing; ++n) {
    fill(kFrom + 4096 * n, 4096, n);
    describe(n, kFrom + 4096 * n, kTo + 4096 * n, 4096, kCompletionBit, descriptor_at((n + 1) % kRing));
  }
  set(0x98, Width::W32, kCompletion);
  set(0x9C, Width::W32, 0);
  set(0x90, Width::W32, static_cast<u32>(kDescriptors));
  set(0x94, Width::W32, 0);
  for (u16 until = 0; until < 70'000 / 8; until = static_cast<u16>(until + 3)) {
    std::memset(board->direct_map() + kTo, 0, 4096 * kRing);
    if (until == 0) continue;
    set(0x86, Width::W16, until);
    ASSERT_EQ(finish(), kDone);
    for (u16 k = static_cast<u16>(until - 3); k != until; ++k) {
      ASSERT_TRUE(same(kFrom + 4096 * (k % kRing), kTo + 4096 * (k % kRing), 4096)) << k;
    }
    EXPECT_EQ(load(kTo + 4096 * (until % kRing)), 0u) << "not the one after";
    EXPECT_EQ(load(kCompletion), descriptor_at((until - 1) % kRing) | kDone);
    EXPECT_EQ(get(0x88, Width::W64), load(kCompletion));
  }
  // Nothing more is wanted of it: nothing happens.
  set(0x86, Width::W16, get(0x86, Width::W16));
  EXPECT_EQ(status(), kDone);
}

TEST_F(IoatTest, TheCountWrapsAround) {
  set_up(12, 1'000'000'000'000);
  fill(kFrom, 64, 1);
  copy(kFrom, kTo, 64, 0, 65535);
  EXPECT_EQ(finish(), kDone);
  EXPECT_EQ(result().done, 65'535u);
  set(0x86, Width::W16, 2);
  EXPECT_EQ(status(), kActive);
  EXPECT_EQ(finish(), kDone);
  EXPECT_EQ(result().done, 65'538u) << "3 more: 65535, 0, 1";
}

TEST_F(IoatTest, FillsAndDoesNothing) {
  describe(0, 0, 0, 8, kNullBit | kCompletionBit, descriptor_at(1));
  describe(1, 0x0807'0605'0403'0201, kTo + 3, 21, 1u << 24, descriptor_at(0));
  set(0x98, Width::W64, kCompletion);
  std::memset(board->direct_map() + kTo, 0xEE, 64);
  start(descriptor_at(0), 2);
  EXPECT_EQ(finish(), kDone);
  EXPECT_EQ(load(kCompletion), descriptor_at(0) | kActive) << "when it was written there was more to do";
  for (u64 i = 0; i < 21; ++i) EXPECT_EQ(byte_at(kTo + 3 + i), 1 + i % 8);
  EXPECT_EQ(byte_at(kTo + 2), 0xEE);
  EXPECT_EQ(byte_at(kTo + 24), 0xEE);
}

TEST_F(IoatTest, InterruptsOnceUntilItIsArmedAgain) {
  copy(kFrom, kTo, 8, kInterruptBit);
  finish();
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].second, 0x51u);
  EXPECT_EQ(get(0x80, Width::W16) & 1, 1u);
  EXPECT_EQ(get(0x04, Width::W32), 1u) << "attention";
  set(0x86, Width::W16, 3);
  finish();
  EXPECT_EQ(messages.size(), 1u) << "not armed";
  set(0x80, Width::W16, 8);
  EXPECT_EQ(get(0x80, Width::W16), 9u) << "0 does not arm it";
  set(0x80, Width::W16, 9);
  EXPECT_EQ(get(0x80, Width::W16), 8u);
  EXPECT_EQ(get(0x04, Width::W32), 0u);
  set(0x86, Width::W16, 5);
  finish();
  EXPECT_EQ(messages.size(), 2u);
  copy(kFrom, kTo, 8, 0);
  finish();
  EXPECT_EQ(messages.size(), 2u) << "not asked for";
}

// At a pace at which the copy takes many steps.
TEST_F(IoatTest, TheInterruptComesLast) {
  set_up(12, 100'000'000);
  u64 there = 0, completion = 0;
  board->set_msi_sink([&](u64, u32) {
    there = load(kTo + 4088);
    completion = load(kCompletion);
  });
  fill(kFrom, 4096, 77);
  set(0x98, Width::W64, kCompletion);
  copy(kFrom, kTo, 4096, kInterruptBit | kCompletionBit);
  finish();
  EXPECT_EQ(there, load(kFrom + 4088)) << "after the data";
  EXPECT_EQ(completion, descriptor_at(0) | kDone) << "and after what tells of it in memory";
}

TEST_F(IoatTest, SuspendsBetweenTwoDescriptorsAndGoesOn) {
  set_up(12, 100'000'000);  // 41 µs a copy
  fill(kFrom, 4096, 9);
  copy(kFrom, kTo, 4096, 0, 3);
  while (result().done < 1) board->step();
  board->step_for(5'000);
  set(0x84, Width::W8, 4);
  EXPECT_EQ(status(), kActive) << "it ends what it began";
  EXPECT_EQ(finish(), kSuspended);
  EXPECT_EQ(result().done, 2u);
  board->step_for(1'000'000);
  EXPECT_EQ(result().done, 2u);
  set(0x86, Width::W16, 3);
  EXPECT_EQ(status(), kActive);
  EXPECT_EQ(finish(), kDone);
  EXPECT_EQ(result().done, 3u);
  // A reset suspends nothing, it ends it.
  copy(kFrom, kTo, 4096, 0, 3);
  board->step_for(5'000);
  clear_and_reset();
  board->step_for(1'000'000);
  EXPECT_EQ(result().done, 3u);
  EXPECT_EQ(get(0x90, Width::W64), 0u);
  set(0x84, Width::W8, 4);
  EXPECT_EQ(status(), kHalted) << "there is nothing to suspend";
}

TEST_F(IoatTest, TheChainCannotBeTakenFromARunningChannel) {
  set_up(12, 100'000'000);
  copy(kFrom, kTo, 4096, 0, 2);
  set(0x90, Width::W64, 0x1234'0000);
  EXPECT_EQ(get(0x90, Width::W64), descriptor_at(0));
  EXPECT_EQ(finish(), kDone);
  EXPECT_EQ(result().done, 2u);
}

struct Refusal {
  const char* name;
  u64 from, to;
  u32 size, control;
  u64 chain, completion;
  u32 error;
};
class IoatRefuses : public IoatTest, public ::testing::WithParamInterface<Refusal> {};

constexpr u64 kNowhere = 0x1'0000'0000;
INSTANTIATE_TEST_SUITE_P(
    All, IoatRefuses,
    ::testing::Values(Refusal{"source", kNowhere, kTo, 64, 0, kDescriptors, 0, 0x100},
                      Refusal{"source_ends_early", kNowhere - 32, kTo, 64, 0, kDescriptors, 0, 0x100},
                      Refusal{"destination", kFrom, kNowhere, 64, 0, kDescriptors, 0, 0x200},
                      Refusal{"descriptor", kFrom, kTo, 64, 0, kNowhere, 0, 0x10},
                      Refusal{"descriptor_not_aligned", kFrom, kTo, 64, 0, kDescriptors + 8, 0, 0x10},
                      Refusal{"completion", kFrom, kTo, 64, kCompletionBit, kDescriptors, kNowhere, 0x1000},
                      Refusal{"too_long", kFrom, kTo, 4097, 0, kDescriptors, 0, 0x800},
                      Refusal{"much_too_long", kFrom, kTo, 0xFFFF'FFFF, 0, kDescriptors, 0, 0x800},
                      Refusal{"empty", kFrom, kTo, 0, 0, kDescriptors, 0, 0x800},
                      Refusal{"unknown_operation", kFrom, kTo, 64, 0xFF00'0000, kDescriptors, 0, 0x400},
                      Refusal{"wraps", ~u64{0} - 7, kTo, 64, 0, kDescriptors, 0, 0x100}),
    [](const auto& p) { return std::string(p.param.name); });

// With an IOMMU, faults; the channel halts, says why, and does not interrupt (uapi.md 7: "must not raise an MSI").
TEST_P(IoatRefuses, HaltsAndSaysWhy) {
  const Refusal& r = GetParam();
  root = page();
  const u64 top = page();
  map_range(top, kDescriptors, kDescriptors, 0x2'0000);
  map_range(top, kFrom, kFrom, 0x10'0000);
  map_range(top, kTo, kTo, 0x10'0000);
  map_range(top, kNowhere - 4096, kFrom, 4096);
  set_context(kIoatAt, top, 4);
  translation_on();
  set(0x98, Width::W64, r.completion);
  describe(0, r.from, r.to, r.size, r.control | kInterruptBit, kDescriptors);
  start(r.chain, 2);
  EXPECT_EQ(finish(), kHalted);
  EXPECT_EQ(errors(), r.error);
  EXPECT_EQ(config32(kIoatAt, 0x180), r.error);
  EXPECT_TRUE(messages.empty());
  // Until software has seen it the channel does not go on.
  describe(0, kFrom, kTo, 64, kInterruptBit, kDescriptors);
  start(kDescriptors, 1);
  board->step_for(100'000);
  EXPECT_EQ(status(), kHalted);
  clear_and_reset();
  EXPECT_EQ(errors(), 0u);
  EXPECT_EQ(config32(kIoatAt, 0x180), 0u);
  set(0x98, Width::W64, kCompletion);
  fill(kFrom, 64, 5);
  start(kDescriptors, 1);
  EXPECT_EQ(finish(), kDone);
  EXPECT_TRUE(same(kFrom, kTo, 64));
  EXPECT_EQ(messages.size(), 1u);
}

TEST_F(IoatTest, ErrorsInterruptAndCompleteWhenAskedTo) {
  describe(0, kNowhere, kTo, 64, 0, kDescriptors);
  set(0x98, Width::W64, kCompletion);
  set(0x90, Width::W64, kDescriptors);
  set(0x80, Width::W16, 0x1D);
  set(0x86, Width::W16, 1);
  EXPECT_EQ(finish(), kHalted);
  EXPECT_EQ(load(kCompletion), kHalted);
  EXPECT_EQ(messages.size(), 1u);
  EXPECT_EQ(result().not_done_by(Cause::Unbacked), 1u);
  EXPECT_EQ(config32(kIoatAt, 4) >> 16 & 0x2000, 0x2000u) << "received master abort";
}

TEST_F(IoatTest, BusMasteringOffIsAnErrorLikeAnother) {
  set_command(kIoatAt, 0x402);
  copy(kFrom, kTo, 64);
  EXPECT_EQ(finish(), kHalted);
  EXPECT_EQ(result().not_done_by(Cause::BusMasterOff), 1u);
}

TEST_F(IoatTest, AFunctionLevelResetForgetsEverything) {
  set_up(12, 100'000'000);
  copy(kFrom, kTo, 4096, 0, 9);
  set(0x03, Width::W8, 8);
  board->step_for(10'000);
  const unsigned control = capability(kIoatAt, 0x10) + 8;
  set_config16(kIoatAt, control, 0x8000);
  const u64 done = result().done;
  board->step_for(1'000'000);
  EXPECT_EQ(result().done, done);
  EXPECT_EQ(result().resets, 1u);
  set_config32(kIoatAt, 0x10, static_cast<u32>(bar));
  set_config32(kIoatAt, 0x14, static_cast<u32>(bar >> 32));
  set_command(kIoatAt, 6);
  EXPECT_EQ(get(0x03, Width::W8), 0u);
  EXPECT_EQ(get(0x88, Width::W64), kHalted);
  EXPECT_EQ(get(0x90, Width::W64), 0u);
}

// In the middle of a large copy: it goes on where it was.
TEST_F(IoatTest, SurvivesSaveAndLoad) {
  set_up(24, 1'000'000'000);
  fill(kFrom, 1 << 20, 8);
  copy(kFrom, kTo, 1 << 20);
  board->step_for(500'000);
  const u64 middle = kTo + (1 << 19);
  const std::vector<std::byte> saved = board->save_registers();
  EXPECT_EQ(finish(), kDone);
  std::memset(board->direct_map() + kTo, 0, 1 << 20);
  board->load_registers(saved);
  EXPECT_EQ(status(), kActive);
  EXPECT_EQ(finish(), kDone);
  EXPECT_EQ(load(kTo), 0u) << "was done before";
  EXPECT_TRUE(same(kFrom + (3 << 18), kTo + (3 << 18), 1 << 18));
  EXPECT_NE(load(middle + (1 << 17)), 0u);
}

// On the host's clock, served by threads: 16 MiB in copies of 4 KiB do not take longer than a program would wait.
TEST_F(IoatTest, WorksInRealTime) {
  set_up(12, 1'000'000'000'000);
  fill(kFrom, 4096, 8);
  board->start();
  for (u32 round = 0; round < 3; ++round) {
    copy(kFrom, kTo, 4096, kInterruptBit, 4096);
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (status() == kActive && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    EXPECT_EQ(status(), kDone);
  }
  board->stop();
  EXPECT_TRUE(same(kFrom, kTo, 4096));
  EXPECT_EQ(result().done, 3u * 4096);
  const std::scoped_lock guard(messages_mutex);
  EXPECT_EQ(messages.size(), 3u);
}

}  // namespace
}  // namespace perdure::board
