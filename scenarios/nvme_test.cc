#include "scenarios/drivers/nvme.h"

#include <gtest/gtest.h>

#include <deque>
#include <optional>

#include "scenarios/testing/fake_device.h"

namespace perdure::scenarios {
namespace {

// Block `lba` of the disk, by hand from the description.
u64 disk_word(u64 lba, u64 i) {
  u64 x = lba + 0x6E766D65 + 0x9E3779B97F4A7C15;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
  x = (x ^ x >> 27) * 0x94D049BB133111EB;
  return (x ^ x >> 31) + i * 0x9E3779B97F4A7C15;
}

// As much of a controller as has an admin queue and one pair of others.
class FakeController final : public testing::FakeDevice {
 public:
  static constexpr u64 kBlocks = 4096;
  FakeController() : FakeDevice(Nvme::kBytes) {}

  struct Command {
    u32 opcode = 0;
    u32 id = 0;
    u64 prp = 0;
    u64 lba = 0;
    u32 blocks = 0;
    u32 dword10 = 0;
  };

  u32 read_register(u64 offset) override {
    switch (offset) {
      case 0x00: return 0x0F00'07FF;
      case 0x04: return 0;
      case 0x14: return configuration;
      case 0x1C: return status;
      default: return registers[offset];
    }
  }
  void write_register(u64 offset, u32 value) override {
    if (offset == 0x14) {
      configuration = value;
      status = value & 1;
      return;
    }
    if (offset == 0x1000) return ring(0, value);
    if (offset == 0x1008) return ring(1, value);
    registers[offset] = value;
  }
  void reset() {
    registers.clear();
    configuration = status = 0;
  }
  // The oldest read that waits. Each part can be left out.
  void complete(bool data = true, u16 code = 0, u64 other_lba = 0) {
    ASSERT_FALSE(waiting.empty());
    const Command c = waiting.front();
    waiting.pop_front();
    EXPECT_EQ(c.opcode, 2U);
    EXPECT_LT(c.lba + c.blocks, kBlocks + 1);
    for (u64 i = 0; data && i < u64{c.blocks} * 64; ++i) {
      const u64 word = disk_word(c.lba + other_lba + i / 64, i % 64);
      std::memcpy(at(c.prp + 8 * i), &word, 8);
    }
    answer(1, c.id, code);
  }
  void answer(u32 queue, u32 id, u16 code = 0) {
    Completions& q = completions[queue];
    const u32 words[4] = {0, 0, queue << 16, id | q.phase << 16 | u32{code} << 17};
    std::memcpy(at(q.base + u64{q.tail} * 16), words, 16);
    if (++q.tail == q.entries) {
      q.tail = 0;
      q.phase ^= 1;
    }
  }

  std::map<u64, u32> registers;
  u32 configuration = 0;
  u32 status = 0;
  std::deque<Command> waiting;

 private:
  struct Completions {
    u64 base = 0;
    u32 entries = 0;
    u32 tail = 0;
    u32 phase = 1;
  };
  struct Submissions {
    u64 base = 0;
    u32 entries = 0;
    u32 head = 0;
  };
  void ring(u32 queue, u32 tail) {
    if (queue == 0 && submissions[0].base == 0) {
      EXPECT_TRUE(bus_master());
      submissions[0] = {registers[0x28], (registers[0x24] & 0xFFF) + 1, 0};
      completions[0] = {registers[0x30], (registers[0x24] >> 16) + 1, 0, 1};
    }
    Submissions& q = submissions[queue];
    while (q.head != tail) {
      u32 words[16];
      std::memcpy(words, at(q.base + u64{q.head} * 64), 64);
      q.head = (q.head + 1) % q.entries;
      const Command c{
          words[0] & 0xFF,          words[0] >> 16, words[6] | u64{words[7]} << 32, words[10] | u64{words[11]} << 32,
          (words[12] & 0xFFFF) + 1, words[10]};
      queue == 0 ? manage(c) : waiting.push_back(c);
    }
  }
  void manage(const Command& c) {
    switch (c.opcode) {
      case 1: submissions[1] = {c.prp, (c.dword10 >> 16) + 1, 0}; break;
      case 5: completions[1] = {c.prp, (c.dword10 >> 16) + 1, 0, 1}; break;
      case 6: {
        const u64 blocks = kBlocks;
        std::memcpy(at(c.prp), &blocks, 8);
        const u32 format = 9 << 16;
        std::memcpy(at(c.prp) + 128, &format, 4);
        break;
      }
      default: ADD_FAILURE() << "admin command " << c.opcode;
    }
    answer(0, c.id);
  }
  Submissions submissions[2];
  Completions completions[2];
};

class NvmeTest : public ::testing::Test {
 protected:
  static constexpr u32 kReads = 8;
  void SetUp() override {
    driver.reset();
    vfio = {};
    controller.emplace();
    vfio = client::VfioDevice(client::Fd(*controller, 3));
    come_back();
    driver->set_reads(kReads);
    ASSERT_TRUE(driver->start().has_value()) << driver->what();
    ASSERT_EQ(controller->waiting.size(), kReads);
  }
  void come_back() { driver.emplace(Context{*controller, deaf}, vfio, controller->area(0, Nvme::kBytes), state); }
  void expect_wrong(std::string_view what) {
    EXPECT_FALSE(driver->check(false).has_value());
    EXPECT_EQ(driver->what(), what);
  }
  u64 number(std::string_view name) {
    Evidence e;
    driver->report(e);
    return e.number(name);
  }

