// Device interrupts across updates, counted by the devices against what arrived at eventfds: equal outside of the gap,
// and of the gap each vector once after it.
#include <utility>
#include <vector>

#include "client/iommufd.h"
#include "client/vfio_device.h"
#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

using board::CachePolicy;
using board::Phase;

constexpr u64 kStretch = 1'000'000;
constexpr u64 kGap = 200'000;  // some transfers of every ring, while there is no kernel

RigConfig with_interrupts(const SmallMachine& small) {
  RigConfig config = small_machine(small);
  config.plan.irq_every = 16;
  config.plan.rest_ns = 20'000;
  return config;
}

struct Variant {
  const char* name;
  SmallMachine machine;
  scenarios::Take take = scenarios::Take::Replace;
  Tables tables = Tables::Legacy;
  bool two_units = false;
};

// As hardware says: GSTS.IRES and where the unit's table is.
bool remapping(board::Board& board, usize unit) {
  return (board.unit(unit).read(0x1C, 4) >> 25 & 1) != 0;
}
u64 interrupt_table(board::Board& board, usize unit) {
  return board.unit(unit).read(0xB8, 8) & ~u64{0xFFF};
}

class Interrupts : public testing::TestWithParam<Variant> {};

TEST_P(Interrupts, ThoseOfTheGapArriveOnceAfterIt) {
  RigConfig config = with_interrupts(GetParam().machine);
  config.plan.take = GetParam().take;
  set_tables(config, GetParam().tables);
  if (GetParam().two_units) {
    // A domain with a device behind each unit, and one whose devices are behind the second.
    set_devices(config, {0, 0, 1, 1});
    add_unit_for(config, 0);
  }
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  for (u32 hop = 1; hop <= 3; ++hop) {
    SCOPED_TRACE("hop " + std::to_string(hop));
    rig.run_for(kStretch);
    ASSERT_DONE(rig.verify());
    rig.board().enter_phase(Phase::During);
    ASSERT_DONE(rig.preserve());
    const u64 latched = rig.board().interrupts().latched;
    ASSERT_DONE(rig.leave(hop % 2 == 1 ? "b" : "a"));
    std::vector<u64> tables;
    for (usize u = 0; u < rig.board().units(); ++u) {
      EXPECT_TRUE(remapping(rig.board(), u)) << "unit " << u;
      tables.push_back(interrupt_table(rig.board(), u));
    }
    rig.board().step_for(kGap);
    // Each of the four rings of each device has sent some.
    EXPECT_GE(rig.board().interrupts().latched, latched + 4 * config.plan.devices);
    ASSERT_DONE(rig.arrive());
    for (usize u = 0; u < tables.size(); ++u) {
      EXPECT_TRUE(remapping(rig.board(), u)) << "unit " << u;
      EXPECT_NE(interrupt_table(rig.board(), u), tables[u]) << "unit " << u << " still asks the old kernel's table";
    }
    ASSERT_DONE(rig.start_program(hop));
    rig.run_for(kStretch);
    ASSERT_DONE(rig.verify());
    expect_clean(rig, Phase::During);
    rig.board().enter_phase(Phase::Before);
    EXPECT_EQ(rig.board().interrupts().dropped, 0U);
    EXPECT_EQ(rig.board().blocked_messages(), 0U);
    EXPECT_EQ(problems_of(rig), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, Interrupts,
                         testing::Values(Variant{"Sticky", {.caches = CachePolicy::Sticky}},
                                         Variant{"EvictAlways", {.caches = CachePolicy::EvictAlways}},
                                         Variant{"FourDevices", {.caches = CachePolicy::Random, .devices = 4}},
                                         Variant{"NotCoherent", {.devices = 4, .coherent = false}},
                                         Variant{"Keep", {.seed = 7}, scenarios::Take::Keep},
                                         Variant{"Adopt", {.seed = 8}, scenarios::Take::Adopt},
                                         Variant{.name = "TwoUnits", .machine = {.devices = 4}, .two_units = true},
                                         Variant{"TwoUnitsScalable",
                                                 {.seed = 2, .caches = CachePolicy::EvictAlways, .devices = 4},
                                                 scenarios::Take::Adopt,
                                                 Tables::SecondStage,
                                                 true},
                                         Variant{"TwoUnitsFirstStage",
                                                 {.seed = 3, .caches = CachePolicy::Random, .devices = 4},
                                                 scenarios::Take::Keep,
                                                 Tables::FirstStage,
                                                 true}),
                         [](const auto& variant) { return std::string(variant.param.name); });

TEST(Interrupts, InScalableMode) {
  RigConfig config = with_interrupts({.seed = 3});
  config.board.units[0].model.scalable = true;
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.kexec("b"));
  ASSERT_DONE(rig.start_program(1));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.verify());
  EXPECT_EQ(problems_of(rig), "");
}

