// Live updates of functions below bridges, judged by the board: from the freeze to the finish nothing is written to
// what is at work but what its program may write (design §7), whatever becomes of their neighbours.
#include "client/iommufd.h"
#include "client/live_update.h"
#include "client/memfd.h"
#include "client/vfio_device.h"
#include "core/abi/pci.h"
#include "core/kho/metadata.h"
#include "scenarios/drivers/streamer.h"
#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

using board::Bdf;
using board::PciWatch;
using board::Phase;
using client::Iommufd;
using client::LiveUpdate;
using client::Memfd;
using client::Session;
using client::VfioDevice;

constexpr u64 kStretch = 500'000;
constexpr u64 kBytes = u64{4} << 20;
constexpr u64 kIova = u64{4} << 30;
constexpr u32 kReset = 0x3b6f;  // VFIO_DEVICE_RESET
constexpr u32 kMsix = 2;

// On the root bus, below a port, and beside that one as a function beyond the eighth; alone below another port.
constexpr Bdf kRoot{0, 3, 0}, kPort{0, 4, 0}, kBelow{1, 0, 0}, kSibling{1, 1, 0}, kOtherPort{0, 5, 0}, kAlone{2, 0, 0};
// As /dev/vfio/devices/vfioN.
constexpr u32 kRootNode = 0, kBelowNode = 1, kSiblingNode = 2, kAloneNode = 3;

RigConfig machine() {
  RigConfig config = small_machine({});
  config.board.devices.clear();
  const auto add = [&](board::DeviceKind kind, Bdf bdf, u8 secondary, bool ari) {
    board::DeviceConfig d;
    d.kind = kind;
    d.bdf = bdf;
    d.ari = ari;
    d.acs = ari;  // functions of one device, isolated from each other
    d.bridge.secondary = secondary;
    config.board.devices.push_back(d);
  };
  add(board::DeviceKind::Streamer, kRoot, 0, false);
  add(board::DeviceKind::Bridge, kPort, 1, false);
  add(board::DeviceKind::Streamer, kBelow, 0, true);
  add(board::DeviceKind::Streamer, kSibling, 0, true);
  add(board::DeviceKind::Bridge, kOtherPort, 2, false);
  add(board::DeviceKind::Streamer, kAlone, 0, false);
  return config;
}

// Some devices that stream into one memory through one page table.
struct Program {
  client::Syscalls* sys = nullptr;
  Memfd memory;
  Iommufd iommufd;
  std::vector<std::pair<u32, Bdf>> devices;
  std::vector<VfioDevice> open;
  u32 hwpt = 0;
  s32 event = -1;
  Session session;

  static std::string path(u32 node) { return "/dev/vfio/devices/vfio" + std::to_string(node); }

