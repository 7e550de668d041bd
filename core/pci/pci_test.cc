#include <algorithm>

#include "core/pci/bus.h"
#include "core/pci/scope.h"
#include "core/pci/testing/fabric.h"

namespace perdure::pci {
namespace {

using Node = test::Fabric::Node;

struct Recorded final : Inheritance {
  Inherited identify(Function& f) override {
    if (!ids.contains(f.source().bdf)) return Inherited::No;
    if (f.source().bdf == 0x0100) f.set_bar_size(0, 0x4000);
    return Inherited::Preserved;
  }
  bool takes_buses() const override { return false; }
  bool buses_taken(SourceId, u8, u8) const override { return false; }
  std::set<u16> ids;
};

struct PciTest : testing::Test {
  PciTest() {
    const Extent ram{Phys(0), machine.window};
    EXPECT_TRUE(frames.init({&ram, 1}, {}, {}));
    frames.open();
  }
  Owned<Bus> scan(Inheritance* preserved = nullptr, u8 last_bus = 255) {
    Vec<acpi::EcamWindow> windows(heap);
    EXPECT_TRUE(windows.push_back({Phys(test::Fabric::kEcam), 0, 0, last_bus}));
    auto bus = heap.make<Bus>(heap, std::move(windows));
    EXPECT_TRUE(bus);
    EXPECT_TRUE((*bus)->enumerate(preserved));
    return std::move(*bus);
  }
  static std::vector<u16> ids(const Bus& bus) {
    std::vector<u16> all;
    for (usize i = 0; i < bus.size(); ++i) all.push_back(bus.at(i).source().bdf);
    return all;
  }
  static Function& only(Bus& bus) { return bus.at(0); }

