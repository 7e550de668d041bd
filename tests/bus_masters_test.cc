// The bus masters of bare metal, those that the board has: an OHCI controller, an edu, an NVMe controller and a copy
// engine live through updates, and what must not happen to them is seen when it does.
#include "scenarios/bus_masters.h"

#include <algorithm>
#include <stdexcept>

#include "core/abi/iommu.h"
#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

using board::Phase;
using scenarios::BusMasters;
using scenarios::BusMastersPlan;
using scenarios::Evidence;
using scenarios::Take;

constexpr u32 kOhci = static_cast<u32>(scenarios::Master::Ohci), kEdu = static_cast<u32>(scenarios::Master::Edu),
              kNic = static_cast<u32>(scenarios::Master::E1000e), kDisk = static_cast<u32>(scenarios::Master::Nvme),
              kCopier = static_cast<u32>(scenarios::Master::Ioat);
constexpr u32 kOnTheBoard[] = {kOhci, kEdu, kDisk, kCopier};

RigConfig machine(Tables tables) {
  RigConfig config = small_machine({});
  set_tables(config, tables);
  config.board.step_ns = 5000;
  board::DeviceConfig ohci;
  ohci.kind = board::DeviceKind::Ohci;
  ohci.bdf = board::Bdf(0, 2, 0);
  board::DeviceConfig edu;
  edu.kind = board::DeviceKind::Edu;
  edu.bdf = board::Bdf(0, 3, 0);
  edu.edu.dma_mask = 0xFFFF'FFFF;
  // Slow, so that there is always something under way.
  board::DeviceConfig nvme;
  nvme.kind = board::DeviceKind::Nvme;
  nvme.bdf = board::Bdf(0, 4, 0);
  nvme.nvme.command_ns = 500'000;
  nvme.nvme.contents = scenarios::Nvme::kDiskSeed;
  board::DeviceConfig ioat;
  ioat.kind = board::DeviceKind::Ioat;
  ioat.bdf = board::Bdf(0, 5, 0);
  ioat.ioat.bytes_per_second = 10'000'000;
  config.board.devices = {ohci, edu, nvme, ioat};
  return config;
}

// Where in the machine's configuration.
const board::DeviceConfig& device_of(Rig& rig, u32 master) {
  const usize at = static_cast<usize>(std::find(std::begin(kOnTheBoard), std::end(kOnTheBoard), master) - kOnTheBoard);
  return rig.board().config().devices.at(at);
}

class BusMastersOnTheBoard : public testing::Test, protected scenarios::Witness {
 protected:
  explicit BusMastersOnTheBoard(Tables tables = Tables::Legacy) : rig(machine(tables)) {}
  ~BusMastersOnTheBoard() override {
    if (program) program->forget();
  }

  void start(u32 hop, const BusMastersPlan& plan = {}) {
    program.emplace(scenarios::Context{rig.new_program(), *this}, plan);
    ASSERT_DONE(program->begin(hop));
  }
  // To another kernel, whose program comes back.
  void hop(u32 number, const BusMastersPlan& plan = {}) {
    ASSERT_DONE(program->preserve());
    ASSERT_NO_FATAL_FAILURE(leave(number));
    ASSERT_DONE(rig.arrive());
    start(number, plan);
  }
  void leave(u32 number) {
    ASSERT_DONE(rig.leave(number % 2 == 1 ? "b" : "a"));
    program->forget();
    program.reset();
  }
  const Evidence& evidence(u32 master) { return program->evidence(master); }

  // Its own memory: other devices of its domain have theirs, of other sizes.
  const scenarios::Intended& intended_for(u32 master) {
    constexpr u64 kBytes[BusMasters::kMasters] = {scenarios::Ohci::kBytes, scenarios::Edu::kBytes, 0,
                                                  scenarios::Nvme::kBytes, scenarios::Ioat::kBytes};
    const auto own = std::find_if(intended.begin(), intended.end(),
                                  [&](const scenarios::Intended& i) { return i.length == kBytes[master]; });
    if (own == intended.end()) throw std::out_of_range("nothing was declared for the device");
    return *own;
  }