  Result<void> begin(client::Syscalls& calls, board::Board& machine, std::vector<std::pair<u32, Bdf>> which) {
    sys = &calls;
    devices = std::move(which);
    memory = TRY(Memfd::create(*sys, "guest", kBytes));
    iommufd = TRY(Iommufd::open(*sys));
    const u32 ioas = TRY(iommufd.ioas_alloc());
    TRY(iommufd.map_file(ioas, memory.number(), 0, kBytes, kIova));
    event = TRY(sys->eventfd());
    for (usize i = 0; i < devices.size(); ++i) {
      open.push_back(TRY(VfioDevice::open(*sys, path(devices[i].first))));
      const u32 id = TRY(open[i].bind(iommufd));
      if (i == 0) hwpt = TRY(iommufd.hwpt_alloc(id, ioas));
      (void)TRY(open[i].attach(hwpt));
      TRY(start(machine, i));
    }
    return iommufd.mark_preserve(hwpt, 7);
  }
  Result<void> start(board::Board& machine, usize i) {
    const u64 part = align_down(kBytes / devices.size(), kPageSize);
    TRY(machine.declare(devices[i].second, {
      .iova = kIova + i * part, .length = part, .host_id = TRY(memory.id())
      , .offset = i * part, .access = board::IntentAccess::ReadWrite
    }));
    TRY(open[i].set_bus_master(true));
    TRY(open[i].set_irqs(kMsix, &event, 1));
    const scenarios::Streamer streamer = TRY(scenarios::Streamer::open(open[i]));
    scenarios::RingPlan ring;
    ring.base = kIova + i * part;
    ring.length = part;
    ring.slots = 64;
    ring.seed = devices[i].second.value;
    ring.rate = 500'000;
    ring.irq_every = 16;
    return streamer.start(0, ring);
  }
  Result<void> preserve(std::string_view name) {
    session = TRY((TRY(LiveUpdate::open(*sys))).create_session(name));
    TRY(session.preserve(memory.number(), 1));
    TRY(session.preserve(iommufd.number(), 2));
    for (usize i = 0; i < open.size(); ++i) TRY(session.preserve(open[i].number(), 10 + i));
    return {};
  }
  // Up to BIND.
  Result<void> retrieve(client::Syscalls& calls, std::string_view name) {
    sys = &calls;
    session = TRY((TRY(LiveUpdate::open(*sys))).retrieve_session(name));
    memory = Memfd(TRY(session.retrieve(1)));
    iommufd = Iommufd(TRY(session.retrieve(2)));
    for (usize i = 0; i < devices.size(); ++i) open.push_back(VfioDevice(TRY(session.retrieve(10 + i))));
    return {};
  }
  Result<void> bind() {
    for (VfioDevice& d : open) (void)TRY(d.bind(iommufd));
    hwpt = TRY(iommufd.hwpt_restore(7));
    return {};
  }
  Result<void> finish() {
    TRY(session.finish());
    session = {};
    return iommufd.mark_preserve(hwpt, 7);
  }
  Errno reset(usize i) {
    const auto done = sys->ioctl(open[i].number(), kReset, nullptr);
    return done ? Errno{} : done.error();
  }
};

class PciLiveUpdate : public testing::Test {
 protected:
  void power_on() {
    ASSERT_DONE(rig.power_on("a"));
    ASSERT_DONE(guest.begin(rig.new_program(), rig.board(), {{kRootNode, kRoot}, {kBelowNode, kBelow}}));
  }
  // Programs die with their kernel: nothing of them is closed. What the next one has to know is written down elsewhere.
  Result<void> leave(std::string_view next) {
    TRY(rig.leave(next));
    static auto& graves = *new std::vector<Program>;
    const auto devices = guest.devices;
    graves.push_back(std::exchange(guest, Program()));
    graves.push_back(std::exchange(neighbours, Program()));
    guest.devices = devices;
    return {};
  }
  void TearDown() override {
    if (guest.sys) guest = Program();
    if (neighbours.sys) neighbours = Program();
  }

  void watch(PciWatch::Stage stage) {
    for (Bdf at : {kRoot, kBelow}) rig.board().pci().watch().watch(*rig.board().device(at), stage);
  }
  void release() {
    for (Bdf at : {kRoot, kBelow}) rig.board().pci().watch().release(*rig.board().device(at));
  }
  u64 config_at(Bdf at, unsigned offset) { return board::PciBus::kEcamBase + (u64{at.value} << 12) + offset; }
  u32 config(Bdf at, unsigned offset) {
    return static_cast<u32>(rig.board().mmio_read(Phys(config_at(at, offset)), Width::W32));
  }
  void set_config(Bdf at, unsigned offset, u32 value, Width width = Width::W32) {
    rig.board().mmio_write(Phys(config_at(at, offset)), width, value);
  }
  bool masters(Bdf at) { return (config(at, 4) & 4) != 0; }
  // What must be the same before and after: identity, COMMAND, bus numbers, windows, bridge control, BARs.
  std::vector<u32> header(Bdf at) {
    std::vector<u32> words;
    for (unsigned offset = 0; offset < 0x40; offset += 4) {
      words.push_back(offset == 4 ? config(at, 4) & 0xFFFF : config(at, offset));
    }
    return words;
  }
  void expect_unbroken() {
    for (const std::string& v : rig.board().violations()) ADD_FAILURE() << v;
  }
  // Transfers of a device in this phase, done and refused.
  std::pair<u64, u64> transfers(Bdf at) {
    const board::AuditReport report = rig.board().audit();
    for (const board::DeviceResult& d : report.devices) {
      if (d.bdf != at) continue;
      const board::PhaseResult& p = d.in(Phase::During);
      EXPECT_EQ(p.lost + p.corrupted + p.duplicated + p.misdirected, 0u) << at.to_string();
      return {p.done, p.refused()};
    }
    ADD_FAILURE() << "no such device";
    return {};
  }
  void expect_running(Bdf at) {
    const auto before = transfers(at);
    rig.run_for(kStretch);
    const auto after = transfers(at);
    EXPECT_GT(after.first, before.first) << at.to_string();
    EXPECT_EQ(after.second, 0u) << at.to_string() << " lost transfers" << problems_of(rig);
  }
  void expect_stopped(Bdf at) {
    const u64 before = transfers(at).first;
    rig.run_for(kStretch);
    EXPECT_EQ(transfers(at).first, before) << at.to_string();
  }
  bool said(std::string_view what) {
    bool found = false;
    for (const std::string& p : rig.take_problems()) found = found || p.find(what) != std::string::npos;
    return found;
  }
  // The first page of memory that begins with these bytes.
  template <class T>
  T* find_page(u64 magic) {
    std::byte* found = nullptr;
    rig.board().memory().each_materialised_ram([&](board::PhysRange r) {
      for (u64 page = r.base; page < r.end() && !found; page += kPageSize) {
        std::byte* at = rig.board().direct_map() + page;
        if (std::memcmp(at, &magic, sizeof magic) == 0) found = at;
      }
    });
    return reinterpret_cast<T*>(found);
  }

