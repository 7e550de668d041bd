#include "metal/options.h"

namespace perdure::metal {
namespace {

TEST(Options, AreWords) {
  const Options o(
      "hops=500  devices=ohci,e1000e tables=scalable break=te-gap seed=7 pause=jump stretch_us=20 irq quiet ");
  EXPECT_EQ(o.unknown, "");
  EXPECT_EQ(o.hops, 500u);
  EXPECT_EQ(o.tables, vtd::TableModePolicy::Scalable);
  EXPECT_EQ(o.breakage, "te-gap");
  EXPECT_EQ(o.stretch_us, 20u);
  EXPECT_TRUE(o.pause_at_jump && o.quiet && o.interrupts);
  EXPECT_TRUE(o.wants("ohci") && o.wants("e1000e"));
  EXPECT_FALSE(o.wants("edu") || o.wants("e1000") || o.wants("ohci,e1000e"));
}

TEST(Options, AreAllOptional) {
  const Options o("");
  EXPECT_EQ(o.hops, 0u);
  EXPECT_EQ(o.tables, vtd::TableModePolicy::Auto);
  EXPECT_TRUE(o.wants("ohci") && o.wants("nvme"));
  EXPECT_FALSE(o.pause_at_jump || o.quiet || o.interrupts);
}

TEST(Options, SaysWhichItDoesNotKnow) {
  for (const char* word : {"hop=1", "hops", "hops=", "hops=1x", "hops=4294967296", "tables=flat", "break=nothing",
                           "pause=never", "loud", "stretch_us=-1"}) {
    EXPECT_EQ(Options((std::string("quiet ") + word).c_str()).unknown, word);
  }
}

}  // namespace
}  // namespace perdure::metal