  test::TestMachine machine;
  FrameAllocator frames{machine};
  Heap heap{frames};
  test::Fabric fabric{machine};
};

TEST_F(PciTest, FindsFunctionsAndBridgesWithTheirNumbers) {
  fabric.add(nullptr, 2, 0, 0x1000);
  fabric.add(nullptr, 2, 3, 0x1001);
  Node& upper = fabric.bridge(nullptr, 4, 0x2000, 3, 9);
  Node& lower = fabric.bridge(&upper, 0, 0x2001, 7, 8);
  fabric.add(&lower, 0, 0, 0x1002);
  fabric.add(&lower, 5, 0, 0x1003);  // below a port there is only device 0
  fabric.add(nullptr, 31, 0, 0x1004);
  auto bus = scan();
  EXPECT_EQ(ids(*bus), (std::vector<u16>{0x0010, 0x0013, 0x0020, 0x0300, 0x0700, 0x00f8}));
  const Function& leaf = *bus->find({0, 0x0700});
  EXPECT_EQ(leaf.device(), 0x1002);
  EXPECT_EQ(leaf.class_code(), 0x020000u);
  EXPECT_EQ(leaf.parent(), bus->find({0, 0x0300}));
  EXPECT_TRUE(leaf.below(*bus->find({0, 0x0020})));
  EXPECT_FALSE(bus->find({0, 0x0010})->below(*bus->find({0, 0x0020})));
  EXPECT_EQ(bus->find({0, 0x0701}), nullptr);
  EXPECT_EQ(bus->find({1, 0x0010}), nullptr);
  for (const auto& w : fabric.writes)
    EXPECT_FALSE(w.offset >= 0x18 && w.offset < 0x1b && (w.node == &upper || w.node == &lower));
}

TEST_F(PciTest, BridgesThatClaimImpossibleBusesAreNotFollowed) {
  struct {
    u8 secondary, subordinate;
  } cases[] = {{0, 0}, {2, 1}, {200, 220}, {4, 255}};
  Node& good = fabric.bridge(nullptr, 1, 0x2000, 4, 4);
  fabric.add(&good, 0, 0, 0x1000);
  Node& bad = fabric.bridge(nullptr, 2, 0x2001, 0, 0);
  Recorded all;
  all.ids = {0x0008, 0x0010, 0x0400};
  for (auto [secondary, subordinate] : cases) {
    bad.bytes[0x19] = secondary;
    bad.bytes[0x1a] = subordinate;
    auto bus = scan(&all, 100);
    EXPECT_EQ(ids(*bus), (std::vector<u16>{0x0008, 0x0400, 0x0010})) << +secondary;
    EXPECT_FALSE(machine.lines.empty());
    machine.lines.clear();
  }
  EXPECT_TRUE(fabric.writes.empty());
}

TEST_F(PciTest, BridgesWithoutNumbersGetFreeOnes) {
  Node& configured = fabric.bridge(nullptr, 1, 0x2000, 5, 6);
  fabric.add(&configured, 0, 0, 0x1000);
  Node& bare = fabric.bridge(nullptr, 2, 0x2001, 0, 0, false);
  Node& inner = fabric.bridge(&bare, 3, 0x2002, 0, 0);
  fabric.add(&inner, 0, 0, 0x1001);
  Node& second = fabric.bridge(&bare, 4, 0x2003, 0, 0);
  fabric.add(&second, 0, 0, 0x1002);
  Node& last = fabric.bridge(nullptr, 3, 0x2004, 0, 0);
  auto bus = scan();
  EXPECT_EQ(bare.bytes[0x19], 7);
  EXPECT_EQ(bare.bytes[0x1a], 9);
  EXPECT_EQ(inner.bytes[0x18], 7);
  EXPECT_EQ(inner.bytes[0x19], 8);
  EXPECT_EQ(inner.bytes[0x1a], 8);
  EXPECT_EQ(second.bytes[0x19], 9);
  EXPECT_EQ(last.bytes[0x19], 10);
  EXPECT_EQ(last.bytes[0x1a], 10);
  EXPECT_NE(bus->find({0, 0x0800}), nullptr);
  EXPECT_EQ(bus->find({0, 0x0900})->device(), 0x1002);
  EXPECT_EQ(bus->find({0, 0x0900})->parent(), bus->find({0, 0x0720}));
  EXPECT_EQ(bus->find({0, 0x0010})->subordinate(), 9);
}

TEST_F(PciTest, NumbersRunOut) {
  fabric.bridge(nullptr, 1, 0x2000, 0, 0);
  Node& none = fabric.bridge(nullptr, 2, 0x2001, 0, 0);
  auto bus = scan(nullptr, 1);
  EXPECT_EQ(none.bytes[0x19], 0);
  EXPECT_FALSE(machine.lines.empty());
}

TEST_F(PciTest, SizesBarsAndPutsThemBack) {
  Node& n = fabric.add(nullptr, 2, 0, 0x1000);
  n.bar(0, 0xfe00'0000, 0x4000);
  n.bar(1, 0x80'0000'0000, u64{8} << 30, true);
  n.set<u32>(0x1c, 0xc001);  // I/O
  n.allow(0x1c, 0xffffffe0, 4);
  n.bar(4, 0, 0x1000);  // not assigned
  n.set<u16>(4, 7);
  bool decoded_while_sizing = false;
  n.written = [&](u16 at) {
    if (at >= 0x10 && at < 0x28 && (n.get<u16>(4) & 3) != 0) decoded_while_sizing = true;
  };
  auto bus = scan();
  const auto bars = only(*bus).bars();
  EXPECT_EQ(bars[0].kind, Bar::Kind::Memory);
  EXPECT_EQ(bars[0].base, Phys(0xfe00'0000));
  EXPECT_EQ(bars[0].size, 0x4000u);
  EXPECT_TRUE(bars[1].wide);
  EXPECT_EQ(bars[1].base, Phys(0x80'0000'0000));
  EXPECT_EQ(bars[1].size, u64{8} << 30);
  EXPECT_EQ(bars[2].kind, Bar::Kind::None);
  EXPECT_EQ(bars[3].kind, Bar::Kind::Io);
  EXPECT_EQ(bars[3].size, 0x20u);
  EXPECT_EQ(bars[4].kind, Bar::Kind::Memory);
  EXPECT_EQ(bars[4].size, 0x1000u);
  EXPECT_EQ(bars[5].kind, Bar::Kind::None);
  EXPECT_FALSE(decoded_while_sizing);
  EXPECT_EQ(n.get<u16>(4), 7);
  EXPECT_EQ(n.get<u32>(0x10), 0xfe00'0000u);
  EXPECT_EQ(n.get<u32>(0x18), 0x80u);
}

// Design §7: no write of any kind, to it or to what is above it; sizes come from the record.
TEST_F(PciTest, PreservedFunctionsAndTheirBridgesAreOnlyLookedAt) {
  Node& port = fabric.bridge(nullptr, 1, 0x2000, 1, 1);
  port.bar(0, 0xfd00'0000, 0x1000);
  Node& working = fabric.add(&port, 0, 0, 0x1000);
  working.bar(0, 0xfe00'0000, 0x4000);
  working.set<u16>(4, 7);
  Node& idle = fabric.add(nullptr, 2, 0, 0x1001);
  idle.bar(0, 0xfc00'0000, 0x1000);
  Recorded recorded;
  recorded.ids = {0x0008, 0x0100};
  auto bus = scan(&recorded);
  EXPECT_EQ(fabric.writes_to(port), 0u);
  EXPECT_EQ(fabric.writes_to(working), 0u);
  EXPECT_GT(fabric.writes_to(idle), 0u);
  EXPECT_EQ(bus->find({0, 0x0100})->inherited(), Inherited::Preserved);
  EXPECT_EQ(bus->find({0, 0x0008})->inherited(), Inherited::Preserved);
  EXPECT_EQ(bus->find({0, 0x0010})->inherited(), Inherited::No);
  EXPECT_EQ(bus->find({0, 0x0100})->bars()[0].size, 0x4000u);
  EXPECT_EQ(bus->find({0, 0x0010})->bars()[0].size, 0x1000u);
}

// A bridge that is closed is opened for a new user below it, unless it is on the way to somebody at work.
TEST_F(PciTest, BridgesAreOpenedForWhoIsBelow) {
  Node& upper = fabric.bridge(nullptr, 1, 0x2000, 1, 2);
  Node& lower = fabric.bridge(&upper, 0, 0x2001, 2, 2);
  fabric.add(&lower, 0, 0, 0x1000);
  Node& sibling = fabric.add(&lower, 0, 1, 0x1001);
  lower.set<u16>(4, 6);
  auto bus = scan();
  fabric.writes.clear();
  EXPECT_TRUE(bus->find({0, 0x0200})->open_path());
  EXPECT_EQ(upper.get<u16>(4), 6);
  EXPECT_EQ(fabric.writes_to(lower), 0u) << "open already";
  bus.reset();
  upper.set<u16>(4, 0);
  Recorded recorded;
  recorded.ids = {0x0008, 0x0100, 0x0200};
  bus = scan(&recorded);
  fabric.writes.clear();
  EXPECT_FALSE(bus->find({0, 0x0201})->open_path());
  EXPECT_TRUE(fabric.writes.empty());
  bus->find({0, 0x0200})->let_go();
  EXPECT_TRUE(bus->find({0, 0x0201})->open_path());
  EXPECT_EQ(upper.get<u16>(4), 6);
  EXPECT_EQ(fabric.writes_to(sibling), 0u);
}

TEST_F(PciTest, CapabilityListsThatGoRoundEnd) {
  Node& n = fabric.add(nullptr, 2, 0, 0x1000);
  const u16 a = n.cap(0x01, 8);
  const u16 b = n.cap(0x05, 16);
  n.bytes[b + 1u] = static_cast<u8>(a);
  n.set<u32>(0x100, 0x0001 | 0x100 << 20 | 1 << 16);  // leads to itself
  auto bus = scan();
  Function& f = only(*bus);
  EXPECT_EQ(f.find(CapabilityId::Msi), b);
  EXPECT_EQ(f.find(CapabilityId::Msix), 0);
  EXPECT_EQ(f.find(ExtendedCapabilityId::Ats), 0);
  n.set<u32>(0x100, 0x0001 | 0x200 << 20 | 1 << 16);
  n.set<u32>(0x200, 0x000f | 1 << 16);
  EXPECT_EQ(f.find(ExtendedCapabilityId::Ats), 0x200);
  n.set<u32>(0x100, 0x0001 | 0x004 << 20 | 1 << 16);  // back into the header
  EXPECT_EQ(f.find(ExtendedCapabilityId::Ats), 0);
  n.bytes[0x34] = 0x10;  // into the BARs
  EXPECT_EQ(f.find(CapabilityId::Msi), 0);
  n.bytes[6] = 0;  // no list at all
  n.bytes[0x34] = static_cast<u8>(a);
  EXPECT_EQ(f.find(CapabilityId::Msi), 0);
}

TEST_F(PciTest, BusMasteringIsReadBack) {
  Node& n = fabric.add(nullptr, 2, 0, 0x1000);
  auto bus = scan();
  Function& f = only(*bus);
  EXPECT_TRUE(f.set_bus_master(true));
  EXPECT_TRUE(f.bus_master());
  EXPECT_TRUE(bus->is_on({0, 0x0010}));
  EXPECT_TRUE(bus->off_and_verify({0, 0x0010}));
  EXPECT_FALSE(f.bus_master());
  // A device that does not let go.
  n.set<u16>(4, 6);
  n.allow(4, 0, 2);
  EXPECT_FALSE(bus->off_and_verify({0, 0x0010}));
  EXPECT_FALSE(f.set_bus_master(false));
  EXPECT_TRUE(bus->is_on({0, 0x0010}));
  // Nobody there, and no window.
  EXPECT_TRUE(bus->off_and_verify({0, 0x0018}));
  EXPECT_TRUE(bus->off_and_verify({7, 0x0010}));
  EXPECT_FALSE(bus->is_on({0, 0x0018}));
  EXPECT_FALSE(bus->transactions_pending({0, 0x0018}));
}

TEST_F(PciTest, ResetWaitsAndRestores) {
  Node& n = fabric.add(nullptr, 2, 0, 0x1000);
  n.bar(0, 0xfe00'0000, 0x4000);
  const u16 express = n.express(0, true);
  auto bus = scan();
  Function& f = only(*bus);
  EXPECT_TRUE(f.can_reset());
  n.set<u16>(4, 6);
  n.set<u16>(static_cast<u16>(express + 10), 0x20);
  EXPECT_TRUE(f.transactions_pending());
  EXPECT_TRUE(bus->transactions_pending({0, 0x0010}));
  u64 reset_at = 0, restored_at = 0;
  machine.clock_ns = 1;
  n.written = [&](u16 at) {
    if (at == 4 && reset_at == 0) {
      EXPECT_EQ(n.get<u16>(4) & 4, 0) << "bus mastering off before anything";
      n.set<u16>(static_cast<u16>(express + 10), 0);
    }
    if (at == express + 8 && (n.get<u16>(at) & 0x8000) != 0) {
      reset_at = machine.clock_ns;
      n.set<u16>(4, 0);
      n.set<u32>(0x10, 0);
      n.set<u16>(at, 0);
    }
    if (at == 0x10 && reset_at != 0 && restored_at == 0) restored_at = machine.clock_ns;
  };
  ASSERT_TRUE(f.reset());
  EXPECT_GE(restored_at - reset_at, 100'000'000u);
  EXPECT_EQ(n.get<u16>(4), 2) << "decoding as before, bus mastering off";
  EXPECT_EQ(n.get<u32>(0x10), 0xfe00'0000u);

  n.written = [&](u16 at) {
    if (at == express + 8) fabric.gone.insert(&n);
  };
  EXPECT_EQ(f.reset().error(), Errno::Etimedout);
  fabric.gone.clear();
  n.set<u32>(static_cast<u16>(express + 4), 0);
  EXPECT_FALSE(f.can_reset());
  EXPECT_EQ(f.reset().error(), Errno::Eopnotsupp);
}

// A function that is not of PCI Express says by another capability what it can.
TEST_F(PciTest, ConventionalFunctionsResetThroughAdvancedFeatures) {
  Node& n = fabric.add(nullptr, 2, 0, 0x1000);
  const u16 af = n.cap(0x13, 6);
  const u16 abilities = static_cast<u16>(af + 3), control = static_cast<u16>(af + 4), status = static_cast<u16>(af + 5);
  n.allow(control, 1, 1);
  auto bus = scan();
  Function& f = only(*bus);
  n.set<u8>(status, 1);
  EXPECT_FALSE(f.transactions_pending()) << "it cannot tell";
  EXPECT_FALSE(f.can_reset());
  EXPECT_EQ(f.reset().error(), Errno::Eopnotsupp);

  n.set<u8>(abilities, 3);
  EXPECT_TRUE(f.transactions_pending());
  EXPECT_TRUE(f.can_reset());
  n.set<u16>(4, 6);
  bool asked = false;
  n.written = [&](u16 at) {
    if (at == 4) n.set<u8>(status, 0);
    if (at != control || (n.get<u8>(control) & 1) == 0) return;
    asked = true;
    EXPECT_EQ(n.get<u16>(4) & 4, 0) << "bus mastering off before the reset";
    n.set<u8>(control, 0);
    n.set<u16>(4, 0);
  };
  ASSERT_TRUE(f.reset());
  EXPECT_TRUE(asked);
  EXPECT_EQ(n.get<u16>(4), 2) << "decoding as before, bus mastering off";
  EXPECT_FALSE(f.transactions_pending());
}

TEST_F(PciTest, ProgramsMsiInBothForms) {
  for (const bool wide : {false, true}) {
    SCOPED_TRACE(wide);
    Node& n = fabric.add(nullptr, wide ? 3 : 2, 0, 0x1000);
    const u16 cap = n.cap(0x05, 16);
    n.set<u16>(static_cast<u16>(cap + 2), static_cast<u16>(2 << 1 | (wide ? 0x80 : 0)));
    n.allow(static_cast<u16>(cap + 2), 0x71, 2);
    for (u16 i = 4; i < 16; i = static_cast<u16>(i + 4)) n.allow(static_cast<u16>(cap + i), ~0u, 4);
    auto bus = scan();
    Function& f = *bus->find(SourceId::of(0, 0, wide ? 3 : 2, 0));
    EXPECT_EQ(f.msi_vectors(), 4u);
    EXPECT_FALSE(f.interrupts_enabled());
    ASSERT_TRUE(f.msi_enable({0xfee0'1000, 0x41}, 4));
    EXPECT_EQ(n.get<u16>(static_cast<u16>(cap + 2)) & 0x71, 0x21);
    EXPECT_EQ(n.get<u32>(static_cast<u16>(cap + 4)), 0xfee0'1000u);
    EXPECT_EQ(n.get<u16>(static_cast<u16>(cap + (wide ? 12 : 8))), 0x41);
    EXPECT_TRUE(f.interrupts_enabled());
    EXPECT_EQ(f.msi_enable({0, 0}, 3).error(), Errno::Einval);
    EXPECT_EQ(f.msi_enable({0, 0}, 8).error(), Errno::Einval);
    EXPECT_EQ(f.msi_enable({u64{1} << 32, 0}, 1).has_value(), wide);
    f.msi_disable();
    EXPECT_FALSE(f.interrupts_enabled());
    fabric.gone.insert(&n);
  }
}

TEST_F(PciTest, ProgramsMsixInItsBar) {
  Node& n = fabric.add(nullptr, 2, 0, 0x1000);
  n.bar(2, 0x40'0000'0000, 0x4000, true);
  const u16 cap = n.cap(0x11, 12);
  n.set<u16>(static_cast<u16>(cap + 2), 2);  // three vectors
  n.allow(static_cast<u16>(cap + 2), 0xc000, 2);
  n.set<u32>(static_cast<u16>(cap + 4), 0x2000 | 2);
  auto bus = scan();
  Function& f = only(*bus);
  ASSERT_EQ(f.msix_vectors(), 3u);
  ASSERT_TRUE(f.msix_enable());
  constexpr u64 kTable = 0x40'0000'2000;
  for (u64 i = 0; i < 3; ++i) EXPECT_EQ(fabric.registers[kTable + 16 * i + 12], 1u);
  EXPECT_EQ(n.get<u16>(static_cast<u16>(cap + 2)), 0x8002);
  fabric.register_order.clear();
  ASSERT_TRUE(f.msix_set(1, {0x1'fee0'2000, 0x55}));
  EXPECT_EQ(fabric.registers[kTable + 16], 0xfee0'2000u);
  EXPECT_EQ(fabric.registers[kTable + 20], 1u);
  EXPECT_EQ(fabric.registers[kTable + 24], 0x55u);
  EXPECT_EQ(fabric.registers[kTable + 28], 0u);
  EXPECT_EQ(fabric.register_order.front(), kTable + 28) << "masked while it changes";
  EXPECT_EQ(fabric.register_order.back(), kTable + 28);
  ASSERT_TRUE(f.msix_mask(1));
  EXPECT_EQ(fabric.registers[kTable + 28], 1u);
  EXPECT_EQ(f.msix_set(3, {}).error(), Errno::Einval);
  EXPECT_EQ(f.msix_mask(3).error(), Errno::Einval);
  EXPECT_TRUE(f.interrupts_enabled());
  f.msix_disable();
  EXPECT_FALSE(f.interrupts_enabled());
  // A table that does not lie in the BAR, and one in a BAR that is none.
  n.set<u32>(static_cast<u16>(cap + 4), 0x3ff0 | 2);
  EXPECT_EQ(f.msix_vectors(), 0u);
  n.set<u32>(static_cast<u16>(cap + 4), 0x2000 | 7);
  EXPECT_EQ(f.msix_vectors(), 0u);
  EXPECT_EQ(f.msix_enable().error(), Errno::Eopnotsupp);
}

struct ScopeTest : PciTest {
  acpi::Scope scope(acpi::ScopeType type, std::vector<acpi::PathHop> path, u8 start = 0) {
    acpi::Scope s(heap);
    s.type = type;
    s.start_bus = start;
    for (const auto& hop : path) EXPECT_TRUE(s.path.push_back(hop));
    return s;
  }
  void unit(acpi::Dmar& dmar, bool all, std::vector<acpi::Scope> scopes, u16 segment = 0) {
    acpi::DmarUnit u(heap);
    u.segment = segment;
    u.include_all = all;
    for (auto& s : scopes) EXPECT_TRUE(u.scopes.push_back(std::move(s)));
    EXPECT_TRUE(dmar.units.push_back(std::move(u)));
  }
};

TEST_F(ScopeTest, ExplicitScopesFirstThenTheRest) {
  fabric.add(nullptr, 2, 0, 0x1000);
  Node& port = fabric.bridge(nullptr, 4, 0x2000, 3, 9);
  Node& lower = fabric.bridge(&port, 0, 0x2001, 7, 8);
  fabric.add(&lower, 0, 0, 0x1002);
  fabric.add(nullptr, 5, 0, 0x1003);
  auto bus = scan();
  const auto unit_behind = [&](const acpi::Dmar& dmar, u16 bdf) -> int {
    auto u = unit_of(*bus, dmar, *bus->find({0, bdf}));
    return u ? static_cast<int>(*u) : -1;
  };
  using T = acpi::ScopeType;
  {
    acpi::Dmar dmar(heap);
    std::vector<acpi::Scope> first, second;
    first.push_back(scope(T::IoApic, {{2, 0}}));
    first.push_back(scope(T::Bridge, {{4, 0}}));
    second.push_back(scope(T::Endpoint, {{2, 0}}));
    second.push_back(scope(T::Endpoint, {{9, 0}}));  // nobody there
    unit(dmar, true, {}, 1);                         // another segment
    unit(dmar, false, std::move(first));
    unit(dmar, false, std::move(second));
    EXPECT_EQ(unit_behind(dmar, 0x0010), 2);
    EXPECT_EQ(unit_behind(dmar, 0x0700), 1) << "below the bridge";
    EXPECT_EQ(unit_behind(dmar, 0x0020), 1) << "the bridge itself";
    EXPECT_EQ(unit_behind(dmar, 0x0028), -1) << "behind none";
    unit(dmar, true, {});
    EXPECT_EQ(unit_behind(dmar, 0x0028), 3);
    EXPECT_EQ(unit_behind(dmar, 0x0010), 2);
  }
  acpi::Dmar dmar(heap);
  std::vector<acpi::Scope> deep;
  deep.push_back(scope(T::Endpoint, {{4, 0}, {0, 0}, {0, 0}}));
  unit(dmar, false, std::move(deep));
  EXPECT_EQ(unit_behind(dmar, 0x0700), 0) << "through two bridges";
  EXPECT_EQ(unit_behind(dmar, 0x0300), -1) << "an endpoint scope names one function";
  // Through a function that is no bridge, and from a bus that is not there.
  EXPECT_EQ(resolve(*bus, 0, scope(T::Endpoint, {{2, 0}, {0, 0}})), nullptr);
  EXPECT_EQ(resolve(*bus, 0, scope(T::Endpoint, {{2, 0}}, 99)), nullptr);
  Vec<SourceId> requesters(heap);
  ASSERT_TRUE(requester_ids(*bus->find({0, 0x0700}), requesters));
  ASSERT_EQ(requesters.size(), 1u);
  EXPECT_EQ(requesters[0], (SourceId{0, 0x0700}));
}

TEST_F(PciTest, SurvivesEveryFailingAllocation) {
  Node& port = fabric.bridge(nullptr, 4, 0x2000, 3, 9);
  fabric.add(&port, 0, 0, 0x1000);
  for (u64 n = 1;; ++n) {
    Vec<acpi::EcamWindow> windows(heap);
    ASSERT_TRUE(windows.push_back({Phys(test::Fabric::kEcam), 0, 0, 255}));
    Bus bus(heap, std::move(windows));
    const auto done = machine.counting.failing(n, [&] { return bus.enumerate(nullptr); });
    if (done) {
      EXPECT_GT(n, 2u);
      break;
    }
    EXPECT_EQ(done.error(), Errno::Enomem);
  }
  EXPECT_EQ(heap.bytes_in_use(), 0u);
}

}  // namespace
}  // namespace perdure::pci
