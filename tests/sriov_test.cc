// Physical and virtual functions: they come and go as sriov_numvfs says, programs drive them with the token that they
// share, and their DMA has requester ids and page tables of its own.
#include <cstring>

#include "client/iommufd.h"
#include "client/live_update.h"
#include "client/memfd.h"
#include "client/vfio_device.h"
#include "core/uapi/vfio.h"
#include "scenarios/drivers/ioat.h"
#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

using client::VfioDevice;

constexpr SourceId kPhysical{0, 5 << 3};
constexpr board::Bdf kFirst{0, 5, 1};
constexpr u64 kIova = 0x1'0000'1000;

struct Token {
  u8 bytes[16];
};
constexpr Token kToken{{1, 2, 3}}, kOther{{4, 5, 6}};

RigConfig machine(bool below_port) {
  RigConfig config = small_machine({});
  board::DeviceConfig ioat;
  ioat.kind = board::DeviceKind::Ioat;
  ioat.bdf = board::Bdf(0, 5, 0);
  ioat.virtual_functions = 2;
  config.board.devices = {ioat};
  config.board.step_ns = 5000;
  if (below_port) {
    board::DeviceConfig port;
    port.kind = board::DeviceKind::Bridge;
    port.bdf = board::Bdf(0, 5, 0);
    ioat.bdf = board::Bdf(1, 0, 0);
    config.board.devices = {port, ioat};
  }
  return config;
}