// A device that is not part of the update and does not keep still: with bus mastering and MSI turned on behind the
// kernels' back it goes on sending the message that its program was given. What it counts as sent before the jump
// arrives; in the gap and after it nothing does, at nobody's vector, until a program of the new kernel asks for it.
class Bystander : public testing::TestWithParam<std::pair<Tables, bool>> {
 protected:
  static constexpr u32 kMsi = 1;  // VFIO_PCI_MSI_IRQ_INDEX
  static constexpr u64 kTimes = 5;

  static RigConfig machine() {
    RigConfig config = with_interrupts({.seed = 11, .devices = 4});
    set_tables(config, GetParam().first);
    if (GetParam().second) {
      set_devices(config, {0, 0});
      add_unit_for(config, 0);
    }
    board::DeviceConfig edu;
    edu.kind = board::DeviceKind::Edu;
    edu.bdf = board::Bdf(0, 8, 0);
    edu.name = "edu";
    config.board.devices.push_back(edu);
    return config;
  }

  Bystander() : rig(machine()) {}

  std::string path() const { return "/dev/vfio/devices/vfio" + std::to_string(machine().plan.devices); }
  client::VfioDevice open(s32 eventfd) {
    auto context = client::Iommufd::open(rig.sys());
    auto device = client::VfioDevice::open(rig.sys(), path());
    EXPECT_TRUE(context && device && device->bind(*context) && device->set_bus_master(true) &&
                device->set_irqs(kMsi, &eventfd, 1));
    contexts.push_back(std::move(*context));
    return std::move(*device);
  }
  board::Device& edu() { return *rig.board().device(board::Bdf(0, 8, 0)); }
  u64 config_at(u64 offset) const { return board::PciBus::kEcamBase + (u64{8} << 15) + offset; }
  u64 read(u64 offset, Width width) { return rig.board().mmio_read(Phys(config_at(offset)), width); }
  void write(u64 offset, Width width, u64 value) { rig.board().mmio_write(Phys(config_at(offset)), width, value); }

  // The header's words of it that make a message: where it goes, what it says, whether it may leave.
  struct Message {
    u64 capability = 0, address = 0, upper = 0, data = 0;
  };
  Message message() {
    Message m;
    for (m.capability = read(0x34, Width::W8); m.capability != 0 && read(m.capability, Width::W8) != 5;) {
      m.capability = read(m.capability + 1, Width::W8);
    }
    EXPECT_NE(m.capability, 0U);
    m.address = read(m.capability + 4, Width::W32);
    m.upper = read(m.capability + 8, Width::W32);
    m.data = read(m.capability + 12, Width::W16);
    return m;
  }
  void let_loose(const Message& m) {
    write(m.capability + 4, Width::W32, m.address);
    write(m.capability + 8, Width::W32, m.upper);
    write(m.capability + 12, Width::W16, m.data);
    write(m.capability + 2, Width::W16, read(m.capability + 2, Width::W16) | 1);
    write(4, Width::W16, read(4, Width::W16) | 6);
  }
  void put_to_rest(const Message& m) {
    write(m.capability + 2, Width::W16, read(m.capability + 2, Width::W16) & ~u64{1});
    write(4, Width::W16, read(4, Width::W16) & ~u64{4});
  }
  // By its own count, messages that left it.
  u64 raise() {
    const auto sent = [&] {
      const board::DeviceGuard guard(edu().lock());
      u64 all = 0;
      for (usize p = 0; p < board::kPhases; ++p) all += edu().ledger().result(static_cast<Phase>(p)).interrupts;
      return all;
    };
    const u64 before = sent();
    const Phys doorbell(edu().bar_address(0) + 0x60);
    for (u64 i = 0; i < kTimes; ++i) rig.board().mmio_write(doorbell, Width::W32, 1);
    return sent() - before;
  }
  u64 arrived(s32 eventfd) {
    rig.run_for(kStretch);
    rig.sys().pause();  // what the kernel was told meanwhile
    return *rig.sys().eventfd_read(eventfd);
  }
  void expect_blocked() {
    const board::InterruptCounts before = rig.board().interrupts();
    const u64 blocked = rig.board().blocked_messages();
    EXPECT_EQ(raise(), kTimes);
    EXPECT_EQ(rig.board().blocked_messages(), blocked + kTimes);
    EXPECT_EQ(rig.board().interrupts().latched, before.latched);
    EXPECT_EQ(rig.board().interrupts().coalesced, before.coalesced);
    EXPECT_EQ(rig.board().interrupts().dropped, before.dropped);
  }

  InProcessRig rig;
  std::vector<client::Iommufd> contexts;
};

