#include "core/kho/metadata.h"

#include "tests/support/handover.h"

namespace perdure::kho {
namespace {

using test::Handover;

TEST(Metadata, ReleaseAndCountComeThrough) {
  Handover world;
  EXPECT_EQ(incoming_metadata(world.kho()).error(), Errno::Enoent);
  ASSERT_TRUE(publish_metadata(world.kho(), "7.3.4", 1));
  const Phys at = world.kho().outgoing_subtree("kexec-metadata")->at;
  // The bytes, as Linux lays them out.
  const auto* bytes = world.machine.virt<const u8>(at);
  EXPECT_EQ(bytes[0], 1);
  EXPECT_EQ(memcmp(bytes + 4, "7.3.4\0", 6), 0);
  EXPECT_EQ(bytes[69], 1);
  EXPECT_EQ(world.kho().outgoing_subtree("kexec-metadata")->size, 73u);
  ASSERT_TRUE(world.jump());
  const auto m = incoming_metadata(world.kho());
  ASSERT_TRUE(m);
  EXPECT_STREQ(m->release, "7.3.4");
  EXPECT_EQ(m->count, 1u);
}

TEST(Metadata, LongReleaseIsCut) {
  Handover world;
  ASSERT_TRUE(publish_metadata(world.kho(), std::string(100, 'r'), 4));
  ASSERT_TRUE(world.jump());
  EXPECT_EQ(std::string(incoming_metadata(world.kho())->release), std::string(64, 'r'));
  EXPECT_EQ(incoming_metadata(world.kho())->count, 4u);
}

TEST(Metadata, BadBlobsAreIgnored) {
  const std::pair<u64, u8> damage[] = {{0, 2}, {68, 'x'}};
  for (const auto& [at, value] : damage) {
    Handover world;
    ASSERT_TRUE(publish_metadata(world.kho(), "7.3.4", 1));
    world.machine.virt<u8>(world.kho().outgoing_subtree("kexec-metadata")->at)[at] = value;
    ASSERT_TRUE(world.jump());
    EXPECT_EQ(incoming_metadata(world.kho()).error(), Errno::Eproto);
    EXPECT_NE(world.machine.lines.back().find("ignored"), std::string::npos);
  }
  Handover world;
  const Phys page = *world.kho().alloc_preserved(72);
  ASSERT_TRUE(world.kho().add_subtree("kexec-metadata", {page, 72}));
  ASSERT_TRUE(world.jump());
  EXPECT_EQ(incoming_metadata(world.kho()).error(), Errno::Eproto);
}

TEST(Metadata, WithdrawnOrRefusedLeavesNothing) {
  Handover world;
  ASSERT_TRUE(publish_metadata(world.kho(), "a", 1));
  const u64 before = world.frames().totals().free;
  EXPECT_EQ(publish_metadata(world.kho(), "b", 1).error(), Errno::Eexist);
  EXPECT_EQ(world.frames().totals().free, before);
  withdraw_metadata(world.kho());
  EXPECT_EQ(world.frames().totals().free, before + 1);
  EXPECT_EQ(world.kho().outgoing_subtree("kexec-metadata").error(), Errno::Enoent);
  withdraw_metadata(world.kho());  // nothing to do
}

}  // namespace
}  // namespace perdure::kho
