#include "machine/board/streamer.h"

#include <set>

#include "machine/board/board_fixture.h"

namespace perdure::board {
namespace {

using testing::kStreamerAt;

// The data sheet's arithmetic, a second time.
u64 sheet_mix(u64 x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}
u64 sheet_iova(u64 base, u64 length, u64 slots, u64 seed, u64 i) {
  const u64 lines = length / 64;
  const u64 first = lines * i / slots;
  const u64 end = lines * (i + 1) / slots;
  return base + 64 * (first + sheet_mix(seed + i) % (end - first));
}

TEST(SlotPlan, FollowsTheDataSheet) {
  const SlotPlan plan(0x1000, u64{1} << 30, 5000, 99);
  for (u32 i : {0u, 1u, 17u, 4999u}) EXPECT_EQ(plan.iova(i), sheet_iova(0x1000, u64{1} << 30, 5000, 99, i));
}

TEST(SlotPlan, OneSlotInEveryPageAndEverySlotInTurn) {
  for (u64 seed : {0u, 1u, 12345u}) {
    for (u32 slots : {1u, 2u, 3u, 4096u, 5000u}) {
      const SlotPlan plan(0x4000'0000, u64{slots} * 4096, slots, seed);
      std::set<u64> pages;
      std::set<u32> visited;
      u32 at = 0;
      for (u32 i = 0; i < slots; ++i, at = plan.next(at)) {
        ASSERT_TRUE(visited.insert(at).second) << "slot " << at << " twice, seed " << seed;
        const u64 iova = plan.iova(at);
        EXPECT_EQ(iova % 64, 0u);
        pages.insert(iova >> 12);
      }
      EXPECT_EQ(at, 0u);
      EXPECT_EQ(pages.size(), slots);
      EXPECT_EQ(*pages.begin(), 0x4000'0000u >> 12);
      EXPECT_EQ(*pages.rbegin(), (0x4000'0000u >> 12) + slots - 1);
    }
  }
  const SlotPlan largest(0, Streamer::kMaxLength, Streamer::kMaxSlots, 3);
  EXPECT_LT(largest.iova(Streamer::kMaxSlots - 1), Streamer::kMaxLength);
  EXPECT_GE(largest.iova(Streamer::kMaxSlots - 1), Streamer::kMaxLength - (Streamer::kMaxLength >> 20));
}

class StreamerTest : public testing::BoardTest {
 protected:
  u64 total(unsigned counter) { return read64(bar64(kStreamerAt) + 0x40 + 8 * counter); }
  u64 ring_counter(unsigned ring, unsigned counter) { return read64(ring_at(kStreamerAt, ring) + 0x80 + 8 * counter); }
  enum { kDone, kNotScheduled, kFaulted, kBlocked, kBusMasterOff, kUnbacked, kInterrupts, kReadErrors };
};

TEST_F(StreamerTest, RegistersKeepTheirHalvesAndTheirRules) {
  build();
  const u64 bar = bar64(kStreamerAt);
  EXPECT_EQ(read64(bar), 0x0000'0001'4D52'5453u);
  EXPECT_EQ(read64(bar + 8), 4u | 16u << 8 | u64{kStreamerAt.value} << 16);
  const u64 ring = ring_at(kStreamerAt, 1);
  write64(ring + 0x10, 0x1111'2222'3333'4440);
  write32(ring + 0x14, 0xAAAA'BBBB);
  EXPECT_EQ(read64(ring + 0x10), 0xAAAA'BBBB'3333'4440u);
  write32(ring + 0x10, 0x40);
  EXPECT_EQ(read32(ring + 0x14), 0xAAAA'BBBBu);
  EXPECT_EQ(board->mmio_read(Phys(ring), Width::W16), 0xFFFFu);
  EXPECT_EQ(read64(ring_at(kStreamerAt, 4)), 0u) << "no fifth ring";
  write64(ring + 0x58, 77);
  EXPECT_EQ(read64(ring + 0x58), 0u) << "read only";
}

TEST_F(StreamerTest, WrongConfigurationDoesNotStart) {
  build();
  set_command(kStreamerAt, 6);
  const Plan good;
  const auto refused = [&](Plan p) {
    const u64 r = ring_at(kStreamerAt, 0);
    write64(r + 0x10, p.base);
    write64(r + 0x18, p.length);
    write64(r + 0x20, p.slots);
    write64(r + 0x30, p.rate);
    write64(r, 1);
    const u64 status = read64(r + 8);
    const bool running = (status & 1) != 0;
    write64(r, 0);
    return !running && (status & 2) != 0;
  };
  EXPECT_FALSE(refused(good));
  for (auto [field, value] :
       std::initializer_list<std::pair<u64 Plan::*, u64>>{{&Plan::base, 0x1020 - 1},
                                                          {&Plan::base, ~u64{0} - 63},
                                                          {&Plan::length, 0},
                                                          {&Plan::length, 100},
                                                          {&Plan::length, (u64{1} << 48) + 64},
                                                          {&Plan::slots, 0},
                                                          {&Plan::slots, (u64{1} << 20) + 1},
                                                          {&Plan::slots, (u64{16} << 20) / 64 + 1},
                                                          {&Plan::rate, 0},
                                                          {&Plan::rate, 10'000'001}}) {
    Plan p = good;
    p.*field = value;
    EXPECT_TRUE(refused(p)) << value;
  }
}

TEST_F(StreamerTest, WritesRecordsThatTheSheetDescribes) {
  build();
  stream_setup();
  start_ring(kStreamerAt, 2, {.slots = 64});
  board->step_for(2'000'000);  // 200 transfers
  stop_ring(kStreamerAt, 2);
  const u64 done = ring_counter(2, kDone);
  EXPECT_GE(done, 190u);
  EXPECT_EQ(read64(ring_at(kStreamerAt, 2) + 0x58), done);
  u64 newest = 0;
  for (u64 slot = 0; slot < 64; ++slot) {
    const u64 iova = slot_iova(kStreamerAt, 2, slot);
    EXPECT_EQ(iova, sheet_iova(kIova, u64{16} << 20, 64, 7, slot));
    std::array<u64, 8> w{};
    for (unsigned i = 0; i < 8; ++i) w[i] = guest->word(iova - kIova + 8 * i);
    EXPECT_EQ(w[0], 0x4452434552554450u);
    EXPECT_EQ(w[1], kStreamerAt.value | u64{2} << 16 | u64{1} << 24 | slot << 32);
    EXPECT_EQ(w[4], iova);
    EXPECT_EQ(w[5], 1u);
    EXPECT_EQ(w[6], sheet_mix(w[2] ^ slot << 40 ^ u64{2} << 32 ^ kStreamerAt.value));
    u64 h = 0;
    for (unsigned i = 0; i < 7; ++i) h = sheet_mix(h ^ w[i]);
    EXPECT_EQ(w[7], h);
    EXPECT_LE(w[3], board->now_ns());
    newest = std::max(newest, w[2]);
  }
  EXPECT_EQ(newest, done);
  write64(ring_at(kStreamerAt, 2) + 0x48, 64);
  EXPECT_EQ(read64(ring_at(kStreamerAt, 2) + 0x50), ~u64{0});
}

TEST_F(StreamerTest, EveryDueTransferIsDoneOrHasItsCause) {
  build();
  stream_setup();
  start_ring(kStreamerAt, 0, {});
  const u64 began = board->now_ns();
  board->step_for(3'000'000);
  set_command(kStreamerAt, 2);  // bus master off
  board->step_for(1'000'000);
  set_command(kStreamerAt, 6);
  set_command(testing::kPortAt, 2);  // of a bridge that is not above it: no matter
  board->step_for(1'000'000);
  // The last pages of the range are taken away.
  store(entry_at(guest_top, kIova, 3), 0);
  flush_all();
  board->step_for(1'000'000);
  // Where no memory is.
  store(entry_at(guest_top, kIova, 2), (board->window() / 2) | 3 | 0x80);
  flush_all();
  board->step_for(1'000'000);
  u64 sum = 0;
  for (unsigned c : {kDone, kNotScheduled, kFaulted, kBlocked, kBusMasterOff, kUnbacked}) {
    sum += ring_counter(0, c);
    EXPECT_EQ(total(c), ring_counter(0, c));
  }
  // What is due at 100,000 a second, but for what the last steps skipped.
  const u64 due = (board->now_ns() - began) / 10'000;
  EXPECT_LE(sum, due);
  EXPECT_GE(sum + 3, due);
  EXPECT_NEAR(static_cast<double>(total(kBusMasterOff)), 100, 5);
  EXPECT_NEAR(static_cast<double>(total(kFaulted)), 100, 100);
  EXPECT_GE(total(kFaulted), 95u);
  EXPECT_GT(total(kUnbacked), 0u);
  const PhaseResult r = now(board->audit(), kStreamerAt);
  EXPECT_EQ(r.done, total(kDone));
  EXPECT_EQ(r.not_done_by(Cause::BusMasterOff), total(kBusMasterOff));
  EXPECT_EQ(r.not_done_by(Cause::Faulted), total(kFaulted));
  EXPECT_EQ(r.not_done_by(Cause::Unbacked), total(kUnbacked));
  EXPECT_GE(r.longest_gap_ns, 900'000u);
}

TEST_F(StreamerTest, WhatIsFarTooLateIsNotScheduled) {
  build();
  stream_setup();
  start_ring(kStreamerAt, 0, {});
  Device& d = *board->device(kStreamerAt);
  {
    const DeviceGuard guard(d.lock());
    d.advance(board->now_ns() + 3'000'000'000);  // 300,000 due; 5 ms are made up for
  }
  EXPECT_EQ(total(kDone), 500u);
  EXPECT_EQ(total(kNotScheduled), 299'500u);
  EXPECT_TRUE(now(board->audit(), kStreamerAt).clean()) << "the host's fault is no gap";
}

TEST_F(StreamerTest, BridgeWithoutBusMasteringBlocksWhatIsBelow) {
  build();
  stream_setup(testing::kBelowAt);
  start_ring(testing::kBelowAt, 0, {});
  board->step_for(500'000);
  set_command(testing::kPortAt, 2);
  board->step_for(500'000);
  const u64 bar = bar64(testing::kBelowAt);
  EXPECT_NEAR(static_cast<double>(read64(bar + 0x40)), 50, 3);
  EXPECT_NEAR(static_cast<double>(read64(bar + 0x60)), 50, 3);
  // The requester id is made of the bus number that the bridge has now.
  set_command(testing::kPortAt, 6);
  set_config32(testing::kPortAt, 0x18, 0x00'09'09'00);
  board->step_for(500'000);
  set_config32(testing::kPortAt, 0x18, 0x00'01'01'00);
  EXPECT_NEAR(static_cast<double>(read64(bar + 0x50)), 50, 3) << "faulted";
}

TEST_F(StreamerTest, InterruptsEverySoManyRecordsByMsix) {
  build();
  stream_setup();
  const unsigned msix = capability(kStreamerAt, 0x11);
  EXPECT_EQ(config32(kStreamerAt, msix) >> 16 & 0x7FF, 15u);
  const u64 table = bar64(kStreamerAt, 0x18);
  write32(table + 16 * 3, 0xFEE0'0000);
  write32(table + 16 * 3 + 4, 0);
  write32(table + 16 * 3 + 8, 0x77);
  write32(table + 16 * 3 + 12, 0);
  set_config16(kStreamerAt, msix + 2, 0x8000);
  start_ring(kStreamerAt, 0, {.irq_every = 10});
  write64(ring_at(kStreamerAt, 0), 1 | 4 | 3 << 8);
  board->step_for(2'000'000);
  stop_ring(kStreamerAt, 0);
  const u64 expected = total(kDone) / 10;
  EXPECT_GE(expected, 18u);
  EXPECT_EQ(messages.size(), expected);
  EXPECT_EQ(total(kInterrupts), expected);
  EXPECT_EQ(read64(bar64(kStreamerAt) + 0x400 + 8 * 3), expected);
  for (const auto& [address, data] : messages) EXPECT_EQ(data, 0x77u);
  EXPECT_EQ(read64(bar64(kStreamerAt) + 0x18), 1u);
  write64(bar64(kStreamerAt) + 0x18, 1);
  EXPECT_EQ(read64(bar64(kStreamerAt) + 0x18), 0u);

  // Masked: pending, one message when unmasked.
  write32(table + 16 * 3 + 12, 1);
  messages.clear();
  write64(ring_at(kStreamerAt, 0), 1 | 4 | 3 << 8);
  board->step_for(1'000'000);
  stop_ring(kStreamerAt, 0);
  EXPECT_TRUE(messages.empty());
  EXPECT_EQ(read64(table + 0x800), 1u << 3);
  set_command(kStreamerAt, 2);
  write32(table + 16 * 3 + 12, 0);
  EXPECT_TRUE(messages.empty()) << "no message without bus mastering";
  EXPECT_EQ(read64(table + 0x800), 1u << 3);
  set_command(kStreamerAt, 6);
  EXPECT_EQ(messages.size(), 1u);
  EXPECT_EQ(read64(table + 0x800), 0u);
}

TEST_F(StreamerTest, MessagesGoThroughInterruptRemapping) {
  build();
  stream_setup();
  const unsigned msix = capability(kStreamerAt, 0x11);
  const u64 table = bar64(kStreamerAt, 0x18);
  // Entry 9 of the table at 12 MiB: this function alone, vector 0x77 of processor 1. Vector 0 uses it, vector 1 the
  // next one, which is not present; vector 2 is in the format of old.
  constexpr u64 kTable = 0xC0'0000;
  store(kTable + 9 * 16 + 8, u64{1} << 18 | board->device(kStreamerAt)->bdf().value);
  store(kTable + 9 * 16, 1 | u64{0x77} << 16 | u64{1} << 40);
  for (u64 v = 0; v < 3; ++v) {
    write64(table + v * 16, v == 2 ? 0xFEE0'0000 : 0xFEE0'0010 | (9 + v) << 5);
    write64(table + v * 16 + 8, v == 2 ? 0x77 : 0);
  }
  IommuModel& unit = board->unit(0);
  unit.write(0xB8, 8, kTable | 7);
  const u32 status = static_cast<u32>(unit.read(0x1C, 4)) & 0x96FF'FFFF;
  unit.write(0x18, 4, status | 1 << 24);
  unit.write(0x18, 4, status | 1 << 25);
  set_config16(kStreamerAt, msix + 2, 0x8000);
  for (u64 v = 0; v < 3; ++v) {
    messages.clear();
    const u64 sent = read64(bar64(kStreamerAt) + 0x400 + 8 * v);
    start_ring(kStreamerAt, 0, {.irq_every = 1});
    write64(ring_at(kStreamerAt, 0), 1 | 4 | v << 8);
    board->step_for(200'000);
    stop_ring(kStreamerAt, 0);
    const u64 raised = read64(bar64(kStreamerAt) + 0x400 + 8 * v) - sent;
    EXPECT_GT(raised, 0u);
    if (v == 0) {
      EXPECT_GE(messages.size(), raised);
      for (const auto& m : messages) EXPECT_EQ(m, (std::pair<u64, u32>{0xFEE0'1000, 0x77}));
    } else {
      EXPECT_EQ(unit.read(0x220 + 8, 8) >> 32 & 0xFF, v == 1 ? 0x22u : 0x25u);
      unit.write(0x220 + 12, 4, u32{1} << 31);
      unit.write(0x34, 4, 1);
    }
  }
  EXPECT_GT(board->blocked_messages(), 0u);
}

TEST_F(StreamerTest, MessagesAreTranslatedToo) {
  // A message outside the interrupt range is a write like any other: here it faults and is lost.
  build();
  stream_setup();
  const unsigned msix = capability(kStreamerAt, 0x11);
  const u64 table = bar64(kStreamerAt, 0x18);
  write64(table, 0x1'0000'0000);
  write64(table + 8, 1);
  set_config16(kStreamerAt, msix + 2, 0x8000);
  start_ring(kStreamerAt, 0, {.irq_every = 1});
  board->step_for(100'000);
  EXPECT_TRUE(messages.empty());
  EXPECT_GT(board->interrupts().dropped, 0u);
}

TEST_F(StreamerTest, DataForTheInterruptRangeIsBlocked) {
  BoardConfig without = testing::small_machine();
  without.units.clear();
  for (const BoardConfig& c : {testing::small_machine(), without}) {
    build(c);
    set_command(kStreamerAt, 6);
    start_ring(kStreamerAt, 0, {.base = 0xFEE0'0000, .length = 0x1000, .slots = 64});
    board->step_for(200'000);
    EXPECT_NEAR(static_cast<double>(total(kBlocked)), 20, 2);
    EXPECT_EQ(total(kDone), 0u);
    EXPECT_TRUE(messages.empty());
  }
}

TEST_F(StreamerTest, ReadRingVerifiesWhatAWriteRingLeft) {
  build();
  stream_setup();
  start_ring(kStreamerAt, 0, {.slots = 32});
  start_ring(kStreamerAt, 1, {.slots = 32, .read = true, .source = kStreamerAt.value});
  board->step_for(3'000'000);
  EXPECT_GT(ring_counter(1, kDone), 200u);
  EXPECT_EQ(ring_counter(1, kReadErrors), 0u);
  // One slot damaged, with the writer stopped: the reader sees it each time round.
  stop_ring(kStreamerAt, 0);
  const u64 at = slot_iova(kStreamerAt, 0, 5) - kIova;
  guest->set_word(at + 16, guest->word(at + 16) ^ 1);
  board->step_for(3'200'000);  // ten rounds
  EXPECT_NEAR(static_cast<double>(ring_counter(1, kReadErrors)), 10, 1);
  EXPECT_EQ(now(board->audit(), kStreamerAt).read_errors, ring_counter(1, kReadErrors));
}

TEST_F(StreamerTest, ReadRingVerifiesAProgramsRecords) {
  build();
  stream_setup();
  const auto put = [&](u64 slot, u64 sequence) {
    const u64 iova = slot_iova(kStreamerAt, 0, slot);
    std::array<u64, 8> w{0x4452434552554450u, 0xBEEF | u64{9} << 16 | u64{2} << 24 | slot << 32, sequence, 0, iova};
    for (unsigned i = 0; i < 7; ++i) w[7] = sheet_mix(w[7] ^ w[i]);
    for (unsigned i = 0; i < 8; ++i) guest->set_word(iova - kIova + 8 * i, w[i]);
  };
  start_ring(kStreamerAt, 0, {.slots = 8, .read = true, .source = 0xBEEF | 9 << 16 | 1 << 24});
  board->step_for(500'000);
  EXPECT_EQ(total(kReadErrors), 0u) << "empty slots are no error before the first record";
  for (u64 s = 0; s < 8; ++s) put(s, 10);
  board->step_for(500'000);
  for (u64 s = 0; s < 8; ++s) put(s, 12);
  board->step_for(500'000);
  EXPECT_EQ(total(kReadErrors), 0u);
  put(3, 11);  // a lost write: an older record is back
  board->step_for(160'000);
  EXPECT_GE(total(kReadErrors), 1u);
  put(3, 13);
  const u64 errors = total(kReadErrors);
  board->step_for(500'000);
  EXPECT_EQ(total(kReadErrors), errors);
  guest->set_word(slot_iova(kStreamerAt, 0, 2) - kIova, 0);
  board->step_for(160'000);
  EXPECT_GT(total(kReadErrors), errors);
}

TEST_F(StreamerTest, StartedAgainItGoesOnUnlessItsPlanChanged) {
  build();
  stream_setup();
  const u64 ring = ring_at(kStreamerAt, 0);
  start_ring(kStreamerAt, 0, {});
  board->step_for(1'000'000);
  stop_ring(kStreamerAt, 0);
  const u64 sequence = read64(ring + 0x58);
  const u64 cursor = read64(ring + 0x60);
  board->step_for(1'000'000);
  EXPECT_EQ(read64(ring + 0x58), sequence) << "stopped";
  write64(ring, 1);
  EXPECT_EQ(read64(ring + 0x60), cursor);
  EXPECT_EQ(read64(ring + 0x70), 1u);
  write64(ring + 0x28, 1234);  // ignored while running
  EXPECT_EQ(read64(ring + 0x28), 7u);
  board->step_for(100'000);
  EXPECT_GT(read64(ring + 0x58), sequence);
  stop_ring(kStreamerAt, 0);
  write64(ring + 0x28, 1234);
  write64(ring, 1);
  EXPECT_EQ(read64(ring + 0x70), 2u);
  EXPECT_EQ(read64(ring + 0x58), 0u);
  // CONTROL.RESET.
  write64(bar64(kStreamerAt) + 0x10, 1);
  EXPECT_EQ(read64(ring + 8), 0u);
  EXPECT_EQ(total(kDone), 0u);
  start_ring(kStreamerAt, 0, {});
  EXPECT_EQ(read64(ring + 0x70), 3u) << "generations are never used twice";
}

TEST_F(StreamerTest, SteppedRunsRepeatExactly) {
  const auto run = [this](u64 seed) {
    BoardConfig c = testing::small_machine();
    c.seed = seed;
    next_page = 0x20'0000;
    root = 0;
    build(c);
    stream_setup();
    start_ring(kStreamerAt, 0, {.rate = 1'000'000});
    start_ring(kStreamerAt, 1, {.length = u64{1} << 20, .slots = 100, .rate = 77'777});
    board->step(3000);
    std::vector<u64> trace{board->now_ns(), read64(ring_at(kStreamerAt, 0) + 0x58),
                           read64(ring_at(kStreamerAt, 1) + 0x58)};
    for (u64 slot = 0; slot < 4096; ++slot) {
      trace.push_back(guest->word(slot_iova(kStreamerAt, 0, slot) - kIova + 24));
    }
    return trace;
  };
  const std::vector<u64> first = run(1);
  EXPECT_EQ(first, run(1));
  EXPECT_NE(first, run(2));
}

}  // namespace
}  // namespace perdure::board