TEST_P(Bystander, IsNotHeardInTheGapAndNotAfterIt) {
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  const s32 first_event = *rig.sys().eventfd();
  client::VfioDevice first = open(first_event);
  const Message old = message();
  rig.run_for(kStretch);
  EXPECT_EQ(raise(), kTimes);
  EXPECT_EQ(arrived(first_event), kTimes);
  rig.board().enter_phase(Phase::During);
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.leave("b"));
  first.fd().release();
  for (client::Iommufd& context : contexts) context.fd().release();

  EXPECT_EQ(raise(), 0U) << "put to rest with its kernel";
  let_loose(old);
  expect_blocked();
  put_to_rest(old);
  rig.board().step_for(kGap);
  ASSERT_DONE(rig.arrive());
  let_loose(old);
  expect_blocked();
  put_to_rest(old);

  // The others miss nothing, and get nothing that is not theirs.
  ASSERT_DONE(rig.start_program(1));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.verify());
  EXPECT_EQ(rig.machine().irqs().spurious(), 0U);
  const std::string said = problems_of(rig);
  EXPECT_NE(said.find("interrupt entry not present"), std::string::npos) << said;

  const s32 second_event = *rig.sys().eventfd();
  client::VfioDevice second = open(second_event);
  EXPECT_EQ(arrived(second_event), 0U) << "what was blocked is not made up for";
  EXPECT_EQ(raise(), kTimes);
  EXPECT_EQ(arrived(second_event), kTimes);
  ASSERT_DONE(rig.verify());
  second = {};
  contexts.clear();
}

INSTANTIATE_TEST_SUITE_P(Machines, Bystander,
                         testing::Values(std::pair(Tables::Legacy, false), std::pair(Tables::Legacy, true),
                                         std::pair(Tables::SecondStage, true)),
                         [](const auto& of) {
                           return std::string(of.param.first == Tables::Legacy ? "Legacy" : "Scalable") +
                                  (of.param.second ? "TwoUnits" : "OneUnit");
                         });

// Nobody comes back in the kernel between: what it was given goes back to the processor, and arrives in the one after.
TEST(Interrupts, GoOnThroughAKernelWithoutTheirProgram) {
  InProcessRig rig(with_interrupts({.seed = 4}));
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.kexec("b"));
  rig.new_program();
  rig.run_for(kStretch);
  ASSERT_DONE(rig.kexec("a"));
  ASSERT_DONE(rig.start_program(1));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.verify());
  EXPECT_EQ(problems_of(rig), "");
}

// A machine that is saved with interrupts pending.
TEST(Interrupts, ArePartOfASavedMachine) {
  const RigConfig config = with_interrupts({.seed = 5});
  const std::filesystem::path saved = std::filesystem::path(testing::TempDir()) / "perdure-saved-interrupts";
  std::filesystem::remove_all(saved);
  process::InProcessMachine::Jump jump;
  {
    InProcessRig rig(config);
    ASSERT_DONE(rig.power_on("a"));
    ASSERT_DONE(rig.start_program(0));
    rig.run_for(kStretch);
    ASSERT_DONE(rig.preserve());
    ASSERT_DONE(rig.leave("b"));
    rig.run_for(kStretch);
    jump = rig.next();
    rig.board().save(saved);
  }
  InProcessRig rig(config, board::Board::load(saved));
  ASSERT_DONE(rig.arrive(jump));
  ASSERT_DONE(rig.start_program(1));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.verify());
  EXPECT_EQ(problems_of(rig), "");
  std::filesystem::remove_all(saved);
}

// --- the units' own events ---------------------------------------------------------------------------------------

