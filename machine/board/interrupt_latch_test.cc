#include "machine/board/interrupt_latch.h"

#include <gtest/gtest.h>

#include <vector>

namespace perdure::board {
namespace {

using Messages = std::vector<std::pair<u64, u32>>;

Messages all_of(InterruptLatch& latch) {
  Messages all;
  latch.hand_over([&](u64 address, u32 data) { all.emplace_back(address, data); });
  return all;
}

TEST(InterruptLatch, KeepsOneBitForEachVectorOfEachProcessor) {
  InterruptLatch latch;
  latch.take(0xFEE0'3000, 0x41);
  latch.take(0xFEE0'0000, 0x50);
  latch.take(0xFEE0'3000, 0x41);
  latch.take(0xFEE0'3000, 0x42);
  EXPECT_EQ(all_of(latch), (Messages{{0xFEE0'0000, 0x50}, {0xFEE0'3000, 0x41}, {0xFEE0'3000, 0x42}}));
  EXPECT_EQ(latch.counts().latched, 3u);
  EXPECT_EQ(latch.counts().coalesced, 1u);
  EXPECT_TRUE(all_of(latch).empty());
  latch.take(0xFEE0'3000, 0x41);
  EXPECT_EQ(all_of(latch).size(), 1u);
}

TEST(InterruptLatch, DropsWhatIsForNobody) {
  InterruptLatch latch;
  const Messages wrong{{0xFED0'0000, 0x41}, {0xFEE1'0000, 0x41},  {0xFEE0'0010, 0x41}, {0x1'FEE0'0000, 0x41},
                       {0xFEE0'0000, 0x0F}, {0xFEE0'0000, 0x441}, {0xFEE0'0004, 0x41}, {0xFEE0'0000, 0x8041}};
  for (const auto& [address, data] : wrong) latch.take(address, data);
  EXPECT_EQ(latch.counts().dropped, wrong.size());
  EXPECT_TRUE(all_of(latch).empty());
}

TEST(InterruptLatch, IsPartOfASavedMachine) {
  InterruptLatch latch;
  latch.take(0xFEE0'F000, 0xFF);
  latch.take(0xFEE0'0000, 0x10);
  StateWriter out;
  latch.save(out);
  InterruptLatch loaded;
  StateReader in(out.bytes());
  loaded.load(in);
  EXPECT_TRUE(in.at_end());
  EXPECT_EQ(loaded.counts().latched, 2u);
  EXPECT_EQ(all_of(loaded), (Messages{{0xFEE0'0000, 0x10}, {0xFEE0'F000, 0xFF}}));
}

}  // namespace
}  // namespace perdure::board
