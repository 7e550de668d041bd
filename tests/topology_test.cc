// Machines of every shape that configs/ has: who is behind which unit, under which requester ids, isolated from whom,
// as this page says and not as any code computes it; then live updates of what can be preserved, and the refusals of
// what cannot.
#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <map>

#include "client/live_update.h"
#include "core/uapi/iommufd.h"
#include "machine/board/config_file.h"
#include "tests/small_machine.h"
#include "tool/streams_on.h"

namespace perdure::tool {
namespace {

using board::Bdf;
using board::Phase;
using client::Iommufd;
using client::LiveUpdate;
using client::Memfd;
using client::Session;
using client::VfioDevice;
using testing::ElementsAre;
using testing::ElementsAreArray;

constexpr u64 kStretch = 2'000'000;
constexpr u64 kMemory = u64{4} << 30;
constexpr u64 kIova = u64{4} << 30;

board::BoardConfig board_of(const std::string& name) {
  return board::read_board(std::string(PERDURE_CONFIGS) + "/" + name + ".toml");
}

using Domains = std::vector<std::vector<std::string>>;

RigConfig machine(const std::string& name, const Domains& domains) {
  RigConfig config = streams_on(board_of(name), domains, kMemory);
  config.plan.slots = 64;
  config.plan.rate = config.plan.devices > 8 ? 100'000 : 500'000;
  config.plan.small_leaves = u64{4} << 20;
  return config;
}

SourceId id_of(Bdf bdf) {
  return {bdf.segment, bdf.value};
}

IommuDevice* device(InProcessRig& rig, std::string_view name) {
  for (const board::DeviceConfig& d : rig.board().config().devices) {
    if (d.name == name) return rig.kernel().iommu().find(id_of(d.bdf));
  }
  return nullptr;
}

// As hardware finds it, in legacy mode: the context entry of a requester in a unit's tables.
struct HardwareEntry {
  bool present = false;
  u64 did = 0;
  u64 top = 0;
};
HardwareEntry hardware_entry(board::Board& board, usize unit, u16 requester) {
  constexpr u64 kAddress = 0x000F'FFFF'FFFF'F000;
  u64 low = 0;
  u64 high = 0;
  const u64 root = board.unit(unit).read(0x20, 8) & kAddress;
  if (root == 0 || !board.memory().load64(root + u64{static_cast<u8>(requester >> 8)} * 16, low) || (low & 1) == 0)
    return {};
  const u64 at = (low & kAddress) + u64{static_cast<u8>(requester)} * 16;
  EXPECT_TRUE(board.memory().load64(at, low) && board.memory().load64(at + 8, high));
  return {(low & 1) != 0, high >> 8 & 0xFFFF, low & kAddress};
}

// Devices of the plan only: others have nothing to do.
void expect_streaming(InProcessRig& rig, const RigConfig& config, Phase phase) {
  const board::AuditReport report = rig.board().audit();
  for (const board::DeviceResult& d : report.devices) {
    const board::PhaseResult& p = d.in(phase);
    const bool streams = std::find(config.streamed.begin(), config.streamed.end(), d.bdf) != config.streamed.end();
    EXPECT_EQ(p.done > 0, streams) << d.name;
    if (streams) {
      EXPECT_TRUE(p.clean()) << d.name << " " << phase_name(phase) << ": refused " << p.refused();
    }
  }
  for (const board::Finding& f : report.findings) ADD_FAILURE() << f.to_string();
}

// --- what the machine is ---------------------------------------------------------------------------------------------

struct Shape {
  const char* board;
  const char* device;
  u64 unit;                     // its registers
  std::vector<u16> requesters;  // ids in the unit's segment
  const char* group;            // equal for those that are not isolated from each other
};

constexpr u64 kUnit0 = 0xFED9'0000;
constexpr u64 kUnit1 = 0xFED9'1000;

// clang-format off
const Shape kShapes[] = {
    {"small-pc", "streamer0", kUnit0, {0x0018}, "0"},
    {"small-pc", "streamer1", kUnit0, {0x0020}, "1"},
    {"small-pc", "streamer2", kUnit0, {0x0028}, "2"},
    {"small-pc", "streamer3", kUnit0, {0x0030}, "3"},

    {"two-units", "named", kUnit0, {0x0018}, "named"},
    {"two-units", "rest", kUnit1, {0x0020}, "rest"},
    {"two-units", "below-named", kUnit0, {0x0100}, "below-named"},
    {"two-units", "below-rest", kUnit1, {0x0200}, "below-rest"},

    // 02:01.0 behind 01:00.0, whose secondary bus is 2.
    {"bridge-aliases", "plain", kUnit0, {0x0018}, "plain"},
    {"bridge-aliases", "alone", kUnit0, {0x0208, 0x0200}, "alone"},
    {"bridge-aliases", "pci-x", kUnit0, {0x0410, 0x0400}, "pci-x"},
    {"bridge-aliases", "left", kUnit0, {0x0608, 0x0600}, "conventional"},
    {"bridge-aliases", "right", kUnit0, {0x0718, 0x0610, 0x0600}, "conventional"},
    {"bridge-aliases", "integrated", kUnit0, {0x0820, 0x00F8}, "integrated"},

    {"multifunction-no-acs", "open0", kUnit0, {0x0018}, "open"},
    {"multifunction-no-acs", "open1", kUnit0, {0x0019}, "open"},
    {"multifunction-no-acs", "isolated0", kUnit0, {0x0020}, "isolated0"},
    {"multifunction-no-acs", "isolated1", kUnit0, {0x0021}, "isolated1"},
    {"multifunction-no-acs", "switched0", kUnit0, {0x0300}, "switch"},
    {"multifunction-no-acs", "switched1", kUnit0, {0x0400}, "switch"},

    {"rmrr", "free", kUnit0, {0x0018}, "free"},
    {"rmrr", "storage", kUnit0, {0x0020}, "storage"},
    {"rmrr", "usb", kUnit0, {0x00A0}, "usb"},

    {"ats-device", "plain", kUnit0, {0x0018}, "plain"},
    {"ats-device", "integrated", kUnit0, {0x0020}, "integrated"},
    {"ats-device", "card", kUnit0, {0x0100}, "card"},

    {"vmd-child", "plain", kUnit0, {0x0018}, "plain"},
    {"vmd-child", "vmd", kUnit0, {0x0070}, "vmd"},
    {"vmd-child", "disk0", kUnit0, {0x0070}, "vmd"},
    {"vmd-child", "disk1", kUnit0, {0x0070}, "vmd"},

    {"two-segments", "first", kUnit0, {0x0018}, "first"},
    {"two-segments", "second", kUnit1, {0x0018}, "second"},
    {"two-segments", "below", kUnit1, {0x0100}, "below"},

    {"sixteen-devices", "streamer0", kUnit1, {0x0018}, "0"},
    {"sixteen-devices", "streamer3", kUnit1, {0x0030}, "3"},
    {"sixteen-devices", "streamer4", kUnit0, {0x0300}, "4"},
    {"sixteen-devices", "streamer7", kUnit0, {0x0600}, "7"},
    {"sixteen-devices", "streamer8", kUnit1, {0x1200}, "8"},
    {"sixteen-devices", "streamer12", kUnit0, {0x2200}, "12"},
    {"sixteen-devices", "streamer15", kUnit0, {0x2500}, "15"},
};
// clang-format on

std::vector<std::string> boards() {
  std::vector<std::string> names;
  for (const Shape& s : kShapes) {
    if (names.empty() || names.back() != s.board) names.emplace_back(s.board);
  }
  return names;
}

std::string test_name(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

class Topology : public testing::TestWithParam<std::string> {};

TEST_P(Topology, UnitsRequesterIdsAndGroupsAreThoseOfTheBoard) {
  RigConfig config;
  config.board = board_of(GetParam());
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  EXPECT_EQ(problems_of(rig), "");
  std::map<std::string, const Group*> groups;
  for (const Shape& s : kShapes) {
    if (s.board != GetParam()) continue;
    SCOPED_TRACE(s.device);
    const IommuDevice* d = device(rig, s.device);
    ASSERT_NE(d, nullptr);
    EXPECT_EQ(d->unit().info().base.value, s.unit);
    std::vector<u16> ids;
    for (SourceId id : d->aliases()) {
      EXPECT_EQ(id.segment, d->unit().info().segment);
      ids.push_back(id.bdf);
    }
    EXPECT_THAT(ids, ElementsAreArray(s.requesters));
    const auto [known, first] = groups.emplace(s.group, &d->group());
    EXPECT_EQ(known->second, &d->group()) << "one group with others that are called " << s.group;
    for (const auto& [name, group] : groups) EXPECT_EQ(group == &d->group(), name == s.group) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Boards, Topology, testing::ValuesIn(boards()),
                         [](const auto& of) { return test_name(of.param); });

TEST(Topology, EveryBoardThatShipsIsTested) {
  const std::vector<std::string> tested = boards();
  for (const auto& entry : std::filesystem::directory_iterator(PERDURE_CONFIGS)) {
    EXPECT_NE(std::find(tested.begin(), tested.end(), entry.path().stem().string()), tested.end()) << entry.path();
  }
}

// --- what survives ---------------------------------------------------------------------------------------------------

struct Update {
  const char* board;
  const char* name;
  Domains domains;
  scenarios::Take take = scenarios::Take::Replace;
  board::CachePolicy caches = board::CachePolicy::EvictAlways;
};

class TopologyUpdate : public testing::TestWithParam<Update> {};

TEST_P(TopologyUpdate, DevicesGoOnThereAndBack) {
  const Update& u = GetParam();
  RigConfig config = machine(u.board, u.domains);
  config.plan.take = u.take;
  for (board::UnitConfig& unit : config.board.units) unit.model.policy = u.caches;
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  for (u32 hop = 1; hop <= 2; ++hop) {
    SCOPED_TRACE("hop " + std::to_string(hop));
    rig.run_for(kStretch);
    ASSERT_DONE(rig.verify());
    rig.board().enter_phase(Phase::During);
    ASSERT_DONE(rig.preserve());
    ASSERT_DONE(rig.kexec(hop % 2 == 1 ? "b" : "a"));
    const IommuLiveUpdate::Report& report = rig.kernel().live_update().report();
    EXPECT_EQ(report.devices, config.plan.devices);
    EXPECT_EQ(report.quarantined, 0U);
    ASSERT_DONE(rig.start_program(hop));
    rig.run_for(kStretch);
    expect_streaming(rig, config, Phase::During);
    rig.board().enter_phase(Phase::After);
    rig.run_for(kStretch);
    ASSERT_DONE(rig.verify());
    expect_streaming(rig, config, Phase::After);
    rig.board().enter_phase(Phase::Before);
    EXPECT_EQ(problems_of(rig), "");
  }
}

// Every domain has devices of both units and of all depths.
const Domains kSixteen = [] {
  Domains all(3);
  for (unsigned i = 0; i < 16; ++i) all[i % 3].push_back("streamer" + std::to_string(i));
  return all;
}();

INSTANTIATE_TEST_SUITE_P(
    Boards, TopologyUpdate,
    testing::Values(Update{"small-pc", "", {{"streamer0", "streamer3"}, {"streamer1"}}},
                    Update{"two-units", "", {{"named"}, {"rest"}, {"below-named"}, {"below-rest"}}},
                    Update{"two-units", "SharedDomains", {{"named", "rest"}, {"below-named", "below-rest"}}},
                    Update{"two-units",
                           "SharedDomainsSticky",
                           {{"named", "rest", "below-rest"}},
                           scenarios::Take::Replace,
                           board::CachePolicy::Sticky},
                    Update{"two-units", "SharedDomainsKept", {{"named", "rest"}}, scenarios::Take::Keep},
                    Update{"bridge-aliases", "", {{"plain"}, {"alone"}, {"pci-x"}, {"integrated"}}},
                    Update{"bridge-aliases",
                           "SharedDomain",
                           {{"plain", "alone", "pci-x"}},
                           scenarios::Take::Replace,
                           board::CachePolicy::Sticky},
                    Update{"multifunction-no-acs", "", {{"isolated0"}, {"isolated1"}}},
                    Update{"rmrr", "", {{"free"}, {"usb"}}}, Update{"ats-device", "", {{"plain"}}},
                    Update{"vmd-child", "", {{"plain"}}},
                    Update{"two-segments", "", {{"first"}, {"second"}, {"below"}}},
                    Update{"two-segments", "SharedDomain", {{"first", "second"}, {"below"}}},
                    Update{"sixteen-devices", "", kSixteen}),
    [](const auto& of) { return test_name(std::string(of.param.board) + of.param.name); });

// --- programs without the scenario -----------------------------------------------------------------------------------

class TopologyProgram : public testing::Test {
 protected:
  void start(const std::string& board) {
    config.board = board_of(board);
    rig.emplace(config);
    ASSERT_TRUE(rig->power_on("a")) << problems_of(*rig);
    sys = &rig->new_program();
    order = vfio_order(config.board);
    memory = *Memfd::create(*sys, "guest", kBytes);
    iommufd = *Iommufd::open(*sys);
  }
  void TearDown() override {
    session = {};
    devices.clear();
    iommufd = {};
    memory = {};
  }
  // The program dies with its kernel: nothing is closed.
  Result<void> leave() {
    TRY(rig->leave("b"));
    for (auto& [name, one] : devices) one.fd().release();
    iommufd.fd().release();
    memory.fd().release();
    session.fd().release();
    return {};
  }

  VfioDevice& open(const std::string& name) {
    const auto d = std::find_if(config.board.devices.begin(), config.board.devices.end(),
                                [&](const board::DeviceConfig& one) { return one.name == name; });
    const auto index = std::find(order.begin(), order.end(), d->bdf) - order.begin();
    auto opened = VfioDevice::open(*sys, "/dev/vfio/devices/vfio" + std::to_string(index));
    EXPECT_TRUE(opened) << name;
    return devices[name] = std::move(*opened);
  }
  // A marked HWPT with one MiB at kIova.
  void make_hwpt(u32 device_id) {
    const u32 ioas = *iommufd.ioas_alloc();
    ASSERT_TRUE(iommufd.map_file(ioas, memory.number(), 0, kBytes, kIova));
    const auto made = iommufd.hwpt_alloc(device_id, ioas);
    ASSERT_TRUE(made) << errno_name(made.error());
    hwpt = *made;
    ASSERT_TRUE(iommufd.mark_preserve(hwpt, 7));
  }
  // Opens them, and attaches all to one HWPT.
  void attach(std::initializer_list<const char*> names) {
    for (const char* name : names) {
      const auto id = open(name).bind(iommufd);
      ASSERT_TRUE(id) << name;
      if (hwpt == 0) make_hwpt(*id);
      ASSERT_TRUE(devices[name].attach(hwpt)) << name;
    }
  }
  void preserve_memory() {
    session = *(*LiveUpdate::open(*sys)).create_session("one");
    ASSERT_TRUE(session.preserve(memory.number(), 1));
    ASSERT_TRUE(session.preserve(iommufd.number(), 2));
  }
  // Open, bind, attach, and what preserving it says; Errno::Ok for success.
  int preserve_errno(const std::string& name, u64 token) {
    const auto done = session.preserve(devices[name].number(), token);
    return done ? 0 : static_cast<int>(done.error());
  }

  static constexpr u64 kBytes = u64{1} << 20;
  RigConfig config;
  std::optional<InProcessRig> rig;
  process::LocalProgram* sys = nullptr;
  std::vector<Bdf> order;
  Memfd memory;
  Iommufd iommufd;
  std::map<std::string, VfioDevice> devices;
  u32 hwpt = 0;
  Session session;
};

constexpr int kUnsupported = static_cast<int>(Errno::Eopnotsupp);

// R14, R50: functions that are not isolated are one group, with one owner and one HWPT, and are not preserved.
TEST_F(TopologyProgram, FunctionsWithoutAcsAreOneGroup) {
  start("multifunction-no-acs");
  VfioDevice& first = open("open0");
  VfioDevice& second = open("open1");
  const auto id = first.bind(iommufd);
  ASSERT_TRUE(id);
  {
    const Iommufd other = *Iommufd::open(*sys);
    EXPECT_EQ(second.bind(other).error(), Errno::Eperm) << "the group has an owner";
  }
  ASSERT_TRUE(second.bind(iommufd));
  make_hwpt(*id);
  ASSERT_TRUE(first.attach(hwpt));
  EXPECT_TRUE(hardware_entry(rig->board(), 0, 0x0018).present);
  EXPECT_TRUE(hardware_entry(rig->board(), 0, 0x0019).present) << "the group is attached as a whole";

  preserve_memory();
  EXPECT_EQ(preserve_errno("open1", 4), static_cast<int>(Errno::Enoent)) << "it is not attached itself (R50)";
  EXPECT_EQ(preserve_errno("open0", 3), kUnsupported);
  session = {};
  ASSERT_TRUE(second.attach(hwpt));
  preserve_memory();
  EXPECT_EQ(preserve_errno("open0", 3), kUnsupported);
  EXPECT_EQ(preserve_errno("open1", 4), kUnsupported);
  session = {};

  // To another page table only together.
  const u32 ioas = *iommufd.ioas_alloc();
  const u32 elsewhere = *iommufd.hwpt_alloc(*id, ioas);
  ASSERT_TRUE(first.attach(elsewhere));
  const HardwareEntry one = hardware_entry(rig->board(), 0, 0x0018);
  const HardwareEntry two = hardware_entry(rig->board(), 0, 0x0019);
  EXPECT_EQ(one.top, two.top);
  EXPECT_EQ(one.did, two.did);
  ASSERT_TRUE(first.detach());
  EXPECT_TRUE(hardware_entry(rig->board(), 0, 0x0018).present) << "the other one is still attached";
  EXPECT_EQ(first.attach(hwpt).error(), Errno::Einval) << "another than its sibling's";
  ASSERT_TRUE(first.attach(elsewhere));
  ASSERT_TRUE(first.detach());
  ASSERT_TRUE(second.detach());
  EXPECT_FALSE(hardware_entry(rig->board(), 0, 0x0018).present);
  EXPECT_FALSE(hardware_entry(rig->board(), 0, 0x0019).present);
}

TEST_F(TopologyProgram, DevicesBelowASwitchWithoutAcsAreNotPreserved) {
  start("multifunction-no-acs");
  attach({"switched0"});
  preserve_memory();
  EXPECT_EQ(preserve_errno("switched0", 3), kUnsupported);
}

TEST_F(TopologyProgram, DevicesOnOneConventionalBusAreNotPreserved) {
  start("bridge-aliases");
  attach({"left"});
  for (u16 requester : {0x0608, 0x0600, 0x0718, 0x0610}) {
    EXPECT_TRUE(hardware_entry(rig->board(), 0, requester).present) << requester;
  }
  preserve_memory();
  EXPECT_EQ(preserve_errno("left", 3), kUnsupported);
}

// R48
TEST_F(TopologyProgram, DevicesWithTranslationsOfTheirOwnAreNotPreserved) {
  start("ats-device");
  attach({"integrated", "card"});
  preserve_memory();
  EXPECT_EQ(preserve_errno("integrated", 3), kUnsupported);
  EXPECT_EQ(preserve_errno("card", 4), kUnsupported);
  EXPECT_THAT(problems_of(*rig), testing::HasSubstr("it can keep translations of its own (ATS)"));
}

// R49
TEST_F(TopologyProgram, DevicesBehindAVmdAreNotPreserved) {
  start("vmd-child");
  const auto id = open("disk1").bind(iommufd);
  ASSERT_TRUE(id) << errno_name(id.error());
  make_hwpt(*id);
  ASSERT_TRUE(devices["disk1"].attach(hwpt));
  EXPECT_TRUE(hardware_entry(rig->board(), 0, 0x0070).present) << "under the VMD's requester id";
  EXPECT_FALSE(hardware_entry(rig->board(), 0, 0x0100).present) << "and none of its own";
  preserve_memory();
  EXPECT_EQ(preserve_errno("disk1", 3), kUnsupported);
  EXPECT_THAT(problems_of(*rig), testing::HasSubstr("carries another function's requester id"));
}

// R57: what is not preserved is cleared before the jump, under every id that its DMA may carry; what is stays.
TEST_F(TopologyProgram, EveryRequesterIdOfWhatIsNotPreservedIsCleared) {
  start("bridge-aliases");
  attach({"plain", "alone", "pci-x", "integrated", "left"});
  preserve_memory();
  ASSERT_EQ(preserve_errno("pci-x", 3), 0);
  const u16 kept[] = {0x0410, 0x0400};
  const u16 cleared[] = {0x0018, 0x0208, 0x0200, 0x0820, 0x00F8, 0x0608, 0x0600, 0x0718, 0x0610};
  for (u16 id : kept) EXPECT_TRUE(hardware_entry(rig->board(), 0, id).present) << id;
  for (u16 id : cleared) EXPECT_TRUE(hardware_entry(rig->board(), 0, id).present) << id;
  ASSERT_TRUE(leave());
  for (u16 id : kept) EXPECT_TRUE(hardware_entry(rig->board(), 0, id).present) << id;
  for (u16 id : cleared) EXPECT_FALSE(hardware_entry(rig->board(), 0, id).present) << id;
  ASSERT_TRUE(rig->arrive());
  EXPECT_EQ(rig->kernel().live_update().report().devices, 1U);
  EXPECT_EQ(rig->kernel().live_update().report().quarantined, 0U);
  EXPECT_EQ(problems_of(*rig), "");
}

// R03: a DID is one unit's; another unit may have the same for something else, and give it to anybody.
TEST_F(TopologyProgram, DidsAreEachUnitsOwn) {
  start("two-units");
  attach({"named"});
  Iommufd other = *Iommufd::open(*sys);
  ASSERT_TRUE(open("rest").bind(other));
  ASSERT_TRUE(devices["rest"].attach(*other.ioas_alloc()));
  const HardwareEntry named = hardware_entry(rig->board(), 0, 0x0018);
  const HardwareEntry rest = hardware_entry(rig->board(), 1, 0x0020);
  ASSERT_TRUE(named.present && rest.present);
  ASSERT_EQ(named.did, rest.did) << "this test wants one DID on both units";
  EXPECT_NE(named.top, rest.top);
  EXPECT_FALSE(hardware_entry(rig->board(), 1, 0x0018).present) << "only its own unit has an entry for a device";
  preserve_memory();
  ASSERT_EQ(preserve_errno("named", 3), 0);
  ASSERT_TRUE(leave());
  other.fd().release();
  ASSERT_TRUE(rig->arrive());
  EXPECT_EQ(hardware_entry(rig->board(), 0, 0x0018).did, named.did);
  Iommu& iommu = rig->kernel().iommu();
  EXPECT_TRUE(iommu.find_unit(Phys(kUnit0))->did_taken(named.did));
  EXPECT_FALSE(iommu.find_unit(Phys(kUnit1))->did_taken(named.did));
}

// R12: the same BDF in two segments; a record is for one of them.
TEST_F(TopologyProgram, ARecordIsForAFunctionOfItsSegment) {
  start("two-segments");
  attach({"first", "second"});
  preserve_memory();
  ASSERT_EQ(preserve_errno("second", 3), 0);
  ASSERT_TRUE(leave());
  ASSERT_TRUE(rig->arrive());
  EXPECT_EQ(device(*rig, "first")->group().ownership(), Ownership::Unowned);
  EXPECT_EQ(device(*rig, "second")->group().ownership(), Ownership::HeldForSession);
  EXPECT_FALSE(hardware_entry(rig->board(), 0, 0x0018).present);
  EXPECT_TRUE(hardware_entry(rig->board(), 1, 0x0018).present);
}

// --- firmware's memory -----------------------------------------------------------------------------------------------

// A device that firmware left running, driven past every kernel.
class FirmwareRing {
 public:
  FirmwareRing(board::Board& board, Bdf bdf) : board_(board), config_(0xB000'0000 + (u64{bdf.value} << 12)) {
    registers_ = (read(config_ + 0x10, Width::W32) & ~u64{0xF}) | read(config_ + 0x14, Width::W32) << 32;
    board_.mmio_write(Phys(config_ + 4), Width::W16, 6);
  }
  void start(u64 base, u64 length) {
    const u64 ring = registers_ + 0x1000;
    write(ring, 0);
    write(ring + 0x10, base);
    write(ring + 0x18, length);
    write(ring + 0x20, 64);
    write(ring + 0x28, 7);
    write(ring + 0x30, 500'000);
    write(ring, 1);
  }
  u64 done() { return read(registers_ + 0x40, Width::W64); }
  u64 faulted() { return read(registers_ + 0x50, Width::W64); }

 private:
  u64 read(u64 at, Width width) { return board_.mmio_read(Phys(at), width); }
  void write(u64 at, u64 value) { board_.mmio_write(Phys(at), Width::W64, value); }
  board::Board& board_;
  u64 config_;
  u64 registers_ = 0;
};

constexpr u64 kStorageRegion = 0x300'0000;
constexpr u64 kUsbRegion = 0x380'0000;

TEST_F(TopologyProgram, WhatFirmwareUsesStaysMappedAndIsForNobody) {
  start("rmrr");
  EXPECT_EQ(open("storage").bind(iommufd).error(), Errno::Eperm);
  const auto streams = [&] {
    EXPECT_TRUE(hardware_entry(rig->board(), 0, 0x0020).present) << problems_of(*rig);
    FirmwareRing ring(rig->board(), Bdf(0, 4, 0));
    ring.start(kStorageRegion, u64{64} << 10);
    const u64 done = ring.done();
    const u64 faulted = ring.faulted();
    rig->run_for(kStretch);
    EXPECT_GT(ring.done(), done);
    EXPECT_EQ(ring.faulted(), faulted);
    // Nothing but that.
    ring.start(kStorageRegion - (u64{64} << 10), u64{64} << 10);
    rig->run_for(kStretch);
    EXPECT_GT(ring.faulted(), faulted);
  };
  streams();
  // The memory is nobody else's, in the next kernel neither.
  for (const board::MemoryRegion& r : rig->board().memory_map()) {
    if (r.type == board::MemoryRegion::Type::Ram) {
      EXPECT_FALSE(ranges_overlap(r.base, r.length, kStorageRegion, u64{64} << 10));
    }
  }
  ASSERT_TRUE(leave());
  ASSERT_TRUE(rig->arrive());
  streams();
}

struct Ranges {
  uapi::IommuIovaRange list[8];
  u32 count = 0;
};
Ranges iova_ranges(client::Syscalls& sys, const Iommufd& iommufd, u32 ioas) {
  Ranges r;
  uapi::IommuIoasIovaRanges cmd{.size = sizeof(cmd), .ioas_id = ioas, .num_iovas = 8};
  cmd.allowed_iovas = reinterpret_cast<u64>(r.list);
  EXPECT_TRUE(sys.ioctl(iommufd.number(), uapi::kIommuIoasIovaRanges, &cmd));
  r.count = cmd.num_iovas;
  return r;
}

TEST_F(TopologyProgram, AddressesThatFirmwareMayUseAreAHole) {
  start("rmrr");
  const auto id = open("usb").bind(iommufd);
  ASSERT_TRUE(id) << "USB: firmware lets go of it";
  make_hwpt(*id);
  ASSERT_TRUE(devices["usb"].attach(hwpt));
  const u32 ioas = hwpt - 1;
  const Ranges r = iova_ranges(*sys, iommufd, ioas);
  ASSERT_EQ(r.count, 3U);
  EXPECT_EQ(r.list[0].start, 0U);
  EXPECT_EQ(r.list[0].last, kUsbRegion - 1);
  EXPECT_EQ(r.list[1].start, kUsbRegion + (u64{128} << 10));
  EXPECT_EQ(r.list[1].last, 0xFEDF'FFFFU);
  EXPECT_EQ(r.list[2].start, 0xFEF0'0000U);
  EXPECT_EQ(iommufd.map_file(ioas, memory.number(), 0, kPageSize, kUsbRegion + (u64{127} << 10) / kPageSize * kPageSize)
                .error(),
            Errno::Einval);
  ASSERT_TRUE(iommufd.map_file(ioas, memory.number(), 0, kPageSize, kUsbRegion - kPageSize));
  // An address space with memory there does not take the device.
  const u32 taken = *iommufd.ioas_alloc();
  ASSERT_TRUE(iommufd.map_file(taken, memory.number(), 0, kPageSize, kUsbRegion));
  const u32 over = *iommufd.hwpt_alloc(*id, taken);
  EXPECT_EQ(devices["usb"].attach(over).error(), Errno::Eaddrinuse);
  EXPECT_TRUE(hardware_entry(rig->board(), 0, 0x00A0).present) << "still attached where it was";
  // And the hole goes with the device.
  ASSERT_TRUE(devices["usb"].detach());
  EXPECT_EQ(iova_ranges(*sys, iommufd, ioas).count, 1U);
  ASSERT_TRUE(devices["usb"].attach(hwpt));
}

}  // namespace
}  // namespace perdure::tool
