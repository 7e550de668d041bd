// A unit saved and loaded into a fresh one goes on where it was.
#include "machine/board/iommu/iommu_fixture.h"

namespace perdure::board::testing {
namespace {

class Snapshot : public IommuTest {
 protected:
  // The unit is gone; a fresh one of the same kind takes its state.
  void move_to_fresh_unit() {
    const std::vector<std::byte> saved = model->save();
    model = std::make_unique<IommuModel>(config, memory, environment, shadow.get());
    ASSERT_TRUE(model->restore(saved));
    EXPECT_EQ(model->save(), saved);
  }
};

TEST_F(Snapshot, TranslatesOn) {
  start_translating();
  start_queue();
  const u64 top = page();
  set_context(kDevice, top, 5);
  map(top, 0x1000, 0xA000);
  EXPECT_TRUE(flush_iotlb_global());
  read(kDevice, 0x1000);
  read(kSibling, 0x7000);
  const u32 status = gsts();
  move_to_fresh_unit();
  EXPECT_EQ(gsts(), status);
  EXPECT_EQ(reason(), 0x2u);
  EXPECT_EQ(fault_low(), 0x7000u);
  EXPECT_EQ(model->statistics().iotlb_entries, 0u);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  EXPECT_TRUE(flush_iotlb_global());
  EXPECT_TRUE(model->gaps().empty());
  expect_clean();
}

TEST_F(Snapshot, EveryRegister) {
  IommuModelConfig c;
  c.plmr = c.phmr = true;
  start(c);
  const std::pair<u64, u64> wide[] = {{0x20, 0x1234'5000 | 0xC00}, {0x70, 0x1'0000'0000},
                                      {0x78, 0x2'0000'0000},       {0x88, 0x120},
                                      {0x90, 0x5000 | 3},          {0xB8, 0x6000 | 0x805}};
  const std::pair<u64, u64> narrow[] = {{0x3C, 1},         {0x40, 2},           {0x44, 3}, {0xA4, 4},
                                        {0xA8, 5},         {0xAC, 6},           {0x38, 0}, {0x68, 0x40'0000},
                                        {0x6C, 0x80'0000}, {0x64, u64{1} << 31}};
  for (const auto& [at, value] : wide) model->write(at, 8, value);
  for (const auto& [at, value] : narrow) model->write(at, 4, value);
  std::vector<u64> before;
  for (const auto& [at, value] : wide) before.push_back(model->read(at, 8));
  for (const auto& [at, value] : narrow) before.push_back(model->read(at, 4));
  move_to_fresh_unit();
  std::vector<u64> after;
  for (const auto& [at, value] : wide) after.push_back(model->read(at, 8));
  for (const auto& [at, value] : narrow) after.push_back(model->read(at, 4));
  EXPECT_EQ(before, after);
  EXPECT_NE(before, std::vector<u64>(before.size(), 0));
}

TEST_F(Snapshot, WorkUnderWayIsFinished) {
  IommuModelConfig c;
  c.delay = {6, 6};
  c.step_on_access = false;
  start(c);
  start_queue();
  model->write(0x20, 8, root);
  model->write(0x18, 4, kQie | kSrtp);
  push(0x11, 0);
  push(0x900000025, kStatus);
  ring();
  model->step();
  move_to_fresh_unit();
  EXPECT_EQ(gsts() & kSrtp, 0u);
  for (int i = 0; i < 100; ++i) model->step();
  EXPECT_EQ(gsts() & kSrtp, kSrtp);
  EXPECT_EQ(memory.word32(kStatus), 9u);
}

TEST_F(Snapshot, AWaitForATransferIsOverInTheNewMachine) {
  start_translating();
  start_queue();
  const u64 top = page();
  set_context(kDevice, top, 5);
  map(top, 0x1000, 0xA000);
  std::vector<std::byte> saved;
  {
    Translation t = write(kDevice, 0x1000);
    push(0x62 | 5 << 16, 0);
    push(0x900000025, kStatus);
    ring();
    saved = model->save();
  }
  memory.set(kStatus, 0);
  model = std::make_unique<IommuModel>(config, memory, environment, shadow.get());
  ASSERT_TRUE(model->restore(saved));
  model->step();
  EXPECT_EQ(memory.word32(kStatus), 9u);
}

TEST_F(Snapshot, RefusesWhatIsNotOne) {
  start_translating();
  const std::vector<std::byte> saved = model->save();
  const u32 status = gsts();
  for (usize i = 0; i < saved.size(); ++i) {
    std::vector<std::byte> bad = saved;
    bad[i] ^= std::byte{0x10};
    EXPECT_FALSE(model->restore(bad)) << i;
    EXPECT_FALSE(model->restore(std::span(saved).first(i))) << i;
  }
  EXPECT_EQ(gsts(), status);
  EXPECT_EQ(model->save(), saved);
  IommuModelConfig other = config;
  other.nfr = 2;
  IommuModel unlike(other, memory, environment, shadow.get());
  const Result<void> refused = unlike.restore(saved);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error(), Errno::Einval);
}

}  // namespace
}  // namespace perdure::board::testing
