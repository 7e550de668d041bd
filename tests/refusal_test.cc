// What goes wrong before the jump is refused with a clear error, and loses nothing.
#include "client/iommufd.h"
#include "client/live_update.h"
#include "client/memfd.h"
#include "client/vfio_device.h"
#include "core/uapi/iommufd.h"
#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

using client::Iommufd;
using client::LiveUpdate;
using client::Memfd;
using client::Session;
using client::VfioDevice;

constexpr u64 kBytes = u64{1} << 20;
constexpr u64 kIova = u64{4} << 30;

// One device, bound and attached to a marked HWPT over one memfd.
class Refusal : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_DONE(rig.power_on("a"));
    sys = &rig.new_program();
  }
  void make(u32 seals = Memfd::kSealsForUpdate) {
    memory = *Memfd::create(*sys, "guest", kBytes, seals);
    iommufd = *Iommufd::open(*sys);
    device = *VfioDevice::open(*sys, "/dev/vfio/devices/vfio0");
    const auto id = device.bind(iommufd);
    ASSERT_TRUE(id) << errno_name(id.error());
    const u32 ioas = *iommufd.ioas_alloc();
    ASSERT_DONE(iommufd.map_file(ioas, memory.number(), 0, kBytes, kIova));
    hwpt = *iommufd.hwpt_alloc(*id, ioas);
    ASSERT_TRUE(device.attach(hwpt));
    ASSERT_DONE(iommufd.mark_preserve(hwpt, 7));
    session = *(*LiveUpdate::open(*sys)).create_session("one");
  }
  void TearDown() override {
    session = {};
    device = {};
    iommufd = {};
    memory = {};
  }

  InProcessRig rig{small_machine({})};
  process::LocalProgram* sys = nullptr;
  Memfd memory;
  Iommufd iommufd;
  VfioDevice device;
  u32 hwpt = 0;
  Session session;
};

TEST_F(Refusal, DeviceBeforeIommufd) {
  make();
  EXPECT_EQ(session.preserve(device.number(), 1).error(), Errno::Enoent);
  ASSERT_DONE(session.preserve(memory.number(), 2));
  ASSERT_DONE(session.preserve(iommufd.number(), 3));
  ASSERT_DONE(session.preserve(device.number(), 1));
}

TEST_F(Refusal, IommufdBeforeMemory) {
  make();
  EXPECT_EQ(session.preserve(iommufd.number(), 1).error(), Errno::Enoent);
  ASSERT_DONE(session.preserve(memory.number(), 2));
  ASSERT_DONE(session.preserve(iommufd.number(), 1));
}

TEST_F(Refusal, UnsealedMemory) {
  make(0);
  ASSERT_DONE(session.preserve(memory.number(), 2));
  EXPECT_EQ(session.preserve(iommufd.number(), 1).error(), Errno::Einval);
}

// Seals count as of the mapping, not as of the preservation (R59).
TEST_F(Refusal, SealsAddedAfterTheMapping) {
  make(0);
  ASSERT_DONE(sys->add_seals(memory.number(), Memfd::kSealsForUpdate));
  ASSERT_DONE(session.preserve(memory.number(), 2));
  EXPECT_EQ(session.preserve(iommufd.number(), 1).error(), Errno::Einval);
}

TEST_F(Refusal, DuplicateTokens) {
  make();
  ASSERT_DONE(session.preserve(memory.number(), 2));
  EXPECT_EQ(session.preserve(iommufd.number(), 2).error(), Errno::Eexist);
}

TEST_F(Refusal, TheSameMemoryTwice) {
  make();
  ASSERT_DONE(session.preserve(memory.number(), 2));
  EXPECT_EQ(session.preserve(memory.number(), 3).error(), Errno::Ebusy);
}

TEST_F(Refusal, TwoPageTablesUnderOneToken) {
  make();
  const u32 ioas = *iommufd.ioas_alloc();
  const auto other = iommufd.hwpt_alloc(1, ioas);
  ASSERT_TRUE(other) << errno_name(other.error());
  EXPECT_EQ(iommufd.mark_preserve(*other, 7).error(), Errno::Eaddrinuse);
}