  std::vector<std::string> told;
  std::vector<scenarios::Intended> intended;
  InProcessRig rig;
  std::optional<BusMasters> program;

 private:
  void intend(const scenarios::Intended& i) override {
    intended.push_back(i);
    EXPECT_TRUE(
        rig.board().declare(rig.board().config().devices[i.device].bdf, {.iova = i.iova,
                                                                         .length = i.length,
                                                                         .host_id = i.memory_id,
                                                                         .offset = i.offset,
                                                                         .access = board::IntentAccess::ReadWrite}));
  }
  void problem(std::string_view what, Errno) override { told.emplace_back(what); }
};

class BusMastersChain : public BusMastersOnTheBoard, public testing::WithParamInterface<std::tuple<Tables, Take>> {
 protected:
  BusMastersChain() : BusMastersOnTheBoard(std::get<0>(GetParam())) {}
};
INSTANTIATE_TEST_SUITE_P(All, BusMastersChain,
                         testing::Combine(testing::Values(Tables::Legacy, Tables::SecondStage, Tables::FirstStage),
                                          testing::Values(Take::Replace, Take::Keep, Take::Adopt)));

TEST_P(BusMastersChain, LiveThroughUpdatesOneAfterTheOther) {
  constexpr u32 kHops = 4;
  BusMastersPlan plan;
  plan.take = std::get<1>(GetParam());
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_NO_FATAL_FAILURE(start(0, plan));
  rig.board().enter_phase(Phase::During);
  u64 frames = 0, blocks = 0, copies = 0;
  for (u32 number = 1; number <= kHops; ++number) {
    // In turns patient, and with next to no time between two jumps: the edu's transfer is longer than that.
    if (number % 2 == 1) ASSERT_DONE(program->settle());
    ASSERT_NO_FATAL_FAILURE(hop(number, plan));
    rig.run_for(3'000'000);
    ASSERT_DONE(program->verify());
    EXPECT_TRUE(evidence(kOhci).ok);
    EXPECT_TRUE(evidence(kEdu).ok);
    EXPECT_GE(evidence(kOhci).number("frames"), frames + 3);
    EXPECT_GE(evidence(kOhci).number("here"), 3U);
    frames = evidence(kOhci).number("frames");
    EXPECT_FALSE(evidence(kNic).present);
    // Their queues were full when the kernel was left: what completes now was begun before.
    for (const u32 master : {kDisk, kCopier}) {
      EXPECT_TRUE(evidence(master).ok) << evidence(master).what;
      EXPECT_GE(evidence(master).number("waiting_at_jump"), 30U);
      EXPECT_GE(evidence(master).number("here"), 3U);
    }
    EXPECT_GT(evidence(kDisk).number("completed"), blocks);
    blocks = evidence(kDisk).number("completed");
    EXPECT_GT(evidence(kCopier).number("completed"), copies);
    copies = evidence(kCopier).number("completed");
  }
  ASSERT_DONE(program->settle());
  // Before the first, third and fifth jump an edu transfer was begun that only a later kernel saw the end of.
  EXPECT_GE(evidence(kEdu).number("carried"), 2U);
  // A page table that is kept as it is cannot be changed: in the first kernel only.
  const u64 changes = plan.take == Take::Keep ? 1 : 3;
  EXPECT_EQ(evidence(kEdu).number("leaf_changes"), changes);
  EXPECT_EQ(evidence(kEdu).number("table_changes"), changes);
  // And so says the board: the controller counted every frame, also those that fell between two kernels.
  const board::AuditReport report = rig.board().audit();
  ASSERT_DONE(program->verify());
  for (const board::DeviceResult& d : report.devices) {
    const board::PhaseResult& p = d.in(Phase::During);
    EXPECT_GT(p.done, 0U) << d.name;
    EXPECT_TRUE(p.clean()) << d.name;
    EXPECT_EQ(p.undeclared, 0U) << d.name;
    EXPECT_EQ(p.resets, 0U) << d.name;
  }
  EXPECT_GE(evidence(kOhci).number("frames"), report.devices[kOhci].in(Phase::During).done);
  EXPECT_TRUE(told.empty()) << told.front();
  EXPECT_EQ(problems_of(rig), "");
}