  testing::Deaf deaf;
  std::optional<FakeController> controller;
  client::VfioDevice vfio;
  Nvme::State state{};
  std::optional<Nvme> driver;
};

TEST_F(NvmeTest, TakesEveryCompletionOnceRoundItsQueuesAndOverJumps) {
  u64 completed = 0;
  for (u32 hop = 0; hop < 100; ++hop) {
    const u32 before = hop % (kReads + 1);
    for (u32 i = 0; i < before; ++i) controller->complete();
    ASSERT_TRUE(driver->leave().has_value()) << driver->what();
    EXPECT_EQ(number("waiting_at_jump"), kReads);
    // In the gap; in any order.
    std::swap(controller->waiting.front(), controller->waiting.back());
    for (u32 i = 0; i < kReads / 2; ++i) controller->complete();
    come_back();
    ASSERT_TRUE(driver->resume().has_value()) << driver->what();
    completed += before + kReads / 2;
    EXPECT_EQ(number("completed"), completed);
    EXPECT_EQ(number("here"), kReads / 2);
    ASSERT_EQ(controller->waiting.size(), kReads) << "the queue stays full";
  }
}

TEST_F(NvmeTest, SeesCompletionsThatCameTwiceOrAreOfNothing) {
  const u32 id = controller->waiting.front().id;
  controller->complete();
  ASSERT_TRUE(driver->check(false).has_value());
  EXPECT_EQ(controller->waiting.back().id, id) << "submitted again";
  // Every identifier is in use again at once, so that the second completion is one of a read that was not done.
  controller->answer(1, id);
  expect_wrong("a read completed without its data");
  SetUp();
  controller->complete();
  controller->answer(1, kReads);
  expect_wrong("a completion of no read that was submitted");
}

TEST_F(NvmeTest, SeesDataThatIsNotTheDisks) {
  controller->complete(false);
  expect_wrong("a read completed without its data");
  SetUp();
  controller->complete(true, 0, 1);
  expect_wrong("a read brought other data than the disk holds there");
  expect_wrong("a read that failed is not repeated");
}

TEST_F(NvmeTest, BelievesTheControllersOwnSigns) {
  controller->complete(true, 0x281);
  expect_wrong("a read failed");
  SetUp();
  controller->status |= 2;
  expect_wrong("fatal status: a request of the controller failed");
  SetUp();
  controller->pci_status = 0x1000;
  expect_wrong("the function has recorded bus errors");
  SetUp();
  controller->reset();
  come_back();
  EXPECT_FALSE(driver->resume().has_value());
  EXPECT_EQ(driver->what(), "the controller is off: it was reset");
}

TEST_F(NvmeTest, SilenceIsNotSuccess) {
  EXPECT_TRUE(driver->check(false).has_value());
  controller->clock_ns += 11'000'000'000;
  expect_wrong("a read has not completed for ten seconds");
  SetUp();
  EXPECT_FALSE(driver->check(true).has_value());
}

TEST_F(NvmeTest, QueuesOfNoSizeAreRefused) {
  for (u32 reads : {0u, 64u}) {
    driver->set_reads(reads);
    EXPECT_FALSE(driver->start().has_value()) << reads;
  }
}

}  // namespace
}  // namespace perdure::scenarios
