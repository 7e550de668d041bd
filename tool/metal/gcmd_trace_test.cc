#include "tool/metal/gcmd_trace.h"

namespace perdure::tool::metal {
namespace {

// As QEMU 7.2 writes them: a kernel turns the queue, the root pointer and translation on, its successor makes its own.
constexpr std::string_view kColdBoot =
    "4711@1700000000.000001:vtd_reg_write_gcmd status 0x0 value 0x4000000\n"
    "4711@1700000000.000002:vtd_reg_write_gcmd status 0x4000000 value 0x44000000\n"
    "4711@1700000000.000003:vtd_reg_write_gcmd status 0x44000000 value 0x84000000\n";
constexpr std::string_view kAdoption =
    "4711@1700000000.100001:vtd_reg_write_gcmd status 0xc4000000 value 0x80000000\n"
    "4711@1700000000.100002:vtd_reg_write_gcmd status 0xc0000000 value 0x84000000\n"
    "4711@1700000000.100003:vtd_reg_write_gcmd status 0xc4000000 value 0xc4000000\n"
    "4711@1700000000.100004:vtd_reg_write_gcmd status 0xc4000000 value 0x84000000\n";

TEST(GcmdTrace, TranslationThatStaysOn) {
  GcmdTrace trace;
  trace.take(kColdBoot);
  trace.take(kAdoption);
  EXPECT_EQ(trace.writes(), 7U);
  EXPECT_TRUE(trace.never_dropped().ok) << trace.never_dropped().detail;
  EXPECT_EQ(trace.root_tables(), 1U);
  EXPECT_EQ(trace.queue_restarts(), 1U);
  EXPECT_TRUE(trace.remade(1).ok);
  EXPECT_FALSE(trace.remade(2).ok) << "a jump that made nothing of its own";
  // A jump behind which only the queue is made anew.
  trace.take("1@2:vtd_reg_write_gcmd status 0xc4000000 value 0x80000000\n");
  trace.take("1@2:vtd_reg_write_gcmd status 0xc0000000 value 0x84000000\n");
  EXPECT_FALSE(trace.remade(2).ok) << "the root pointer stayed";
  EXPECT_TRUE(trace.never_dropped().ok);
}

TEST(GcmdTrace, OneWriteWithoutTeIsSeen) {
  GcmdTrace trace;
  trace.take(kColdBoot);
  trace.take("1@2:vtd_reg_write_gcmd status 0xc4000000 value 0x4000000\n");
  trace.take("1@2:vtd_reg_write_gcmd status 0x44000000 value 0x84000000\n");
  trace.take(kAdoption);
  EXPECT_FALSE(trace.never_dropped().ok);
  EXPECT_NE(trace.never_dropped().detail.find("write 4 of 0x04000000"), std::string::npos)
      << trace.never_dropped().detail;
}

TEST(GcmdTrace, TranslationThatIsFoundOffIsSeen) {
  // Nobody wrote it off, and it is off: a reset of the unit.
  GcmdTrace trace;
  trace.take(kColdBoot);
  trace.take("1@2:vtd_reg_write_gcmd status 0x0 value 0x84000000\n");
  EXPECT_FALSE(trace.never_dropped().ok);
}

TEST(GcmdTrace, NoWitnessIsNoProof) {
  EXPECT_FALSE(GcmdTrace().never_dropped().ok);
  GcmdTrace off;
  off.take("1@2:vtd_reg_write_gcmd status 0x0 value 0x4000000\n");
  EXPECT_FALSE(off.never_dropped().ok) << "it was never turned on";
}

TEST(GcmdTrace, WhatCannotBeReadIsNoProof) {
  for (const std::string_view line :
       {"1@2:vtd_reg_write_gcmd status 0xc4000000 value", "1@2:vtd_reg_write_gcmd status c4000000 value 0x84000000",
        "1@2:vtd_reg_write_gcmd status 0xc4000000 value 0x", "something else", "1@2:vtd_reg_write_gc"}) {
    GcmdTrace trace;
    trace.take(kColdBoot);
    trace.take(line);
    EXPECT_FALSE(trace.never_dropped().ok) << line;
  }
}

}  // namespace
}  // namespace perdure::tool::metal