  InProcessRig rig{machine()};
  Program guest;
  Program neighbours;
};

TEST_F(PciLiveUpdate, ThereAndBackWithoutOneWrite) {
  power_on();
  EXPECT_EQ(config(kPort, 0x18) & 0xFFFF00, 0x010100u);
  for (u32 hop = 1; hop <= 4; ++hop) {
    SCOPED_TRACE("hop " + std::to_string(hop));
    // Others of the same device and of the next port, which nobody preserves.
    ASSERT_DONE(neighbours.begin(rig.sys(), rig.board(), {{kSiblingNode, kSibling}, {kAloneNode, kAlone}}));
    rig.board().enter_phase(Phase::During);
    rig.run_for(kStretch);
    ASSERT_DONE(guest.preserve("guest"));
    EXPECT_EQ(guest.reset(1), Errno::Ebusy) << "a preserved device is not reset";
    EXPECT_EQ(neighbours.reset(0), Errno{});
    expect_running(kBelow);
    const auto below = header(kBelow), root = header(kRoot), port = header(kPort);
    watch(PciWatch::Stage::AtWork);
    ASSERT_DONE(leave(hop % 2 == 1 ? "b" : "a"));
    EXPECT_FALSE(masters(kSibling));
    EXPECT_FALSE(masters(kAlone));
    EXPECT_FALSE(masters(kOtherPort)) << "nothing below it is preserved";
    EXPECT_TRUE(masters(kPort));
    ASSERT_DONE(rig.arrive());
    rig.new_program();
    expect_unbroken();
    expect_running(kRoot);
    expect_running(kBelow);
    const auto before = kho::incoming_metadata(rig.kernel().kho());
    ASSERT_TRUE(before);
    EXPECT_STREQ(before->release, hop % 2 == 1 ? "perdure-a" : "perdure-b");
    EXPECT_EQ(before->count, hop);

    // The neighbours start anew, with resets, while the others are held.
    ASSERT_DONE(neighbours.begin(rig.sys(), rig.board(), {{kSiblingNode, kSibling}, {kAloneNode, kAlone}}));
    EXPECT_TRUE(masters(kOtherPort)) << "opened for who is below it now";
    expect_unbroken();
    ASSERT_DONE(guest.retrieve(rig.sys(), "guest"));
    EXPECT_EQ(guest.reset(0), Errno::Einval) << "not bound yet";
    expect_unbroken();
    ASSERT_DONE(guest.bind());
    expect_unbroken();
    EXPECT_EQ(header(kBelow), below);
    EXPECT_EQ(header(kRoot), root);
    EXPECT_EQ(header(kPort), port);

    watch(PciWatch::Stage::InProgramsHands);
    EXPECT_EQ(guest.reset(1), Errno::Ebusy) << "not before the session is finished";
    guest.event = *rig.sys().eventfd();
    for (VfioDevice& device : guest.open) ASSERT_DONE(device.set_irqs(kMsix, &guest.event, 1));
    EXPECT_TRUE(rig.board().pci().watch().writes().empty()) << "not even where a program may: the vectors were carried";
    expect_running(kBelow);
    EXPECT_GT(*rig.sys().eventfd_read(guest.event), 0u) << "interrupts come again";
    ASSERT_DONE(guest.finish());
    expect_unbroken();
    release();
    rig.board().pci().watch().clear();
    expect_running(kRoot);
    neighbours = Program();
    EXPECT_EQ(problems_of(rig), "");
    rig.board().enter_phase(Phase::Before);
  }
  // An ordinary device again: whoever lets go of it has it put to rest.
  EXPECT_EQ(guest.reset(1), Errno{});
}