TEST_F(Refusal, ChangesWhilePreserved) {
  make();
  ASSERT_DONE(session.preserve(memory.number(), 2));
  ASSERT_DONE(session.preserve(iommufd.number(), 3));
  ASSERT_DONE(session.preserve(device.number(), 4));
  EXPECT_EQ(iommufd.unmap(2, kIova, kBytes).error(), Errno::Ebusy);
  EXPECT_EQ(device.detach().error(), Errno::Ebusy);
  EXPECT_EQ(device.attach(hwpt).error(), Errno::Ebusy);
  EXPECT_EQ(iommufd.destroy(hwpt).error(), Errno::Ebusy);
  EXPECT_EQ(iommufd.mark_preserve(hwpt, 9).error(), Errno::Ebusy);
}

TEST_F(Refusal, KernelsThatAreNone) {
  EXPECT_EQ(rig.kernel().kexec_load("missing").error(), Errno::Enoent);
  EXPECT_EQ(rig.kernel().kexec().error(), Errno::Enoexec) << "nothing is loaded";
  EXPECT_EQ(rig.kernel().kexec_load("future").error(), Errno::Enoexec) << "it cannot read what kernel a writes";
  EXPECT_EQ(rig.kernel().kexec_load("noteless").error(), Errno::Enoexec);
  // What was refused does not stand in the way.
  ASSERT_DONE(rig.kexec("b"));
}

// Two programs may ask at the same time; the one that jumps must keep what it jumps to.
TEST_F(Refusal, OneAtATimeLoadsOrJumps) {
  ASSERT_DONE(rig.kernel().kexec_load("b"));
  rig.machine().fail_jump(Errno::Eacces);
  const auto error_of = [](const Result<void>& result) { return result ? Errno{} : result.error(); };
  Errno load{}, jump{};
  bool asked = false;
  // In the middle of the first one's kexec, where it first looks at a register.
  rig.steps().witness = [&](Phys, bool) {
    if (std::exchange(asked, true)) return;
    load = error_of(rig.kernel().kexec_load("a"));
    jump = error_of(rig.kernel().kexec());
  };
  EXPECT_EQ(error_of(rig.kernel().kexec()), Errno::Eacces);
  rig.steps().witness = nullptr;
  ASSERT_TRUE(asked);
  EXPECT_EQ(load, Errno::Ebusy);
  EXPECT_EQ(jump, Errno::Ebusy);
  // And not for ever.
  ASSERT_DONE(rig.kexec("b"));
}

// First-stage tables have no mapping that can only be written, and no second half of their addresses.
TEST(FirstStageRefusal, WhatTheFormatCannotSay) {
  RigConfig config = small_machine({});
  set_tables(config, Tables::FirstStage);
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  process::LocalProgram& sys = rig.new_program();
  const Memfd memory = *Memfd::create(sys, "guest", kBytes);
  Iommufd iommufd = *Iommufd::open(sys);
  VfioDevice device = *VfioDevice::open(sys, "/dev/vfio/devices/vfio0");
  const u32 id = *device.bind(iommufd);
  const u32 ioas = *iommufd.ioas_alloc();
  const u32 hwpt = *iommufd.hwpt_alloc(id, ioas);
  ASSERT_TRUE(device.attach(hwpt));
  const auto map = [&](u32 flags, u64 iova) -> Errno {
    uapi::IommuIoasMapFile cmd{.size = sizeof cmd,
                               .flags = flags | uapi::iommu_map::kFixedIova,
                               .ioas_id = ioas,
                               .fd = memory.number(),
                               .length = kBytes,
                               .iova = iova};
    const auto mapped = sys.ioctl(iommufd.number(), uapi::kIommuIoasMapFile, &cmd);
    return mapped ? Errno{} : mapped.error();
  };
  constexpr u32 kRead = uapi::iommu_map::kReadable;
  constexpr u32 kWrite = uapi::iommu_map::kWriteable;
  constexpr u64 kHalf = u64{1} << 47;
  EXPECT_EQ(map(kWrite, kIova), Errno::Eopnotsupp);
  EXPECT_EQ(map(kRead, kIova), Errno{});
  EXPECT_EQ(map(kRead | kWrite, kHalf - kBytes), Errno{});
  EXPECT_NE(map(kRead | kWrite, kHalf), Errno{});
  EXPECT_NE(map(kRead | kWrite, ~u64{0} - kBytes + 1), Errno{});
  device = {};
  iommufd = {};
  EXPECT_EQ(problems_of(rig), "");
}

}  // namespace
}  // namespace perdure::tool
