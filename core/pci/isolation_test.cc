// Requester ids behind bridges, and who can reach whom past the IOMMU.
#include "core/pci/isolation.h"

#include "core/pci/scope.h"
#include "core/pci/testing/fabric.h"

namespace perdure::pci {
namespace {

using Node = test::Fabric::Node;

constexpr u16 kRootPort = 4, kUpstream = 5, kDownstream = 6, kToPci = 7, kFromPci = 8;
// Source validation, redirects, upstream forwarding; all that a port needs. An endpoint has the redirects alone.
constexpr u16 kPortServices = 0x1d, kEndpointServices = 0x0c;

struct IsolationTest : testing::Test {
  IsolationTest() {
    const Extent ram{Phys(0), machine.window};
    EXPECT_TRUE(frames.init({&ram, 1}, {}, {}));
    frames.open();
  }
  // Type 0xffff: conventional.
  Node& bridge(Node* above, u8 dev, u16 type, u8 secondary, u8 last, u16 services = 0, u8 function = 0) {
    Node& n = fabric.add(above, dev, function, 0x2000);
    n.bytes[0xe] |= 1;
    n.bytes[0x19] = secondary;
    n.bytes[0x1a] = last;
    if (type != 0xffff) n.express(type, false);
    if (services != 0) access_control(n, services);
    return n;
  }
  Node& endpoint(Node* above, u8 dev, u8 function, u16 services = 0, bool express = true) {
    Node& n = fabric.add(above, dev, function, 0x1000);
    if (express) n.express(0, true);
    if (services != 0) access_control(n, services);
    return n;
  }
  static void access_control(Node& n, u16 services, u16 on = 0) {
    n.set<u32>(0x100, 0x0001'000d);
    n.set<u16>(0x104, services);
    n.set<u16>(0x106, on);
    n.allow(0x106, services, 2);
  }
  Bus& scan(Inheritance* inheritance = nullptr) {
    Vec<acpi::EcamWindow> windows(heap);
    EXPECT_TRUE(windows.push_back({Phys(test::Fabric::kEcam), 0, 0, 255}));
    bus = *heap.make<Bus>(heap, std::move(windows));
    EXPECT_TRUE(bus->enumerate(inheritance));
    return *bus;
  }
  std::vector<u16> requesters(u16 bdf) {
    Vec<SourceId> ids(heap);
    EXPECT_TRUE(requester_ids(*bus->find({0, bdf}), ids));
    std::vector<u16> all;
    for (SourceId id : ids) all.push_back(id.bdf);
    return all;
  }
  u16 leader(u16 bdf) { return isolation_leader(*bus, *bus->find({0, bdf})).bdf; }

  test::TestMachine machine;
  FrameAllocator frames{machine};
  Heap heap{frames};
  test::Fabric fabric{machine};
  Owned<Bus> bus;
};

TEST_F(IsolationTest, BridgesToConventionalBusesGiveTheirIds) {
  Node& port = bridge(nullptr, 1, kRootPort, 1, 9, kPortServices);
  Node& to_pci = bridge(&port, 0, kToPci, 2, 9);
  endpoint(&to_pci, 4, 0, 0, false);
  Node& inner = bridge(&to_pci, 5, 0xffff, 3, 3);
  endpoint(&inner, 6, 0, 0, false);
  Node& integrated = bridge(nullptr, 2, 0xffff, 10, 12);
  endpoint(&integrated, 7, 0, 0, false);
  Node& back = bridge(&integrated, 8, kFromPci, 11, 12);
  endpoint(&back, 0, 0);
  endpoint(nullptr, 3, 0);
  scan();
  EXPECT_EQ(requesters(0x0220), (std::vector<u16>{0x0220, 0x0200}));
  EXPECT_EQ(requesters(0x0330), (std::vector<u16>{0x0330, 0x0228, 0x0200}));
  EXPECT_EQ(requesters(0x0a38), (std::vector<u16>{0x0a38, 0x0010}));
  EXPECT_EQ(requesters(0x0b00), (std::vector<u16>{0x0b00, 0x0a40, 0x0010})) << "PCI Express behind a conventional bus";
  EXPECT_EQ(requesters(0x0018), (std::vector<u16>{0x0018}));
  enable_access_control(*bus);
  for (u16 bdf : {0x0220, 0x0330}) EXPECT_EQ(leader(bdf), 0x0100) << "all behind the bridge";
  for (u16 bdf : {0x0a38, 0x0b00}) EXPECT_EQ(leader(bdf), 0x0010);
}

TEST_F(IsolationTest, PortsIsolateWhenTheirServicesAreOn) {
  Node& good = bridge(nullptr, 1, kRootPort, 1, 1, kPortServices);
  endpoint(&good, 0, 0);
  Node& none = bridge(nullptr, 2, kRootPort, 2, 2);
  endpoint(&none, 0, 0);
  Node& half = bridge(nullptr, 3, kRootPort, 3, 3, 0x1d);
  half.allow(0x106, 0x0c, 2);  // does not take all of what it offers
  endpoint(&half, 0, 0);
  scan();
  EXPECT_EQ(leader(0x0100), 0x0008) << "off as yet";
  enable_access_control(*bus);
  EXPECT_EQ(good.get<u16>(0x106), kPortServices);
  EXPECT_EQ(leader(0x0100), 0x0100);
  EXPECT_EQ(leader(0x0200), 0x0010);
  EXPECT_EQ(leader(0x0300), 0x0018);
  EXPECT_EQ(isolates(*bus->find({0, 0x0008})), true);
  EXPECT_EQ(isolates(*bus->find({0, 0x0010})), false);
}

TEST_F(IsolationTest, ASwitchIsAsGoodAsAllOfThePathAbove) {
  Node& port = bridge(nullptr, 1, kRootPort, 1, 9, kPortServices);
  Node& up = bridge(&port, 0, kUpstream, 2, 9);
  Node& closed = bridge(&up, 0, kDownstream, 3, 3, kPortServices);
  endpoint(&closed, 0, 0);
  Node& open1 = bridge(&up, 1, kDownstream, 4, 4);
  endpoint(&open1, 0, 0);
  Node& open2 = bridge(&up, 2, kDownstream, 5, 5);
  endpoint(&open2, 0, 0);
  // Perfect below, open above.
  Node& bad = bridge(nullptr, 2, kRootPort, 10, 14);
  Node& up2 = bridge(&bad, 0, kUpstream, 11, 14);
  Node& down1 = bridge(&up2, 0, kDownstream, 12, 12, kPortServices);
  endpoint(&down1, 0, 0);
  Node& down2 = bridge(&up2, 1, kDownstream, 13, 13, kPortServices);
  endpoint(&down2, 0, 0);
  // Closed all the way.
  Node& best = bridge(nullptr, 3, kRootPort, 16, 20, kPortServices);
  Node& up3 = bridge(&best, 0, kUpstream, 17, 20);
  for (u8 i : {0, 1}) {
    Node& down = bridge(&up3, i, kDownstream, static_cast<u8>(18 + i), static_cast<u8>(18 + i), kPortServices);
    endpoint(&down, 0, 0);
  }
  scan();
  enable_access_control(*bus);
  for (u16 bdf : {0x0300, 0x0400, 0x0500}) EXPECT_EQ(leader(bdf), 0x0100) << "through the open ports all are reached";
  for (u16 bdf : {0x0c00, 0x0d00}) EXPECT_EQ(leader(bdf), 0x0010);
  for (u16 bdf : {0x1200, 0x1300}) EXPECT_EQ(leader(bdf), bdf);
}

TEST_F(IsolationTest, FunctionsOfOneDeviceGoTogetherUnlessTheyRedirect) {
  for (u8 f : {0, 1, 2}) endpoint(nullptr, 3, f, f == 1 ? kEndpointServices : u16{0});
  endpoint(nullptr, 4, 0, kEndpointServices);
  endpoint(nullptr, 4, 1, kEndpointServices);
  endpoint(nullptr, 5, 0);
  scan();
  EXPECT_EQ(leader(0x0021), 0x0020) << "off as yet";
  enable_access_control(*bus);
  for (u16 bdf : {0x0018, 0x0019, 0x001a}) EXPECT_EQ(leader(bdf), 0x0018) << "two of them reach the third";
  EXPECT_EQ(leader(0x0020), 0x0020);
  EXPECT_EQ(leader(0x0021), 0x0021);
  EXPECT_EQ(leader(0x0028), 0x0028) << "alone in its slot it has no peers there";
}

TEST_F(IsolationTest, RootPortsOfOneDeviceWithoutServicesReachEachOther) {
  Node& first = bridge(nullptr, 1, kRootPort, 1, 1);
  endpoint(&first, 0, 0);
  Node& second = bridge(nullptr, 1, kRootPort, 2, 2, 0, 1);
  endpoint(&second, 0, 0);
  scan();
  enable_access_control(*bus);
  EXPECT_EQ(leader(0x0100), 0x0008);
  EXPECT_EQ(leader(0x0200), 0x0008);
}

struct Recorded final : Inheritance {
  Inherited identify(Function& f) override { return f.source().bdf == 0x0100 ? Inherited::Preserved : Inherited::No; }
  bool takes_buses() const override { return false; }
  bool buses_taken(SourceId, u8, u8) const override { return false; }
};

TEST_F(IsolationTest, NothingIsWrittenToWhatIsPreserved) {
  Node& port = bridge(nullptr, 1, kRootPort, 1, 1, kPortServices);
  Node& kept = endpoint(&port, 0, 0);
  Node& other = bridge(nullptr, 2, kRootPort, 2, 2, kPortServices);
  Recorded recorded;
  scan(&recorded);
  const usize before = fabric.writes.size();
  enable_access_control(*bus);
  EXPECT_EQ(fabric.writes_to(port), 0u);
  EXPECT_EQ(fabric.writes_to(kept), 0u);
  EXPECT_GT(fabric.writes_to(other), 0u);
  EXPECT_EQ(fabric.writes.size(), before + 1);
  enable_access_control(*bus);
  EXPECT_EQ(fabric.writes.size(), before + 1) << "on already";
}

}  // namespace
}  // namespace perdure::pci
