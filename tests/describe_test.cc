// What a kernel says of the memory that it hands over, against what hardware finds there: every mapping that it names
// is walked by the board's own reader, in the old kernel's last moment.
#include "core/kernel/kernel.h"
#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

struct Told final : HandoverVisitor {
  struct Run {
    u64 iova, phys, length;
    Access access;
  };
  struct Domain {
    DomainDescription description;
    std::vector<Run> runs;
    u64 table_bytes = 0;
  };
  std::vector<std::string> sessions;
  std::vector<std::pair<u64, std::string>> files;
  std::vector<u64> units;
  std::vector<Domain> domains;
  std::vector<DeviceDescription> devices;

  void session(const luo::SessionStatus& s) override { sessions.emplace_back(s.name); }
  void file(const luo::FileStatus& f) override { files.emplace_back(f.token, f.type); }
  void unit(const UnitInfo& info) override { units.push_back(info.base.value); }
  void domain(const DomainDescription& d) override {
    domains.push_back({.description = d, .runs = {}, .table_bytes = 0});
  }
  void run(Iova iova, Phys phys, u64 length, Access access) override {
    domains.back().runs.push_back({iova.value, phys.value, length, access});
  }
  void tables(Phys, u64 length) override { domains.back().table_bytes += length; }
  void device(const DeviceDescription& d) override { devices.push_back(d); }
};

class Describe : public testing::TestWithParam<Tables> {};

TEST_P(Describe, EveryMappingIsThereForHardware) {
  RigConfig config = small_machine({.devices = 4});
  set_tables(config, GetParam());
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  for (u32 hop = 0; hop < 3; ++hop) {
    ASSERT_DONE(rig.start_program(hop));
    Told before;
    ASSERT_DONE(rig.kernel().describe_handover(before));
    EXPECT_TRUE(before.domains.empty()) << "nothing is preserved yet";
    ASSERT_DONE(rig.preserve());
    Told told;
    ASSERT_DONE(rig.kernel().describe_handover(told));
    EXPECT_EQ(told.sessions.size(), 1U);
    // Memory of three guests, state, iommufd, four devices.
    EXPECT_EQ(told.files.size(), 9U);
    EXPECT_EQ(told.units.size(), 1U);
    ASSERT_EQ(told.domains.size(), 3U);
    ASSERT_EQ(told.devices.size(), 4U);
    for (const DeviceDescription& device : told.devices) {
      const auto domain = std::find_if(told.domains.begin(), told.domains.end(),
                                       [&](const Told::Domain& d) { return d.description.top == device.top; });
      ASSERT_NE(domain, told.domains.end());
      EXPECT_GE(device.did, kFirstDynamicDid);
      EXPECT_EQ(device.unit.value, told.units[0]);
      u64 mapped = 0;
      for (const Told::Run& run : domain->runs) {
        mapped += run.length;
        for (const u64 at : {u64{0}, run.length / 2, run.length - 64}) {
          const board::Translation found =
              rig.board().unit(0).probe(device.source.bdf, run.iova + at, 64, board::Access::Write);
          EXPECT_TRUE(found.ok()) << std::hex << run.iova + at;
          EXPECT_EQ(found.phys, run.phys + at) << std::hex << run.iova + at;
        }
      }
      EXPECT_EQ(mapped, domain->description.mapped_bytes);
      EXPECT_GE(domain->table_bytes, domain->description.table_pages * kPageSize);
      EXPECT_GE(domain->description.table_pages, u64{domain->description.geometry.levels});
    }
    EXPECT_FALSE(rig.kernel().next_boot_info());
    ASSERT_DONE(rig.kexec(hop % 2 == 0 ? "b" : "a"));
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, Describe, testing::Values(Tables::Legacy, Tables::SecondStage, Tables::FirstStage));

}  // namespace
}  // namespace perdure::tool