// A message that is sent while there is no kernel, or before the next program connects, arrives once all the same.
TEST_F(BusMastersOnTheBoard, EachTransferInterruptsOnceWhoeverIsThere) {
  BusMastersPlan plan;
  plan.interrupts = true;
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_NO_FATAL_FAILURE(start(0, plan));
  for (u32 number = 1; number <= 4; ++number) {
    ASSERT_DONE(program->preserve());
    ASSERT_NO_FATAL_FAILURE(leave(number));
    // In turns it ends in the gap, and long after it.
    if (number % 2 == 1) rig.run_for(200'000'000);
    ASSERT_DONE(rig.arrive());
    ASSERT_NO_FATAL_FAILURE(start(number, plan));
    ASSERT_DONE(program->settle());
    EXPECT_GE(evidence(kEdu).number("interrupts"), evidence(kEdu).number("landed"));
  }
  EXPECT_EQ(evidence(kEdu).number("carried"), 4U);
  EXPECT_TRUE(told.empty()) << told.front();
  EXPECT_EQ(problems_of(rig), "");
}

// A kernel that stays, and a session that is taken back.
TEST_F(BusMastersOnTheBoard, NoticeNothingOfAJumpThatFails) {
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_NO_FATAL_FAILURE(start(0));
  ASSERT_DONE(program->preserve());
  rig.machine().fail_jump(Errno::Enomem);
  EXPECT_EQ(rig.leave("b").error(), Errno::Enomem);
  ASSERT_DONE(program->verify());
  program->unpreserve();
  ASSERT_DONE(program->settle());
  ASSERT_NO_FATAL_FAILURE(hop(1));
  ASSERT_DONE(program->settle());
  EXPECT_EQ(evidence(kEdu).number("carried"), 1U);
  EXPECT_TRUE(told.empty()) << told.front();
}

// Only what is there is driven, and only what is wanted; without either there is nothing to do.
TEST_F(BusMastersOnTheBoard, DriveWhatIsWanted) {
  ASSERT_DONE(rig.power_on("a"));
  BusMastersPlan plan;
  plan.wanted[kEdu] = false;
  ASSERT_NO_FATAL_FAILURE(start(0, plan));
  ASSERT_NO_FATAL_FAILURE(hop(1, plan));
  ASSERT_DONE(program->settle());
  EXPECT_TRUE(evidence(kOhci).present);
  EXPECT_FALSE(evidence(kEdu).present);
  program.reset();
  for (bool& wanted : plan.wanted) wanted = false;
  program.emplace(scenarios::Context{rig.new_program(), *this}, plan);
  EXPECT_EQ(program->begin(0).error(), Errno::Enodev);
}

// --- what must be seen ----------------------------------------------------------------------------------------------

TEST_F(BusMastersOnTheBoard, AGapInTranslationIsSeen) {
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_NO_FATAL_FAILURE(start(0));
  rig.board().break_translation_for(5'000'000);
  rig.run_for(10'000'000);
  EXPECT_FALSE(program->verify().has_value());
  EXPECT_FALSE(evidence(kOhci).ok);
  EXPECT_EQ(evidence(kOhci).what, "unrecoverable error: a request of the controller failed");
  EXPECT_TRUE(evidence(kEdu).ok) << "its moment had not come";
  EXPECT_EQ(evidence(kDisk).what, "fatal status: a request of the controller failed");
  EXPECT_EQ(evidence(kCopier).what, "the function has recorded bus errors");
}