// Nobody comes back for them, twice.
TEST_F(PciLiveUpdate, HandedOnWithoutAnyProgram) {
  power_on();
  rig.board().enter_phase(Phase::During);
  ASSERT_DONE(guest.preserve("guest"));
  watch(PciWatch::Stage::AtWork);
  for (const char* next : {"b", "a", "b"}) {
    SCOPED_TRACE(next);
    const auto below = header(kBelow), port = header(kPort);
    ASSERT_DONE(leave(next));
    ASSERT_DONE(rig.arrive());
    expect_unbroken();
    expect_running(kBelow);
    EXPECT_EQ(header(kBelow), below);
    EXPECT_EQ(header(kPort), port);
  }
  EXPECT_EQ(problems_of(rig), "");
  ASSERT_DONE(guest.retrieve(rig.new_program(), "guest"));
  ASSERT_DONE(guest.bind());
  ASSERT_DONE(guest.finish());
  expect_unbroken();
  expect_running(kRoot);
}

// A jump that fails leaves every function as it was, the unpreserved ones and their bridges mastering again.
TEST_F(PciLiveUpdate, AFailedJumpIsNotSeenByAnybody) {
  power_on();
  ASSERT_DONE(neighbours.begin(rig.sys(), rig.board(), {{kSiblingNode, kSibling}, {kAloneNode, kAlone}}));
  ASSERT_DONE(guest.preserve("guest"));
  watch(PciWatch::Stage::AtWork);
  rig.board().enter_phase(Phase::During);
  ASSERT_DONE(rig.kernel().kexec_load("b"));
  rig.machine().fail_jump(Errno::Enoent);
  EXPECT_EQ(rig.kernel().kexec().error(), Errno::Enoent);
  EXPECT_TRUE(masters(kAlone) && masters(kOtherPort) && masters(kSibling));
  expect_unbroken();
  expect_running(kRoot);
  expect_running(kBelow);
  release();
  guest.session = {};
  EXPECT_EQ(guest.reset(1), Errno{}) << "taken back: nothing is preserved any more";
}