class Sriov : public testing::TestWithParam<bool>, protected scenarios::Witness {
 protected:
  Sriov() : rig(machine(GetParam())) {}
  void SetUp() override { power_on(); }
  void power_on() {
    ASSERT_DONE(rig.power_on("a"));
    sys = &rig.new_program();
  }
  SourceId physical() const { return GetParam() ? SourceId{0, 0x100} : kPhysical; }
  board::Bdf first() const { return GetParam() ? board::Bdf(1, 0, 1) : kFirst; }
  Result<void> set(u32 count) { return rig.kernel().set_virtual_functions(physical(), count); }
  Result<VfioDevice> open(u32 n) { return VfioDevice::open(*sys, "/dev/vfio/devices/vfio" + std::to_string(n)); }
  Result<u32> bind(const VfioDevice& device, const Token* token) {
    uapi::VfioBindIommufd arg{};
    arg.argsz = sizeof arg;
    arg.iommufd = iommufd.number();
    if (token != nullptr) {
      arg.flags = 1;
      arg.token_uuid_ptr = reinterpret_cast<u64>(token);
    }
    TRY(sys->ioctl(device.number(), uapi::kVfioDeviceBindIommufd, &arg));
    return arg.out_devid;
  }
  u32 config_of(board::Bdf function, u32 offset) {
    return static_cast<u32>(
        rig.board().mmio_read(Phys(0xB000'0000 + (u64{function.value} << 12) + offset), Width::W32));
  }
  // The function's engine copies pages, through tables that only it has.
  void expect_it_copies(const VfioDevice& device, u32 id) {
    const client::Memfd memory =
        *client::Memfd::create(*sys, "guest", align_up(scenarios::Ioat::kBytes, kHugePageSize));
    const client::Mapping map = *memory.map(0, scenarios::Ioat::kBytes);
    const u32 ioas = *iommufd.ioas_alloc();
    ASSERT_DONE(iommufd.map_file(ioas, memory.number(), 0, scenarios::Ioat::kBytes, kIova));
    ASSERT_DONE(device.attach(*iommufd.hwpt_alloc(id, ioas)));
    scenarios::Ioat::State state{};
    scenarios::Ioat driver({*sys, *this}, device, {map.at(0), kIova, scenarios::Ioat::kBytes}, state);
    ASSERT_TRUE(driver.start().has_value()) << driver.what();
    ASSERT_TRUE(driver.check(true).has_value()) << driver.what();
    EXPECT_GE(state.completed, 31U);
  }

  InProcessRig rig;
  process::LocalProgram* sys = nullptr;
  client::Iommufd iommufd;

 private:
  void intend(const scenarios::Intended&) override {}
  void problem(std::string_view, Errno) override {}
};
INSTANTIATE_TEST_SUITE_P(Places, Sriov, testing::Values(false, true),
                         [](const auto& p) { return p.param ? "BelowAPort" : "OnTheRootBus"; });

TEST_P(Sriov, VirtualFunctionsComeAndGo) {
  EXPECT_EQ(open(1).error(), Errno::Enoent);
  EXPECT_EQ(config_of(first(), 8), ~u32{0}) << "nothing answers";
  EXPECT_EQ(set(3).error(), Errno::Erange);
  EXPECT_EQ(rig.kernel().set_virtual_functions({0, 0x99}, 1).error(), Errno::Enoent);
  ASSERT_DONE(set(1));
  ASSERT_DONE(set(1));
  EXPECT_EQ(set(2).error(), Errno::Ebusy) << "by way of none only";
  EXPECT_EQ(config_of(first(), 0), ~u32{0}) << "it has no ids of its own";
  EXPECT_EQ(config_of(first(), 8) >> 8, 0x088000U);
  EXPECT_TRUE(open(1).has_value());
  EXPECT_EQ(open(2).error(), Errno::Enoent);
  ASSERT_DONE(set(0));
  EXPECT_EQ(open(1).error(), Errno::Enoent);
  EXPECT_EQ(config_of(first(), 8), ~u32{0});
  ASSERT_DONE(set(2));
  EXPECT_TRUE(open(2).has_value());
}

TEST_P(Sriov, ProgramsDriveThemWithTheSharedToken) {
  ASSERT_DONE(set(2));
  iommufd = *client::Iommufd::open(*sys);
  {
    const VfioDevice early = *open(1);
    EXPECT_EQ(bind(early, &kToken).error(), Errno::Eacces) << "nobody has set one";
  }
  VfioDevice pf = *open(0);
  const u32 pf_id = *bind(pf, &kToken);
  VfioDevice vf = *open(1);
  EXPECT_EQ(bind(vf, nullptr).error(), Errno::Eacces);
  EXPECT_EQ(bind(vf, &kOther).error(), Errno::Eacces);
  const u32 vf_id = *bind(vf, &kToken);
  // Like any other function, as far as a program sees.
  const client::Region config = *vf.region(uapi::vfio_region::kConfig);
  EXPECT_EQ(*vf.read(config, 0, 4), 0x2021'8086U);
  EXPECT_EQ(*vf.read(config, 4, 2) & 6, 2U) << "memory on, bus mastering off";
  EXPECT_EQ(*vf.read(config, 0x10, 4) & 15, 4U) << "a BAR of 64 bits";
  EXPECT_EQ(vf.region(0)->size, 0x4000U);
  EXPECT_EQ(*vf.read(*vf.region(0), 0, 2), 0x0C01U);
  EXPECT_TRUE(vf.write(config, 4, 2, 0).has_value());
  EXPECT_EQ(vf.read(*vf.region(0), 0, 2).error(), Errno::Eio) << "its BARs are off, says its program";
  EXPECT_TRUE(vf.write(config, 4, 2, 2).has_value());
  expect_it_copies(vf, vf_id);
  expect_it_copies(pf, pf_id);
  // Each by its own id: the physical function's entry is not the virtual one's.
  EXPECT_EQ(rig.board().audit().devices[GetParam() ? 1 : 0].phases[0].not_done_by(board::Cause::Faulted), 0U);
  // While it is open it stays; and is reset when it goes.
  EXPECT_EQ(set(0).error(), Errno::Ebusy);
  vf = {};
  ASSERT_DONE(set(0));
  expect_it_copies(pf, pf_id);
}

// Closing the physical function resets it, which would take its virtual functions away.
TEST_P(Sriov, StayWhenThePhysicalFunctionIsReset) {
  ASSERT_DONE(set(1));
  iommufd = *client::Iommufd::open(*sys);
  {
    const VfioDevice pf = *open(0);
    ASSERT_DONE(bind(pf, &kToken));
    ASSERT_DONE(pf.reset());
  }
  const VfioDevice vf = *open(1);
  const Result<u32> id = bind(vf, &kToken);
  ASSERT_DONE(id);
  expect_it_copies(vf, *id);
}

TEST_P(Sriov, AreNotPreservedAndTheNextKernelStartsWithNone) {
  ASSERT_DONE(set(1));
  iommufd = *client::Iommufd::open(*sys);
  VfioDevice pf = *open(0);
  const u32 pf_id = *bind(pf, &kToken);
  VfioDevice vf = *open(1);
  const u32 vf_id = *bind(vf, &kToken);
  for (const auto& [device, id] : {std::pair<const VfioDevice*, u32>{&pf, pf_id}, {&vf, vf_id}}) {
    const u32 ioas = *iommufd.ioas_alloc();
    const u32 hwpt = *iommufd.hwpt_alloc(id, ioas);
    ASSERT_DONE(iommufd.mark_preserve(hwpt, id));
    ASSERT_DONE(device->attach(hwpt));
  }
  {
    const client::LiveUpdate lu = *client::LiveUpdate::open(*sys);
    const client::Session session = *lu.create_session("sriov");
    ASSERT_DONE(session.preserve(iommufd.number(), 1));
    EXPECT_EQ(session.preserve(vf.number(), 2).error(), Errno::Eopnotsupp);
    EXPECT_EQ(session.preserve(pf.number(), 3).error(), Errno::Eopnotsupp) << "while it has any";
  }
  vf = {};
  pf = {};
  iommufd = {};
  ASSERT_DONE(rig.leave("b"));
  ASSERT_DONE(rig.arrive());
  sys = &rig.new_program();
  EXPECT_EQ(config_of(first(), 8), ~u32{0});
  EXPECT_EQ(open(1).error(), Errno::Enoent);
  ASSERT_DONE(set(1));
  iommufd = *client::Iommufd::open(*sys);
  pf = *open(0);
  ASSERT_DONE(bind(pf, &kToken));
  vf = *open(1);
  const Result<u32> id = bind(vf, &kToken);
  ASSERT_DONE(id);
  expect_it_copies(vf, *id);
  EXPECT_EQ(problems_of(rig), "");
}

}  // namespace
}  // namespace perdure::tool