TEST_F(BusMastersOnTheBoard, ATableThatWasNotPreservedIsSeen) {
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_NO_FATAL_FAILURE(start(0));
  rig.forget_table_page(device_of(rig, kOhci).bdf);
  ASSERT_DONE(program->preserve());
  ASSERT_NO_FATAL_FAILURE(leave(1));
  rig.run_for(5'000'000);
  static_cast<void>(rig.arrive());
  rig.run_for(5'000'000);
  // The device's registers, as the program would find them if it came back.
  const u64 registers = rig.board().device(board::Bdf(0, 2, 0))->bar_address(0);
  EXPECT_EQ(rig.board().mmio_read(Phys(registers + 0x0C), Width::W32) & 0x10, 0x10U);
}

TEST_F(BusMastersOnTheBoard, ADeviceThatWasResetIsSeen) {
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_NO_FATAL_FAILURE(start(0));
  for (const board::DeviceConfig& d : rig.board().config().devices) {
    board::Device* const device = rig.board().device(d.bdf);
    const board::DeviceGuard guard(device->lock());
    device->function_reset();
  }
  EXPECT_FALSE(program->verify().has_value());
  EXPECT_FALSE(evidence(kOhci).ok);
  EXPECT_FALSE(evidence(kDisk).ok);
  EXPECT_FALSE(evidence(kCopier).ok);
}

// Somebody else than the device writes next to what it wrote.
TEST_F(BusMastersOnTheBoard, DataBesideItsPlaceIsSeen) {
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_NO_FATAL_FAILURE(start(0));
  // First the block goes to the device, then it comes back; that transfer is under way now.
  rig.run_for(110'000'000);
  ASSERT_DONE(program->verify());
  const scenarios::Intended where = intended_for(kEdu);
  const u64 phys = *rig.board().memory().phys_of(where.memory_id, where.offset + kPageSize);
  hw::store(reinterpret_cast<u64*>(rig.board().direct_map() + phys), u64{0});
  rig.run_for(110'000'000);
  EXPECT_FALSE(program->verify().has_value());
  EXPECT_EQ(evidence(kEdu).what, "data landed beside its place");
}

// What a read and a copy bring is compared: the first of each is done, and nobody has looked at it yet.
TEST_F(BusMastersOnTheBoard, DataOfAnotherPlaceIsSeen) {
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_NO_FATAL_FAILURE(start(0));
  rig.run_for(2'000'000);
  for (const auto& [master, page] : {std::pair<u32, u64>{kDisk, 5}, {kCopier, 34}}) {
    const scenarios::Intended where = intended_for(master);
    const u64 phys = *rig.board().memory().phys_of(where.memory_id, where.offset + page * kPageSize);
    auto* const word = reinterpret_cast<u64*>(rig.board().direct_map() + phys);
    hw::store(word, hw::load(word) + 1);
  }
  EXPECT_FALSE(program->verify().has_value());
  EXPECT_EQ(evidence(kDisk).what, "a read brought other data than the disk holds there");
  EXPECT_EQ(evidence(kCopier).what, "a copy brought other data than its source holds");
}