// Between the kernels a bridge that nobody counted on comes to claim the bus of the one at work, and then has none.
TEST_F(PciLiveUpdate, BusNumbersAreNotGivenTwice) {
  power_on();
  rig.board().enter_phase(Phase::During);
  for (const u32 numbers : {0x0401'00u, 0u}) {
    SCOPED_TRACE(numbers);
    ASSERT_DONE(guest.preserve("guest"));
    watch(PciWatch::Stage::AtWork);
    ASSERT_DONE(leave("b"));
    set_config(kOtherPort, 0x18, numbers);
    ASSERT_DONE(rig.arrive());
    expect_unbroken();
    EXPECT_EQ(config(kPort, 0x18) & 0xFFFF00, 0x010100u);
    EXPECT_EQ(config(kOtherPort, 0x18) & 0xFFFF00, 0x020200u);
    EXPECT_EQ(config(kAlone, 0), config(kRoot, 0)) << "found behind its new number";
    expect_running(kBelow);
    ASSERT_DONE(guest.retrieve(rig.new_program(), "guest"));
    ASSERT_DONE(guest.bind());
    ASSERT_DONE(guest.finish());
    expect_unbroken();
    EXPECT_EQ(said("claims buses 1-4"), numbers != 0);
    release();
  }
}

// What is there is not what was preserved: it is stopped, and the others do not notice.
TEST_F(PciLiveUpdate, AFunctionThatMovedIsQuarantined) {
  power_on();
  rig.board().enter_phase(Phase::During);
  ASSERT_DONE(guest.preserve("guest"));
  rig.board().pci().watch().watch(*rig.board().device(kRoot), PciWatch::Stage::AtWork);
  ASSERT_DONE(leave("b"));
  set_config(kBelow, 0x10, config(kBelow, 0x10) + 0x10'0000);
  ASSERT_DONE(rig.arrive());
  EXPECT_TRUE(said("its registers are at other addresses"));
  EXPECT_FALSE(masters(kBelow));
  EXPECT_TRUE(masters(kPort)) << "its bridge is not what moved";
  expect_stopped(kBelow);
  expect_running(kRoot);
  expect_unbroken();
  // The session still ends: one device comes back, the other is lost and says so.
  rig.new_program();
  guest.sys = &rig.sys();
  guest.session = *(*LiveUpdate::open(rig.sys())).retrieve_session("guest");
  guest.memory = Memfd(*guest.session.retrieve(1));
  guest.iommufd = Iommufd(*guest.session.retrieve(2));
  guest.open.push_back(VfioDevice(*guest.session.retrieve(10)));
  EXPECT_EQ(guest.session.retrieve(11).error(), Errno::Eio);
  ASSERT_DONE(guest.bind());
  ASSERT_DONE(guest.session.finish());
  expect_running(kRoot);
  expect_unbroken();
}

// A bridge lost its window on the way: whatever decodes below it now, nobody is given it.
TEST_F(PciLiveUpdate, ABridgeThatChangedTakesWhatIsBelowIt) {
  power_on();
  rig.board().enter_phase(Phase::During);
  ASSERT_DONE(guest.preserve("guest"));
  ASSERT_DONE(leave("b"));
  set_config(kPort, 0x22, (config(kPort, 0x20) >> 16) + 0x10, Width::W16);
  ASSERT_DONE(rig.arrive());
  EXPECT_TRUE(said("its windows have moved"));
  expect_stopped(kBelow);
  expect_running(kRoot);
  EXPECT_FALSE(masters(kSibling));
}

// Design §8: records of an unknown version, and one damaged record.
TEST_F(PciLiveUpdate, RecordsOfAnUnknownVersionStopWhatTheyWereOf) {
  power_on();
  rig.board().enter_phase(Phase::During);
  ASSERT_DONE(guest.preserve("guest"));
  ASSERT_DONE(leave("b"));
  auto* header = find_page<abi::PciHeader>(abi::kPciMagic);
  ASSERT_NE(header, nullptr);
  header->version = 99;
  ASSERT_DONE(rig.arrive());
  EXPECT_TRUE(said("no valid record says what it was"));
  expect_stopped(kRoot);
  expect_stopped(kBelow);
  for (const board::DmaGap& gap : rig.board().unit(0).gaps()) ADD_FAILURE() << "translation off at " << gap.begin_ns;
}

TEST_F(PciLiveUpdate, OneDamagedRecordStopsOneFunction) {
  power_on();
  rig.board().enter_phase(Phase::During);
  ASSERT_DONE(guest.preserve("guest"));
  rig.board().pci().watch().watch(*rig.board().device(kRoot), PciWatch::Stage::AtWork);
  ASSERT_DONE(leave("b"));
  const auto* header = find_page<abi::PciHeader>(abi::kPciMagic);
  ASSERT_NE(header, nullptr);
  std::byte* const records = rig.board().direct_map() + header->function_chain + sizeof(abi::RecordBlock);
  const u32 bytes = abi::pci_schema(abi::PciRecordKind::Function, header->version).size;
  abi::PciFunctionRecord* damaged = nullptr;
  for (u32 i = 0; i < header->function_slots; ++i) {
    auto* record = reinterpret_cast<abi::PciFunctionRecord*>(records + u64{i} * bytes);
    if (record->bdf == kBelow.value) damaged = record;
  }
  ASSERT_NE(damaged, nullptr);
  damaged->bar_size[0] ^= 1;
  ASSERT_DONE(rig.arrive());
  expect_stopped(kBelow);
  expect_running(kRoot);
  expect_unbroken();
}

// Two levels of bridges above it, of a switch whose other port has a neighbour that nobody preserves: the root port and
// the switch's upper port serve both.
class PciBelowASwitch : public testing::Test {
 protected:
  static constexpr Bdf kRootPort{0, 4, 0}, kUpstream{1, 0, 0}, kFirst{2, 0, 0}, kSecond{2, 1, 0};
  static constexpr Bdf kKept{3, 0, 0}, kNeighbour{4, 0, 0};
  static RigConfig machine() {
    RigConfig config = small_machine({});
    config.board.devices.clear();
    const auto add = [&](Bdf bdf, std::optional<board::BridgeKind> bridge, u8 secondary) {
      board::DeviceConfig d;
      d.kind = bridge ? board::DeviceKind::Bridge : board::DeviceKind::Streamer;
      d.bdf = bdf;
      if (bridge) d.bridge.kind = *bridge;
      d.bridge.secondary = secondary;
      config.board.devices.push_back(d);
    };
    add(kRootPort, board::BridgeKind::RootPort, 1);
    add(kUpstream, board::BridgeKind::UpstreamPort, 2);
    add(kFirst, board::BridgeKind::DownstreamPort, 3);
    add(kSecond, board::BridgeKind::DownstreamPort, 4);
    add(kKept, {}, 0);
    add(kNeighbour, {}, 0);
    return config;
  }
  bool masters(Bdf at) {
    const u64 command = board::PciBus::kEcamBase + (u64{at.value} << 12) + 4;
    return (rig.board().mmio_read(Phys(command), Width::W16) & 4) != 0;
  }
  u64 done() {
    for (const board::DeviceResult& d : rig.board().audit().devices) {
      if (d.bdf == kKept) return d.in(Phase::During).clean() ? d.in(Phase::During).done : 0;
    }
    return 0;
  }
  InProcessRig rig{machine()};
};

TEST_F(PciBelowASwitch, SharedBridgesStayAndTheNeighboursPortStops) {
  ASSERT_DONE(rig.power_on("a"));
  // Programs that die with their kernels are never closed.
  static auto& all = *new std::vector<std::unique_ptr<Program>>;
  const auto program = [&]() -> Program& { return *all.emplace_back(std::make_unique<Program>()); };
  Program* kept = &program();
  ASSERT_DONE(kept->begin(rig.new_program(), rig.board(), {{0, kKept}}));
  rig.board().enter_phase(Phase::During);
  for (u32 hop = 1; hop <= 3; ++hop) {
    SCOPED_TRACE("hop " + std::to_string(hop));
    ASSERT_DONE(program().begin(rig.sys(), rig.board(), {{1, kNeighbour}}));
    rig.run_for(kStretch);
    ASSERT_DONE(kept->preserve("kept"));
    rig.board().pci().watch().watch(*rig.board().device(kKept), PciWatch::Stage::AtWork);
    ASSERT_DONE(rig.leave(hop % 2 == 1 ? "b" : "a"));
    EXPECT_TRUE(masters(kRootPort) && masters(kUpstream) && masters(kFirst) && masters(kKept));
    EXPECT_FALSE(masters(kSecond) || masters(kNeighbour));
    ASSERT_DONE(rig.arrive());
    kept = &program();
    kept->devices = {{0, kKept}};
    ASSERT_DONE(kept->retrieve(rig.new_program(), "kept"));
    ASSERT_DONE(kept->bind());
    ASSERT_DONE(kept->finish());
    for (const std::string& v : rig.board().violations()) ADD_FAILURE() << v;
    rig.board().pci().watch().release(*rig.board().device(kKept));
    const u64 before = done();
    rig.run_for(kStretch);
    EXPECT_GT(done(), before);
    EXPECT_EQ(problems_of(rig), "");
  }
  *kept = Program();  // closed while its kernel is there
}

}  // namespace
}  // namespace perdure::tool