usize count_of(std::string_view text, std::string_view what) {
  usize n = 0;
  for (usize at = text.find(what); at != std::string_view::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

// T13: masked for the jump; a fault of the gap is reported once, by the kernel after it, and the next one interrupts.
TEST(FaultEvent, IsMaskedForTheJumpAndArmedAgainAfterIt) {
  constexpr u16 kNobody = 0x00F8;
  InProcessRig rig(small_machine({.seed = 2}));
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.leave("b"));
  const u64 latched = rig.board().interrupts().latched;
  (void)rig.board().unit(0).translate(kNobody, 0x5000, 8, board::Access::Read);
  rig.run_for(10'000);
  EXPECT_EQ(rig.board().interrupts().latched, latched) << "the event would be the old kernel's";
  ASSERT_DONE(rig.arrive());
  const std::string first = problems_of(rig);
  EXPECT_EQ(count_of(first, "inherited fault"), 1U) << first;
  ASSERT_DONE(rig.start_program(1));
  EXPECT_EQ(problems_of(rig), "");
  (void)rig.board().unit(0).translate(kNobody, 0x6000, 8, board::Access::Read);
  rig.run_for(10'000);
  ASSERT_DONE(rig.verify());
  const std::string second = problems_of(rig);
  EXPECT_EQ(count_of(second, "fault"), 1U) << second;
}

// The queue's own event is nobody's: that of a former kernel which used it is masked and cleared at the jump, does not
// arrive when its queue completes a wait in the gap, and is not left pending by the kernel after it.
TEST(CompletionEvent, OfAFormerKernelReachesNobody) {
  constexpr u32 kMask = 0x8000'0000, kPending = 0x4000'0000;
  InProcessRig rig(small_machine({.seed = 2}));
  board::IommuModel& unit = rig.board().unit(0);
  const auto expect_silent = [&] {
    EXPECT_EQ(unit.read(0x9C, 4), 0U);
    EXPECT_EQ(unit.read(0xA0, 4), kMask);
    for (const u64 at : {0xA4, 0xA8, 0xAC}) EXPECT_EQ(unit.read(at, 4), 0U) << at;
  };
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  unit.write(0xA4, 4, 0x30);
  unit.write(0xA8, 4, 0xFEE0'0000);
  unit.write(0xA0, 4, 0);
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.leave("b"));
  expect_silent();

  // A wait that asks for the event alone, behind the last one.
  const u64 tail = unit.read(0x88, 8);
  const u64 slot = (unit.read(0x90, 8) & ~u64{0xFFF}) + tail;
  rig.board().memory().fill({slot, 16}, 0);
  ASSERT_TRUE(rig.board().memory().store32(slot, 0x15));
  const board::InterruptCounts before = rig.board().interrupts();
  unit.write(0x88, 8, (tail + 16) % kPageSize);
  rig.board().step_for(kGap);
  EXPECT_EQ(unit.read(0xA0, 4), kMask | kPending);
  EXPECT_EQ(rig.board().interrupts().latched, before.latched);
  EXPECT_EQ(rig.board().interrupts().dropped, before.dropped);

  ASSERT_DONE(rig.arrive());
  expect_silent();
  ASSERT_DONE(rig.start_program(1));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.verify());
  EXPECT_EQ(problems_of(rig), "");
}

// --- the proof failing -------------------------------------------------------------------------------------------

// Interrupts of the gap alone: by the time the next kernel starts the device has fallen silent. `kept`: by the
// processors.
Result<void> come_back_after_a_gap(RigConfig config, bool kept, std::string& problems) {
  config.board.keep_interrupts = kept;
  InProcessRig rig(config);
  TRY(rig.power_on("a"));
  TRY(rig.start_program(0));
  rig.run_for(kStretch);
  TRY(rig.preserve());
  TRY(rig.leave("b"));
  rig.run_for(kStretch);
  board::Board& board = rig.board();
  const Phys rings(board.device(config.board.devices[0].bdf)->bar_address(0) + 0x1000);
  for (u64 ring = 0; ring < 4; ++ring) {
    const Phys control = rings + ring * 0x100;
    board.mmio_write(control, Width::W64, board.mmio_read(control, Width::W64) & ~u64{4});
  }
  const board::InterruptCounts counts = board.interrupts();
  EXPECT_EQ(kept, counts.latched >= 4 && counts.coalesced > 0 && counts.dropped == 0);
  EXPECT_EQ(kept, counts.dropped == 0);
  TRY(rig.arrive());
  const Result<void> back = rig.start_program(1);
  problems = problems_of(rig);
  return back;
}

TEST(InterruptsMissed, WhenNoProcessorKeepsThem) {
  std::string problems;
  EXPECT_TRUE(come_back_after_a_gap(with_interrupts({.seed = 6}), true, problems)) << problems;
  EXPECT_FALSE(come_back_after_a_gap(with_interrupts({.seed = 6}), false, problems));
  EXPECT_NE(problems.find("did not arrive"), std::string::npos) << problems;
}

TEST(InterruptsMissed, WhenTheirEntriesAreNotCarried) {
  InProcessRig rig(with_interrupts({.seed = 6}));
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.leave("b"));
  const u64 table = rig.board().unit(0).read(0xB8, 8) & ~u64{0xFFF};
  rig.board().memory().fill({table, kPageSize}, 0);
  ASSERT_DONE(rig.arrive());
  EXPECT_FALSE(rig.start_program(1));
  EXPECT_GT(rig.board().blocked_messages(), 0U);
  EXPECT_NE(problems_of(rig).find("did not arrive"), std::string::npos);
}

// Without remapping Linux's rule holds: a preserved device must have its interrupts off.
TEST(InterruptsMissed, AreRefusedWithoutRemapping) {
  RigConfig config = with_interrupts({.seed = 9});
  config.board.units[0].model.interrupt_remap = false;
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.preserve());
  const auto refused = rig.kexec("b");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error(), Errno::Einval);
  // And goes on as before.
  rig.run_for(kStretch);
  ASSERT_DONE(rig.verify());
}

}  // namespace
}  // namespace perdure::tool