// More than a minute between two looks: the number alone would not tell.
TEST_F(BusMastersOnTheBoard, CountsFramesBeyond16Bits) {
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_NO_FATAL_FAILURE(start(0));
  rig.run_for(70'000'000'000);
  ASSERT_DONE(program->verify());
  EXPECT_GE(evidence(kOhci).number("frames"), 70'000U);
  EXPECT_LE(evidence(kOhci).number("frames"), 70'100U);
}

// The kernel refuses to hand out a device whose record is damaged, and has stopped it: no register can be asked any
// more, but its memory stays as it is. The other one notices nothing.
class BusMastersLose : public BusMastersOnTheBoard, public testing::WithParamInterface<u32> {
 protected:
  void damage_record(u32 master) {
    const u16 victim = device_of(rig, master).bdf.value;
    u64 header = 0;
    rig.board().memory().each_materialised_ram([&](board::PhysRange r) {
      for (u64 page = r.base; page < r.end() && header == 0; page += kPageSize) {
        if (std::memcmp(at(page), &abi::kIommuMagic, sizeof abi::kIommuMagic) == 0) header = page;
      }
    });
    ASSERT_NE(header, 0U);
    const u64 block = reinterpret_cast<const abi::IommuHeader*>(at(header))->device_chain;
    for (u64 i = 0; i + sizeof(abi::IommuDeviceRecord) <= kPageSize; i += 8) {
      auto* record = reinterpret_cast<abi::IommuDeviceRecord*>(at(block + i));
      if (record->in_use != 1 || record->bdf != victim || record->generation == 0) continue;
      record->did ^= 1;
      return;
    }
    FAIL() << "no record of the device";
  }

 private:
  std::byte* at(u64 phys) { return rig.board().direct_map() + phys; }
};
INSTANTIATE_TEST_SUITE_P(EachOf, BusMastersLose, testing::Values(kOhci, kEdu, kDisk, kCopier));

TEST_P(BusMastersLose, OneAndTheOtherGoesOn) {
  const u32 victim = GetParam();
  const u32 other = victim == kEdu ? kOhci : kEdu;
  BusMastersPlan plan;
  plan.may_lose = true;
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_NO_FATAL_FAILURE(start(0, plan));
  ASSERT_DONE(program->preserve());
  ASSERT_NO_FATAL_FAILURE(leave(1));
  ASSERT_NO_FATAL_FAILURE(damage_record(victim));
  ASSERT_DONE(rig.arrive());
  ASSERT_NO_FATAL_FAILURE(start(1, plan));
  ASSERT_DONE(program->settle());
  EXPECT_TRUE(evidence(victim).lost);
  EXPECT_TRUE(evidence(victim).ok);
  EXPECT_EQ(evidence(victim).number("stopped"), 1U);
  EXPECT_GE(evidence(victim).number("watched_ns"), 200'000'000U);
  EXPECT_FALSE(evidence(other).lost);
  EXPECT_TRUE(evidence(other).ok);
  // The next kernel is handed one device, and knows of the other that it stands still.
  ASSERT_NO_FATAL_FAILURE(hop(2, plan));
  ASSERT_DONE(program->settle());
  EXPECT_TRUE(evidence(victim).lost);
  EXPECT_EQ(evidence(victim).number("stopped"), 1U);
  EXPECT_TRUE(evidence(other).ok);
  EXPECT_TRUE(told.empty()) << told.front();
}

// Were it not stopped, it would show.
TEST_P(BusMastersLose, ThatOneStillWritesIsSeen) {
  const u32 victim = GetParam();
  BusMastersPlan plan;
  plan.may_lose = true;
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_NO_FATAL_FAILURE(start(0, plan));
  ASSERT_DONE(program->preserve());
  ASSERT_NO_FATAL_FAILURE(leave(1));
  ASSERT_NO_FATAL_FAILURE(damage_record(victim));
  ASSERT_DONE(rig.arrive());
  ASSERT_NO_FATAL_FAILURE(start(1, plan));
  const scenarios::Intended where = intended_for(victim);
  const u64 phys = *rig.board().memory().phys_of(where.memory_id, where.offset);
  auto* const word = reinterpret_cast<u64*>(rig.board().direct_map() + phys + 0x80);
  hw::store(word, ~hw::load(word));
  EXPECT_FALSE(program->verify().has_value());
  EXPECT_FALSE(evidence(victim).ok);
  EXPECT_EQ(evidence(victim).number("stopped"), 0U);
}

TEST_P(BusMastersLose, IsAFailureUnlessThePlanSaysSo) {
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_NO_FATAL_FAILURE(start(0));
  ASSERT_DONE(program->preserve());
  ASSERT_NO_FATAL_FAILURE(leave(1));
  ASSERT_NO_FATAL_FAILURE(damage_record(GetParam()));
  ASSERT_DONE(rig.arrive());
  program.emplace(scenarios::Context{rig.new_program(), *this}, BusMastersPlan{});
  EXPECT_EQ(program->begin(1).error(), Errno::Eio);
  ASSERT_FALSE(told.empty());
  EXPECT_EQ(told.back(), "retrieve device");
}

}  // namespace
}  // namespace perdure::tool
