// Transfers in flight: a flush that drains is complete only when those that used the old translation are over.
#include <thread>

#include "machine/board/iommu/in_flight_table.h"
#include "machine/board/iommu/iommu_fixture.h"

namespace perdure::board::testing {
namespace {

TEST(InFlightTable, EpochsEndWithTheirTransfers) {
  InFlightTable t;
  const u64 a = t.begin(Access::Read);
  const u64 b = t.begin(Access::Write);
  const u64 first = t.close();
  EXPECT_FALSE(t.drained(first, Access::Read));
  EXPECT_FALSE(t.drained(first, Access::Write));
  const u64 c = t.begin(Access::Write);
  const u64 second = t.close();
  t.end(a, Access::Read);
  EXPECT_TRUE(t.drained(first, Access::Read));
  EXPECT_FALSE(t.drained(first, Access::Write));
  t.end(c, Access::Write);  // later, but over earlier
  EXPECT_FALSE(t.drained(second, Access::Write));
  t.end(b, Access::Write);
  EXPECT_TRUE(t.drained(first, Access::Write));
  EXPECT_TRUE(t.drained(second, Access::Write));
  EXPECT_EQ(t.close(), t.close());  // an empty epoch need not be closed
}

class Drain : public IommuTest {
 protected:
  u64 top = 0;
  void begin(const IommuModelConfig& c = {}) {
    start_translating(c);
    start_queue();
    top = page();
    set_context(kDevice, top, 5);
    map(top, 0x1000, 0xA000);
  }
  // A domain flush with these bits, and a wait with status 1.
  void flush(u64 drain_bits) {
    memory.set(kStatus, 0);
    push(0x22 | 5 << 16 | drain_bits, 0);
    push(0x100000025, kStatus);
    ring();
  }
  bool done() { return memory.word32(kStatus) == 1; }
  static constexpr u64 kDw = 0x40, kDr = 0x80;
};

TEST_F(Drain, WaitsForTheTransferItConcerns) {
  begin();
  for (Access access : {Access::Read, Access::Write}) {
    const u64 mine = access == Access::Read ? kDr : kDw;
    const u64 other = mine ^ (kDr | kDw);
    {
      Translation t = model->translate(kDevice, 0x1000, 8, access);
      flush(mine);
      EXPECT_FALSE(done());
      EXPECT_FALSE(model->idle());
      EXPECT_EQ(model->read(0x80, 8), model->read(0x88, 8));  // fetched, not complete
    }
    EXPECT_TRUE(done());
    Translation t = model->translate(kDevice, 0x1000, 8, access);
    flush(other);
    EXPECT_TRUE(done());
    flush(0);
    EXPECT_TRUE(done());
  }
  expect_clean();
}

TEST_F(Drain, LaterTransfersDoNotHoldItUp) {
  begin();
  Translation before = write(kDevice, 0x1000);
  flush(kDw);
  Translation after = write(kDevice, 0x1000);
  EXPECT_FALSE(done());
  before = {};
  EXPECT_TRUE(done());
  EXPECT_TRUE(after.ok());
}

TEST_F(Drain, MovedTokensCountOnce) {
  begin();
  Translation a = write(kDevice, 0x1000);
  Translation b = std::move(a);
  flush(kDw);
  a = {};
  EXPECT_FALSE(done());
  Translation c = std::move(b);
  b = write(kDevice, 0x1000);
  EXPECT_FALSE(done());
  c = {};
  EXPECT_TRUE(done());
}

TEST_F(Drain, NotWithoutCapability) {
  IommuModelConfig c;
  c.dwd = false;
  begin(c);
  Translation w = write(kDevice, 0x1000);
  flush(kDw | kDr);
  EXPECT_TRUE(done());
  c.dwd = true;
  c.drd = false;
  w = {};
  begin(c);
  Translation r = read(kDevice, 0x1000);
  flush(kDw | kDr);
  EXPECT_TRUE(done());
  r = {};
}

TEST_F(Drain, WaitsStayInOrderAndFencesHoldTheRest) {
  begin();
  Translation t = write(kDevice, 0x1000);
  push(0x62 | 5 << 16, 0);         // domain, DW
  push(0x100000025, kStatus);      // wait
  push(0x200000065, kStatus + 4);  // wait, fence
  push(0x300000025, kStatus + 8);
  ring();
  EXPECT_EQ(model->read(0x80, 8), 3u * 16);  // the fence is taken, nothing behind it
  for (u64 i = 0; i < 3; ++i) EXPECT_EQ(memory.word32(kStatus + 4 * i), 0u);
  t = {};
  for (u64 i = 0; i < 3; ++i) EXPECT_EQ(memory.word32(kStatus + 4 * i), i + 1);
}

TEST_F(Drain, AWaitCoversAllFlushesBeforeIt) {
  begin();
  for (u64 drain : {kDr, kDw}) {
    memory.set(kStatus, 0);
    Translation t = drain == kDr ? read(kDevice, 0x1000) : write(kDevice, 0x1000);
    push(0x22 | 5 << 16 | drain, 0);
    push(0x22 | 6 << 16, 0);  // without drain
    push(0x100000025, kStatus);
    ring();
    EXPECT_FALSE(done());
    t = {};
    EXPECT_TRUE(done());
  }
}

TEST_F(Drain, DeviceTlbTimeoutAbortsEarlierWaits) {
  IommuModelConfig c;
  c.device_tlb = true;
  begin(c);
  model->inject_device_tlb_timeout(kDevice);
  Translation t = write(kDevice, 0x1000);
  flush(kDw);
  push(3 | u64{kDevice} << 32, 0x1000);
  push(0x200000025, kStatus);
  ring();
  EXPECT_TRUE(fsts() & 0x40);
  t = {};
  EXPECT_EQ(memory.word32(kStatus), 0u);
}

TEST_F(Drain, RegisterBased) {
  begin();
  gcmd(kQie, false);
  Translation t = write(kDevice, 0x1000);
  model->write(config.iro + 8, 8, u64{0xA} << 60 | u64{5} << 32 | u64{1} << 48);
  EXPECT_EQ(model->read(config.iro + 8, 8) >> 63, 1u);
  t = {};
  EXPECT_EQ(model->read(config.iro + 8, 8) >> 63, 0u);
}

TEST_F(Drain, UntranslatedTransfersAreInFlightToo) {
  start();
  start_queue();
  Translation t = write(kDevice, 0x1000);
  flush(kDw);
  EXPECT_FALSE(done());
  t = {};
  EXPECT_TRUE(done());
}

TEST_F(Drain, CompletionEventComesFromTheThreadThatEndsTheTransfer) {
  begin();
  model->write(0xA4, 4, 0x77);
  model->write(0xA8, 4, 0xFEE0'0000);
  model->write(0xA0, 4, 0);
  Translation t = write(kDevice, 0x1000);
  push(0x62 | 5 << 16, 0);
  push(0x15, 0);
  ring();
  EXPECT_TRUE(environment.messages.empty());
  t = {};
  ASSERT_EQ(environment.messages.size(), 1u);
  EXPECT_EQ(environment.messages[0].data, 0x77u);
}

// Devices write through the unit as fast as they can while a page is given back again and again: flushed, waited for,
// and then nobody may write it any more.
class DrainThreads : public Drain, public ::testing::WithParamInterface<bool> {};

TEST_P(DrainThreads, NothingArrivesAfterTheWait) {
  const bool drains = GetParam();
  IommuModelConfig c;
  c.step_on_access = true;
  c.nfr = 8;
  begin(c);
  constexpr u64 kPages = 4;
  std::array<std::atomic<u64>, kPages> pages{};  // what the device's data lands in
  for (u64 i = 0; i < kPages; ++i) map(top, 0x1000, 0xA000 + i * 0x1000);
  set_context(kSibling, top, 5);
  map(top, 0x1000, 0xA000);

  std::atomic<bool> stop{false};
  std::atomic<u64> transfers{0};
  const auto device = [&](u16 source) {
    while (!stop) {
      Translation t = write(source, 0x1000);
      if (!t.ok()) continue;
      std::this_thread::yield();  // the data is on its way
      pages[(t.phys - 0xA000) >> 12].fetch_add(1);
      ++transfers;
    }
  };
  std::thread first(device, kDevice);
  std::thread second(device, kSibling);

  u64 late = 0;
  // Without drain the first late arrival is all that is wanted.
  for (u64 round = 0; drains ? round < 50 || transfers < 100 : late == 0; ++round) {
    const u64 old_page = round % kPages;
    map(top, 0x1000, 0xA000 + (round + 1) % kPages * 0x1000);
    memory.set(kStatus, 0);
    push(0x32 | 5 << 16 | (drains ? 0xC0 : 0), 0x1000);
    push(0x100000025, kStatus);
    ring();
    while (!done()) std::this_thread::yield();
    const u64 count = pages[old_page].load();
    for (const u64 seen = transfers; transfers < seen + 3;) std::this_thread::yield();  // whatever was on its way is in
    late += pages[old_page].load() - count;
  }
  stop = true;
  first.join();
  second.join();
  EXPECT_GT(transfers.load(), 2u);
  if (drains) {
    EXPECT_EQ(late, 0u);
  } else {
    EXPECT_GT(late, 0u);  // the test can see it
  }
  expect_clean();
}

INSTANTIATE_TEST_SUITE_P(WithAndWithout, DrainThreads, ::testing::Bool());

}  // namespace
}  // namespace perdure::board::testing
