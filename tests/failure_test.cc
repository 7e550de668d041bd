// The failure policy, row by row, with real images: what a kernel does that finds its inheritance damaged. The image is
// changed in memory between the last instruction of the old kernel and the first of the new one.
#include "core/abi/iommu.h"
#include "tests/tenant.h"

namespace perdure::tool {
namespace {

using board::Phase;

constexpr u64 kStretch = 1'000'000;

class Failure : public testing::TestWithParam<Tables> {
 protected:
  Failure() : rig(machine()), traffic(rig) {}
  static RigConfig machine() {
    RigConfig config = small_machine({.devices = 4});
    set_tables(config, GetParam());
    return config;
  }

  // Four devices stream; everything is preserved; the old kernel is gone.
  void SetUp() override {
    ASSERT_DONE(rig.power_on("a"));
    ASSERT_DONE(rig.start_program(0));
    rig.run_for(kStretch);
    ASSERT_DONE(rig.preserve());
    rig.board().enter_phase(Phase::During);
    ASSERT_DONE(rig.leave("b"));
  }

  std::byte* at(u64 phys) { return rig.board().direct_map() + phys; }
  // The first page of RAM that starts with these bytes.
  u64 find_page(std::span<const std::byte> begin) {
    u64 found = 0;
    rig.board().memory().each_materialised_ram([&](board::PhysRange r) {
      for (u64 page = r.base; page < r.end() && found == 0; page += kPageSize) {
        if (std::memcmp(at(page), begin.data(), begin.size()) == 0) found = page;
      }
    });
    return found;
  }
  template <class T>
  u64 find_page(const T& begin) {
    return find_page(std::as_bytes(std::span(&begin, 1)));
  }
  bool translating() { return (rig.board().unit(0).read(0x1C, 4) >> 31 & 1) != 0; }  // GSTS.TES
  void expect_no_gap() {
    for (const board::DmaGap& gap : rig.board().unit(0).gaps()) ADD_FAILURE() << "translation off at " << gap.begin_ns;
    EXPECT_TRUE(translating());
  }
  bool said(std::string_view what) {
    bool found = false;
    for (const std::string& p : rig.take_problems()) found = found || p.find(what) != std::string::npos;
    return found;
  }

  InProcessRig rig;
  Traffic traffic;
};
INSTANTIATE_TEST_SUITE_P(Modes, Failure, testing::Values(Tables::Legacy, Tables::SecondStage, Tables::FirstStage));

TEST_P(Failure, UnreadableHandoverBlocksEverythingAndTouchesNoMemory) {
  const u64 fdt = rig.next().next.kho_fdt;
  std::byte* const page = at(fdt);
  for (u64 i = 0; i + 6 < kPageSize; ++i) {
    if (std::memcmp(page + i, "kho-v4", 6) == 0) std::memcpy(page + i, "kho-v9", 6);
  }
  EXPECT_FALSE(rig.arrive().has_value());
  EXPECT_TRUE(said("unreadable"));
  for (usize i = 0; i < 4; ++i) traffic.expect_stopped(i);
  expect_no_gap();
}

TEST_P(Failure, ScratchTableWhereNoMemoryIsIsRefused) {
  process::InProcessMachine::Jump astray = rig.next();
  astray.next.kho_scratch = board::PhysicalMemory::kHoleBase;
  EXPECT_EQ(rig.arrive(astray).error(), Errno::Einval);
  EXPECT_TRUE(said("scratch table"));
  expect_no_gap();
}

TEST_P(Failure, TranslationOnAndNoImageAtAllIsBlocked) {
  process::InProcessMachine::Jump cold = rig.next();
  cold.next.kho_fdt = 0;
  cold.next.kho_scratch = 0;
  cold.next.kho_scratch_length = 0;
  ASSERT_DONE(rig.arrive(cold));
  EXPECT_TRUE(said("no record says what"));
  for (usize i = 0; i < 4; ++i) traffic.expect_stopped(i);
  expect_no_gap();
}

TEST_P(Failure, UnknownSessionsQuarantineAllDevicesAndKeepMemory) {
  const u64 luo = find_page(std::to_array<std::byte>(
      {std::byte{'l'}, std::byte{'u'}, std::byte{'o'}, std::byte{'-'}, std::byte{'v'}, std::byte{'5'}}));
  ASSERT_NE(luo, 0U);
  *at(luo + 5) = std::byte{'9'};
  ASSERT_DONE(rig.arrive());
  EXPECT_EQ(rig.new_program().open("/dev/liveupdate").error(), Errno::Eio);
  for (usize i = 0; i < 4; ++i) traffic.expect_stopped(i);
  expect_no_gap();
  EXPECT_GT(rig.kernel().frames().totals().kept, 0U) << "what was preserved stays reserved";
}

TEST_P(Failure, UnknownVersionOfIommuRecordsQuarantinesTheirDevices) {
  const u64 header = find_page(abi::kIommuMagic);
  ASSERT_NE(header, 0U);
  reinterpret_cast<abi::IommuHeader*>(at(header))->version = 99;
  ASSERT_DONE(rig.arrive());
  for (usize i = 0; i < 4; ++i) traffic.expect_stopped(i);
  expect_no_gap();
}

// One bit of one device's record: that device is stopped, the others lose nothing and come back.
TEST_P(Failure, DamagedRecordOfOneDeviceQuarantinesThatDeviceAlone) {
  const u64 header = find_page(abi::kIommuMagic);
  ASSERT_NE(header, 0U);
  const u64 block = reinterpret_cast<const abi::IommuHeader*>(at(header))->device_chain;
  const u16 victim = rig.board().config().devices[3].bdf.value;
  abi::IommuDeviceRecord* damaged = nullptr;
  for (u64 i = 0; i + sizeof(abi::IommuDeviceRecord) <= kPageSize && !damaged; i += 8) {
    auto* record = reinterpret_cast<abi::IommuDeviceRecord*>(at(block + i));
    if (record->in_use == 1 && record->bdf == victim && record->generation != 0) damaged = record;
  }
  ASSERT_NE(damaged, nullptr);
  damaged->did ^= 1;
  ASSERT_DONE(rig.arrive());
  traffic.expect_stopped(3);
  for (usize i = 0; i < 3; ++i) traffic.expect_running(i);
  expect_no_gap();
}

// The domain that two devices share: both are stopped, and neither of the other two.
TEST_P(Failure, DamagedRecordOfASharedDomainQuarantinesItsDevicesAlone) {
  const u64 header = find_page(abi::kIommuMagic);
  ASSERT_NE(header, 0U);
  const u64 block = reinterpret_cast<const abi::IommuHeader*>(at(header))->domain_chain;
  auto* record = reinterpret_cast<abi::IommuDomainRecord*>(at(block + sizeof(abi::IommuBlock)));
  ASSERT_EQ(record->in_use, 1U);
  record->levels ^= 1;
  ASSERT_DONE(rig.arrive());
  for (usize i : {0U, 1U}) traffic.expect_stopped(i);
  for (usize i : {2U, 3U}) traffic.expect_running(i);
  expect_no_gap();
}

TEST_P(Failure, DamagedBootInformationIsRefused) {
  process::InProcessMachine::Jump jump = rig.next();
  ASSERT_DONE(rig.arrive(jump));
  EXPECT_EQ(rig.kernel().boot_info().hop, 1U);
  // The same page with one bit flipped is not believed.
  abi::BootInfo info = rig.kernel().boot_info();
  info.kho_fdt ^= u64{1} << 20;
  EXPECT_FALSE(abi::check(info, rig.machine().window).has_value());
}

}  // namespace
}  // namespace perdure::tool
