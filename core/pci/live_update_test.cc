// Functions and bridges across a jump: found as recorded without one write, or left alone and refused (design §7).
#include "core/pci/live_update.h"

#include <algorithm>
#include <functional>

#include "core/pci/testing/fabric.h"
#include "tests/support/handover.h"

namespace perdure::pci {
namespace {

using Node = test::Fabric::Node;
using Ids = std::set<u16>;

constexpr u16 kX = 0x0200, kY = 0x0201, kZ = 0x0400, kW = 0x0028;
constexpr u16 kUpper = 0x0008, kLower = 0x0100, kOther = 0x0010;

// Root port `upper`, buses 1-3, and below it port `lower`, bus 2, with functions X and Y of one device; root port
// `other`, bus 4, with Z; W on the root bus; a bridge that firmware forgot.
class PciLiveUpdateTest : public testing::TestWithParam<u32> {
 protected:
  PciLiveUpdateTest() {
    place(upper, 0, 1, 3, 0xfe00'0000, 0xfe3f'ffff);
    place(lower, 1, 2, 2, 0xfe00'0000, 0xfe1f'ffff);
    place(other, 0, 4, 4, 0xfe40'0000, 0xfe4f'ffff);
    x.bar(0, 0xfe00'0000, 0x4000);
    y.bar(0, 0xfe00'4000, 0x4000);
    z.bar(0, 0xfe40'0000, 0x1'0000, true);
    w.bar(2, 0xfd00'0000, 0x1000);
    for (Node* n : {&x, &y, &z, &w}) {
      n->set<u16>(4, 6);
      n->set<u32>(0x2c, 0x0001'1af4);
    }
    boot();
  }
  ~PciLiveUpdateTest() override { destroy(); }
  static void place(Node& bridge, u8 primary, u8 secondary, u8 subordinate, u64 base, u64 limit) {
    bridge.bytes[0x18] = primary;
    bridge.bytes[0x19] = secondary;
    bridge.bytes[0x1a] = subordinate;
    bridge.set<u16>(4, 6);
    bridge.set<u16>(0x20, static_cast<u16>(base >> 16 & 0xfff0));
    bridge.set<u16>(0x22, static_cast<u16>(limit >> 16 & 0xfff0));
    bridge.set<u16>(0x24, 0xfff0);
  }

  // A kernel: cold, or after jump(), with records to believe.
  void boot() {
    live.make(handover.kho(), GetParam());
    make_bus();
    EXPECT_TRUE(bus->enumerate(nullptr));
    fabric.writes.clear();
  }
  void make_bus() {
    Vec<acpi::EcamWindow> windows(handover.heap());
    EXPECT_TRUE(windows.push_back({Phys(test::Fabric::kEcam), 0, 0, 255}));
    bus.make(handover.heap(), std::move(windows));
  }
  void destroy() {
    bus.destroy();
    live.destroy();
  }
  Function& at(u16 bdf) { return *bus->find({0, bdf}); }
  void preserve(const Ids& ids) {
    data = *live->preserve();
    for (u16 bdf : ids) ASSERT_TRUE(live->preserve(at(bdf))) << std::hex << bdf;
    at_work = ids;
  }
  // The old kernel is gone; the next one reads what it left.
  void jump() {
    ASSERT_TRUE(live->freeze(data));
    EXPECT_TRUE(fabric.writes.empty()) << "the old kernel wrote";
    bus.forget();
    live.forget();
    ASSERT_TRUE(handover.jump());
    live.make(handover.kho(), GetParam());
    make_bus();
  }
  void find_everything() {
    fabric.writes.clear();
    std::vector<SourceId> known;
    for (u16 bdf : at_work) known.push_back({0, bdf});
    loaded = live->load(data);
    ASSERT_TRUE(live->agree(known));
    ASSERT_TRUE(bus->enumerate(&*live));
    live->check(*bus, [this](Phys base, u64 length) { return ranges_overlap(base.value, length, reserved, 1); });
  }
  // The same kernel once more, on another machine or another image.
  void find_again() {
    destroy();
    handover.machine.lines.clear();
    live.make(handover.kho(), GetParam());
    make_bus();
    find_everything();
  }
  Ids in(Inherited state) {
    Ids all;
    for (usize i = 0; i < bus->size(); ++i) {
      if (bus->at(i).inherited() == state) all.insert(bus->at(i).source().bdf);
    }
    return all;
  }
  Ids written() const {
    Ids all;
    for (const auto& write : fabric.writes) {
      for (const auto& [bdf, node] : places) {
        if (node == write.node) all.insert(bdf);
      }
    }
    return all;
  }

  // --- the image, found without the reader under test ---------------------------------------------------------------
  abi::PciHeader& header() { return *handover.machine.virt<abi::PciHeader>(Phys(data)); }
  std::span<std::byte> slot(u64 chain, u32 size, u32 index) {
    return {handover.machine.virt(Phys(chain + sizeof(abi::RecordBlock) + u64{index} * size)), size};
  }
  // Changes the record of a function or bridge as a liar would, checksum and all.
  void forge(u16 bdf, const std::function<void(abi::PciFunctionRecord&)>& change) {
    const abi::Schema& schema = abi::pci_schema(abi::PciRecordKind::Function, GetParam());
    for (u32 i = 0; i < header().function_slots; ++i) {
      const auto bytes = slot(header().function_chain, schema.size, i);
      auto& record = *reinterpret_cast<abi::PciFunctionRecord*>(bytes.data());
      if (record.bdf != bdf || record.in_use == 0) continue;
      change(record);
      abi::seal(schema, bytes);
      return;
    }
    FAIL() << "no record of " << std::hex << bdf;
  }
  void forge_bridge(u16 bdf, const std::function<void(abi::PciBridgeRecord&)>& change) {
    for (u32 i = 0; i < header().bridge_slots; ++i) {
      const auto bytes = slot(header().bridge_chain, abi::kPciBridgeSchema.size, i);
      auto& record = *reinterpret_cast<abi::PciBridgeRecord*>(bytes.data());
      if (record.bdf != bdf || record.in_use == 0) continue;
      change(record);
      abi::seal(abi::kPciBridgeSchema, bytes);
      return;
    }
    FAIL() << "no record of " << std::hex << bdf;
  }
  // The whole image, to be put back.
  std::vector<std::pair<u64, std::vector<std::byte>>> copy_image() {
    std::vector<std::pair<u64, std::vector<std::byte>>> pages;
    for (u64 page : {data, header().function_chain, header().bridge_chain}) {
      const std::byte* from = handover.machine.virt(Phys(page));
      pages.emplace_back(page, std::vector<std::byte>(from, from + kPageSize));
    }
    return pages;
  }
  void put_back(const std::vector<std::pair<u64, std::vector<std::byte>>>& pages) {
    for (const auto& [page, bytes] : pages) std::memcpy(handover.machine.virt(Phys(page)), bytes.data(), bytes.size());
  }
  bool said(std::string_view what) const {
    return std::any_of(handover.machine.lines.begin(), handover.machine.lines.end(),
                       [&](const std::string& line) { return line.find(what) != std::string::npos; });
  }

  test::Handover handover;
  test::Fabric fabric{handover.machine};
  Node& upper = fabric.bridge(nullptr, 1, 0x2000, 1, 3);
  Node& lower = fabric.bridge(&upper, 0, 0x2001, 2, 2);
  Node& x = fabric.add(&lower, 0, 0, 0x1000);
  Node& y = fabric.add(&lower, 0, 1, 0x1001);
  Node& other = fabric.bridge(nullptr, 2, 0x2002, 4, 4);
  Node& z = fabric.add(&other, 0, 0, 0x1002);
  Node& w = fabric.add(nullptr, 5, 0, 0x1003);
  std::map<u16, Node*> places{{kX, &x},         {kY, &y},         {kZ, &z},        {kW, &w},
                              {kUpper, &upper}, {kLower, &lower}, {kOther, &other}};
  test::Forgettable<LiveUpdate> live;
  test::Forgettable<Bus> bus;
  u64 data = 0;
  Ids at_work;
  u64 reserved = 0;
  Result<void> loaded;
};

INSTANTIATE_TEST_SUITE_P(Versions, PciLiveUpdateTest, testing::Values(1u, 2u));

TEST_P(PciLiveUpdateTest, FunctionsAndBridgesAboveAreOnlyLookedAt) {
  Node& bare = fabric.bridge(nullptr, 9, 0x2003, 0, 0);
  Node& below_bare = fabric.add(&bare, 0, 0, 0x1004);
  preserve({kX, kZ, kW});
  jump();
  find_everything();
  ASSERT_TRUE(loaded);
  EXPECT_EQ(in(Inherited::Preserved), (Ids{kX, kZ, kW, kUpper, kLower, kOther}));
  EXPECT_EQ(in(Inherited::Refused), Ids{});
  EXPECT_EQ(written(), Ids{kY}) << "the sibling is nobody's; all others are at work or above";
  EXPECT_EQ(at(kX).bars()[0].size, 0x4000u);
  EXPECT_EQ(at(kZ).bars()[0].size, 0x1'0000u);
  EXPECT_EQ(at(kW).bars()[2].size, 0x1000u);
  EXPECT_EQ(at(kY).bars()[0].size, 0x4000u);
  EXPECT_EQ(bare.bytes[0x19], 5) << "after every number on the way to a function at work";
  EXPECT_GT(fabric.writes_to(below_bare), 0u);
  EXPECT_EQ(live->report().functions, 3u);
  EXPECT_EQ(live->report().bridges, 3u);
  EXPECT_EQ(live->report().refused + live->report().missing, 0u);

  // Taken back one by one: a bridge is like any other when the last below it is.
  at(kX).let_go();
  EXPECT_EQ(at(kLower).inherited(), Inherited::No);
  EXPECT_EQ(at(kUpper).inherited(), Inherited::No);
  EXPECT_EQ(at(kOther).inherited(), Inherited::Preserved);
  at(kX).let_go();
  at(kZ).let_go();
  EXPECT_EQ(at(kOther).inherited(), Inherited::No);
  const u64 kept = handover.frames().totals().kept;
  live->finish(data);
  EXPECT_EQ(handover.frames().totals().kept, kept - 3);
  live->finish(data);
}

TEST_P(PciLiveUpdateTest, BridgesAreCounted) {
  data = *live->preserve();
  ASSERT_TRUE(live->preserve(at(kX)));
  EXPECT_EQ(live->preserve(at(kX)).error(), Errno::Ebusy);
  EXPECT_EQ(live->preserve(at(kUpper)).error(), Errno::Einval);
  ASSERT_TRUE(live->preserve(at(kY)));
  EXPECT_TRUE(live->keeps(at(kUpper)) && live->keeps(at(kLower)) && live->keeps(at(kX)));
  EXPECT_FALSE(live->keeps(at(kOther)) || live->keeps(at(kZ)));
  live->unpreserve(at(kX));
  live->unpreserve(at(kX));
  EXPECT_TRUE(live->keeps(at(kUpper)) && live->keeps(at(kLower)));
  EXPECT_FALSE(live->keeps(at(kX)));
  live->unpreserve(at(kY));
  EXPECT_FALSE(live->keeps(at(kUpper)) || live->keeps(at(kLower)));
  live->unpreserve(data);
  EXPECT_EQ(live->preserve(at(kX)).error(), Errno::Enoent);
  EXPECT_TRUE(fabric.writes.empty());

  preserve({kX, kY, kZ});
  jump();
  std::map<u32, u32> below;
  for (u32 i = 0; i < header().bridge_slots; ++i) {
    const auto& r =
        *reinterpret_cast<abi::PciBridgeRecord*>(slot(header().bridge_chain, abi::kPciBridgeSchema.size, i).data());
    below[r.bdf] = r.functions;
  }
  EXPECT_EQ(below, (std::map<u32, u32>{{kUpper, 2}, {kLower, 2}, {kOther, 1}}));
}

TEST_P(PciLiveUpdateTest, EveryFailingAllocationIsUndone) {
  const auto state = [&] {
    handover.heap().trim();
    return std::pair(handover.frames().totals(), handover.heap().bytes_in_use());
  };
  const auto before = state();
  for (u64 n = 1, step = 0; step < 2; ++n) {
    ASSERT_LT(n, 100u);
    handover.machine.counting.allocations = 0;
    handover.machine.counting.fail_at = n;
    const auto preserved = live->preserve();
    const Result<void> added = preserved ? live->preserve(at(kX)) : fail(preserved.error());
    handover.machine.counting.fail_at = 0;
    if (added) {
      EXPECT_GT(n, 5u);
      live->unpreserve(at(kX));
      step = 2;
    } else {
      EXPECT_EQ(added.error(), Errno::Enomem);
      EXPECT_FALSE(live->keeps(at(kX)) || live->keeps(at(kLower)) || live->keeps(at(kUpper))) << n;
    }
    if (preserved) live->unpreserve(*preserved);
    ASSERT_EQ(state(), before) << n;
  }
}

// Room for slots comes in steps, so that the second bridge may fail where the first one did not.
TEST_P(PciLiveUpdateTest, BridgesCountedBeforeAFailureAreGivenBack) {
  Node& third = fabric.bridge(nullptr, 6, 0x2006, 5, 6);
  Node& fourth = fabric.bridge(&third, 0, 0x2007, 6, 6);
  fabric.add(&fourth, 0, 0, 0x1006);
  destroy();
  boot();
  preserve({kX, kZ});
  u64 n = 1;
  for (;; ++n) {
    ASSERT_LT(n, 100u);
    const Result<void> added = handover.machine.counting.failing(n, [&] { return live->preserve(at(0x0600)); });
    if (added) break;
    EXPECT_FALSE(live->keeps(at(0x0600)) || live->keeps(at(0x0500)) || live->keeps(at(0x0030))) << n;
  }
  EXPECT_GT(n, 1u);
  EXPECT_TRUE(live->keeps(at(0x0500)) && live->keeps(at(0x0030)));
}

TEST_P(PciLiveUpdateTest, WhatChangedSincePreserveIsNotFrozen) {
  const auto refused = [&](Node& node, u16 offset, u8 bits) {
    node.bytes[offset] ^= bits;
    const auto frozen = live->freeze(data);
    node.bytes[offset] ^= bits;
    EXPECT_TRUE(live->freeze(data));
    return !frozen && frozen.error() == Errno::Eio;
  };
  preserve({kX});
  EXPECT_TRUE(refused(x, 0x02, 1)) << "another function";
  EXPECT_TRUE(refused(x, 0x12, 1)) << "BAR";
  EXPECT_TRUE(refused(lower, 0x19, 1)) << "bus number";
  EXPECT_TRUE(refused(upper, 0x1a, 1)) << "bus number";
  EXPECT_TRUE(refused(upper, 0x00, 1)) << "another bridge";
  EXPECT_FALSE(refused(x, 0x3c, 1)) << "a register that the program writes to";
}

// Whatever is there instead is not touched, and neither is anything below it; what is as it was goes on.
TEST_P(PciLiveUpdateTest, WhatIsNotAsRecordedIsRefused) {
  preserve({kX, kZ, kW});
  jump();
  struct Case {
    const char* what;
    Node* node;
    u16 offset;
    u8 bits;
    Ids refused;
    bool seen_by_version_1 = true;
  };
  const Case cases[] = {
      {"device", &x, 0x02, 0x80, {kX}},
      {"vendor", &z, 0x00, 0x80, {kZ}},
      {"revision", &w, 0x08, 0x80, {kW}},
      {"class", &w, 0x0a, 0x80, {kW}},
      {"subsystem", &w, 0x2e, 0x01, {kW}, false},
      {"BAR", &x, 0x11, 0x40, {kX}},
      {"upper half of a BAR", &z, 0x14, 0x01, {kZ}},
      {"bridge", &other, 0x02, 0x80, {kOther, kZ}},
      {"bridge above a bridge", &upper, 0x02, 0x80, {kUpper, kLower, kX, kY}},
      {"window", &other, 0x20, 0x10, {kOther, kZ}},
      {"prefetchable window", &lower, 0x26, 0x10, {kLower, kX, kY}},
      {"ports", &lower, 0x1d, 0x10, {kLower, kX, kY}},
      {"highest bus number", &upper, 0x1a, 0x04, {kUpper, kLower, kX, kY, kOther, kZ}},
      {"primary bus number", &other, 0x18, 0x01, {kOther, kZ}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    c.node->bytes[c.offset] ^= c.bits;
    find_again();
    c.node->bytes[c.offset] ^= c.bits;
    if (!c.seen_by_version_1 && GetParam() == 1) {
      EXPECT_EQ(in(Inherited::Refused), Ids{});
      continue;
    }
    Ids left_alone = in(Inherited::Refused);
    // 5-7 overlaps `other`, which is then refused as impossible or as a stranger; both leave it alone.
    if (c.node == &upper && c.offset == 0x1a) left_alone.insert({kOther, kZ});
    EXPECT_EQ(left_alone, c.refused);
    Ids untouched{kX, kZ, kW, kUpper, kLower, kOther};
    for (u16 bdf : untouched) EXPECT_FALSE(written().contains(bdf)) << std::hex << bdf;
    EXPECT_EQ(written().contains(kY), !c.refused.contains(kY));
    EXPECT_GE(live->report().refused, 1u);
  }
}

// A function at work that answers to another bus number now is not taken for a new one.
TEST_P(PciLiveUpdateTest, BelowABridgeWithOtherNumbersNothingIsTouched) {
  preserve({kX});
  jump();
  lower.bytes[0x19] = lower.bytes[0x1a] = 3;
  find_everything();
  ASSERT_NE(bus->find({0, 0x0300}), nullptr);
  EXPECT_EQ(at(0x0300).inherited(), Inherited::Refused);
  EXPECT_EQ(at(0x0301).inherited(), Inherited::Refused);
  EXPECT_EQ(written(), (Ids{kOther, kZ, kW}));
  EXPECT_EQ(live->report().missing, 1u);
  EXPECT_TRUE(said("was preserved and is not there"));
  EXPECT_EQ(live->preserve(at(0x0300)).error(), Errno::Enoent);
  ASSERT_TRUE(live->preserve());
  EXPECT_EQ(live->preserve(at(0x0300)).error(), Errno::Eio);
}

TEST_P(PciLiveUpdateTest, BusNumbersOnTheWayAreGivenToNobody) {
  // At lower and at higher device numbers than the bridges at work: without numbers, and with theirs.
  Node& bare = fabric.bridge(nullptr, 0, 0x2003, 0, 0);
  Node& late = fabric.bridge(nullptr, 8, 0x2005, 0, 0);
  preserve({kX, kZ});
  jump();
  Node& thief = fabric.bridge(nullptr, 7, 0x2004, 2, 6);
  Node& behind = fabric.add(&thief, 0, 0, 0x1005);
  find_everything();
  EXPECT_EQ(in(Inherited::Preserved), (Ids{kX, kZ, kUpper, kLower, kOther}));
  EXPECT_EQ(in(Inherited::Refused), Ids{});
  EXPECT_EQ(written(), (Ids{kY, kW}));
  EXPECT_EQ(bare.bytes[0x19], 5);
  EXPECT_EQ(thief.bytes[0x19], 6);
  EXPECT_EQ(late.bytes[0x19], 7);
  EXPECT_EQ(bus->find({0, 0x0600})->device(), 0x1005);
  EXPECT_GT(fabric.writes_to(behind), 0u);
  EXPECT_TRUE(said("claims buses 2-6"));
}

// Nobody is below them any more, but the IOMMU's entries still are of those numbers.
TEST_P(PciLiveUpdateTest, BusNumbersOfWhatIsGoneStayTaken) {
  preserve({kX, kZ});
  jump();
  fabric.gone = {&other, &z};
  Node& bare = fabric.bridge(nullptr, 8, 0x2003, 0, 0);
  find_everything();
  EXPECT_EQ(bare.bytes[0x19], 5);
  EXPECT_EQ(live->report().missing, 2u);
  EXPECT_EQ(in(Inherited::Preserved), (Ids{kX, kUpper, kLower}));
}

TEST_P(PciLiveUpdateTest, BridgesBelowOneAtWorkGetNumbersItHasLeft) {
  Node& bare = fabric.bridge(&upper, 4, 0x2003, 0, 0);
  upper.set<u16>(0x42, 0x0052);  // an upstream port of a switch: many devices below it
  preserve({});
  live->unpreserve(data);
  destroy();
  bare.bytes[0x19] = bare.bytes[0x1a] = 0;
  boot();
  bare.bytes[0x19] = bare.bytes[0x1a] = 0;
  preserve({kX});
  jump();
  find_everything();
  EXPECT_EQ(bare.bytes[0x19], 3) << "2 is on the way to X, 4 is not above it";
  EXPECT_EQ(bare.bytes[0x1a], 3);
  EXPECT_EQ(fabric.writes_to(upper), 0u);
}

// Records of PCI and of the IOMMU have to say the same; what only one of them names is at work and not believed.
TEST_P(PciLiveUpdateTest, BothRecordsMustAgree) {
  preserve({kX, kZ});
  jump();
  at_work = {kX, kW};
  find_everything();
  EXPECT_EQ(in(Inherited::Preserved), (Ids{kX, kUpper, kLower, kOther}));
  EXPECT_EQ(in(Inherited::Refused), (Ids{kZ, kW}));
  EXPECT_EQ(written(), Ids{kY});
}

TEST_P(PciLiveUpdateTest, AnImageOfAnUnknownVersionIsNotGuessedAt) {
  preserve({kX, kZ});
  jump();
  header().version = 3;
  abi::seal(abi::kPciHeaderSchema, std::as_writable_bytes(std::span(&header(), 1)));
  find_everything();
  EXPECT_EQ(loaded.error(), Errno::Eproto);
  EXPECT_EQ(in(Inherited::Preserved), Ids{});
  EXPECT_EQ(in(Inherited::Refused), (Ids{kX, kZ, kUpper, kLower, kOther})) << "stopped, and untouched until then";
  EXPECT_EQ(written(), (Ids{kY, kW}));
}

// Sizes cannot be compared with the device: a program would be given registers of somebody else.
TEST_P(PciLiveUpdateTest, SizesThatReachOverSomethingElseAreRefused) {
  preserve({kX, kZ, kW});
  jump();
  const auto image = copy_image();
  const auto refused = [&](u16 bdf, unsigned bar, u64 size) {
    forge(bdf, [&](auto& r) { r.bar_size[bar] = size; });
    find_again();
    put_back(image);
    return in(Inherited::Refused);
  };
  EXPECT_EQ(refused(kX, 0, 0x8000), Ids{kX}) << "over Y";
  EXPECT_EQ(refused(kZ, 0, 0x20'0000), Ids{kZ}) << "beyond the bridge's window";
  EXPECT_EQ(refused(kW, 2, 0x200'0000), Ids{kW}) << "not where one of that size can be";
  reserved = 0xfd00'1800;
  EXPECT_EQ(refused(kW, 2, 0x2000), Ids{kW}) << "over registers of a unit";
  reserved = 0;
  EXPECT_EQ(refused(kW, 2, 0x2000), Ids{}) << "this lie harms nobody";
  forge(kW, [&](auto& r) { r.bar_size[2] = 0x1800; });
  find_again();
  EXPECT_EQ(in(Inherited::Refused), Ids{kW});
  put_back(image);
  find_again();
  EXPECT_EQ(in(Inherited::Refused), Ids{});
}

TEST_P(PciLiveUpdateTest, RecordsThatContradictEachOther) {
  preserve({kX, kZ, kW});
  jump();
  const auto image = copy_image();
  struct Case {
    const char* what;
    std::function<void()> tamper;
    Ids preserved;
  };
  const Ids all{kX, kZ, kW, kUpper, kLower, kOther};
  const auto without = [&](const Ids& lost) {
    Ids rest = all;
    for (u16 bdf : lost) rest.erase(bdf);
    return rest;
  };
  const Case cases[] = {
      {"no such bridge", [&] { forge(kX, [](auto& r) { r.bridge = 77; }); }, without({kX})},
      {"another bridge", [&] { forge(kZ, [](auto& r) { r.bridge = 0; }); }, without({kZ})},
      {"on a root bus", [&] { forge(kZ, [](auto& r) { r.bridge = abi::kPciNoBridge; }); }, without({kZ})},
      {"ARI without a port", [&] { forge(kW, [](auto& r) { r.flags = 1; }); }, without({kW})},
      {"ARI that is not forwarded", [&] { forge(kX, [](auto& r) { r.flags = 1; }); }, without({kX})},
      {"misaligned BAR", [&] { forge(kX, [](auto& r) { r.bar_address[0] += 0x1000; }); }, without({kX})},
      {"address without a BAR", [&] { forge(kX, [](auto& r) { r.bar_address[3] = 0x1000; }); }, without({kX})},
      {"BAR that wraps",
       [&] { forge(kX, [](auto& r) { r.bar_address[3] = ~u64{0xfff}, r.bar_size[3] = u64{1} << 52; }); },
       without({kX})},
      {"two of one id", [&] { forge(kZ, [](auto& r) { r.bdf = kW, r.bridge = abi::kPciNoBridge; }); },
       without({kZ, kW})},
      {"numbers that shrink", [&] { forge_bridge(kLower, [](auto& r) { r.secondary = 1; }); }, without({kLower, kX})},
      {"no numbers", [&] { forge_bridge(kOther, [](auto& r) { r.subordinate = 3; }); }, without({kOther, kZ})},
      {"numbers that overlap", [&] { forge_bridge(kOther, [](auto& r) { r.secondary = 3; }); },
       without({kUpper, kLower, kOther, kX, kZ})},
      {"numbers outside those above", [&] { forge_bridge(kLower, [](auto& r) { r.subordinate = 9; }); },
       without({kUpper, kLower, kOther, kX, kZ})},
      {"above itself", [&] { forge_bridge(kUpper, [](auto& r) { r.bridge = 0; }); }, without({kUpper, kLower, kX})},
      {"no such bridge above", [&] { forge_bridge(kLower, [](auto& r) { r.bridge = 9; }); }, without({kLower, kX})},
      {"counts too few", [&] { forge_bridge(kUpper, [](auto& r) { r.functions = 1; }); }, all},
      {"another segment", [&] { forge_bridge(kOther, [](auto& r) { r.segment = 1; }); }, without({kOther, kZ})},
      {"another generation", [&] { forge(kW, [](auto& r) { ++r.generation; }); }, without({kW})},
      {"chains swapped",
       [&] {
         std::swap(header().function_chain, header().bridge_chain);
         abi::seal(abi::kPciHeaderSchema, std::as_writable_bytes(std::span(&header(), 1)));
       },
       {}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    c.tamper();
    find_again();
    put_back(image);
    EXPECT_EQ(in(Inherited::Preserved), c.preserved);
    for (u16 bdf : all) EXPECT_FALSE(written().contains(bdf)) << std::hex << bdf;
  }
  find_again();
  EXPECT_EQ(in(Inherited::Preserved), all);
}

TEST_P(PciLiveUpdateTest, MoreFunctionsThanABridgeCountedAreNotBelieved) {
  preserve({kX, kY, kZ});
  jump();
  forge_bridge(kUpper, [](auto& r) { r.functions = 1; });
  find_everything();
  EXPECT_EQ(in(Inherited::Preserved), (Ids{kZ, kOther}));
  EXPECT_EQ(written(), Ids{kW});
}

TEST_P(PciLiveUpdateTest, EveryBitMatters) {
  preserve({kX, kZ, kW});
  jump();
  const auto believed = [&] {
    std::pair<Ids, Ids> found;
    const auto records = read_pci_records(handover.kho(), data);
    if (!records) return found;
    for (const IncomingFunction& f : (*records)->functions) {
      if (f.state == RecordState::Valid) found.first.insert(f.source().bdf);
    }
    for (const IncomingBridge& b : (*records)->bridges) {
      if (b.state == RecordState::Valid) found.second.insert(b.source().bdf);
    }
    return found;
  };
  const auto whole = believed();
  ASSERT_EQ(whole, (std::pair<Ids, Ids>{{kX, kZ, kW}, {kUpper, kLower, kOther}}));
  const u32 function_bytes = abi::pci_schema(abi::PciRecordKind::Function, GetParam()).size;
  std::vector<std::span<std::byte>> parts{slot(data - sizeof(abi::RecordBlock), sizeof(abi::PciHeader), 0)};
  for (u64 chain : {header().function_chain, header().bridge_chain}) {
    parts.push_back(slot(chain - sizeof(abi::RecordBlock), sizeof(abi::RecordBlock), 0));
  }
  for (u32 i = 0; i < 3; ++i) {
    parts.push_back(slot(header().function_chain, function_bytes, i));
    parts.push_back(slot(header().bridge_chain, abi::kPciBridgeSchema.size, i));
  }
  u64 flips = 0;
  for (const auto& part : parts) {
    for (usize bit = 0; bit < part.size() * 8; ++bit, ++flips) {
      part[bit / 8] ^= std::byte(1u << bit % 8);
      const auto left = believed();
      part[bit / 8] ^= std::byte(1u << bit % 8);
      ASSERT_NE(left, whole) << "part " << &part - parts.data() << ", bit " << bit;
      ASSERT_TRUE(std::includes(whole.first.begin(), whole.first.end(), left.first.begin(), left.first.end()));
    }
  }
  EXPECT_GT(flips, 6000u);
  EXPECT_EQ(believed(), whole);
}

// The next kernel's records of what nobody retrieved are made of what this one was told.
TEST_P(PciLiveUpdateTest, ChainsOfUpdates) {
  preserve({kX, kZ});
  for (int hop = 0; hop < 3; ++hop) {
    SCOPED_TRACE(hop);
    jump();
    find_everything();
    EXPECT_EQ(in(Inherited::Preserved), (Ids{kX, kZ, kUpper, kLower, kOther}));
    fabric.writes.clear();
    preserve({kX, kZ});
  }
}

// --- alternative routing id -----------------------------------------------------------------------------------------

class PciAriTest : public PciLiveUpdateTest {
 protected:
  void ari(Node& n, u8 next) {
    n.set<u32>(0x100, 0x0001'000e);
    n.set<u16>(0x104, static_cast<u16>(next << 8));
  }
  // The port of Z can forward, and Z's device has functions 0, 8 and 0x80.
  void make_ari() {
    other.set<u32>(0x64, 0x20);
    other.allow(0x68, 0x3f, 2);
    ari(z, 8);
    ari(eighth, 0x80);
    ari(far, 0);
    eighth.bar(0, 0xfe41'0000, 0x1000);
    far.bar(0, 0xfe42'0000, 0x1000);
    eighth.set<u16>(4, 6);
  }
  Node& eighth = fabric.add(&other, 1, 0, 0x1008);
  Node& far = fabric.add(&other, 0x10, 0, 0x1080);
};

INSTANTIATE_TEST_SUITE_P(Versions, PciAriTest, testing::Values(1u, 2u));

TEST_P(PciAriTest, FunctionsBeyondTheEighthAreFoundAndCrossTheJump) {
  make_ari();
  destroy();
  boot();
  EXPECT_EQ(other.get<u16>(0x68), 0x20) << "the port was asked to forward";
  ASSERT_NE(bus->find({0, 0x0408}), nullptr);
  ASSERT_NE(bus->find({0, 0x0480}), nullptr);
  EXPECT_TRUE(at(0x0408).ari());
  EXPECT_FALSE(at(kZ).ari());
  preserve({0x0408});
  jump();
  find_everything();
  EXPECT_EQ(in(Inherited::Preserved), (Ids{0x0408, kOther}));
  EXPECT_EQ(fabric.writes_to(eighth), 0u);
  EXPECT_EQ(fabric.writes_to(other), 0u) << "forwarding is inherited";
  EXPECT_GT(fabric.writes_to(far), 0u);
  // A port that stopped: function 8 cannot be what it was.
  other.set<u16>(0x68, 0);
  find_again();
  EXPECT_EQ(at(kOther).inherited(), Inherited::Refused);
  EXPECT_EQ(fabric.writes_to(other), 0u);
  EXPECT_EQ(bus->find({0, 0x0408}), nullptr);
  EXPECT_EQ(live->report().missing, 1u);
}

TEST_P(PciAriTest, PortsThatCannotForwardAreNotAsked) {
  make_ari();
  other.set<u32>(0x64, 0);
  destroy();
  boot();
  EXPECT_EQ(other.get<u16>(0x68), 0);
  EXPECT_EQ(bus->find({0, 0x0408}), nullptr);
}

// What is at work below a port keeps its ids: they would be others with ARI.
TEST_P(PciAriTest, APortAboveSomethingAtWorkIsNotChanged) {
  preserve({kZ});
  jump();
  make_ari();
  find_everything();
  EXPECT_EQ(other.get<u16>(0x68), 0);
  EXPECT_EQ(bus->find({0, 0x0408}), nullptr);
}

TEST_P(PciAriTest, ChainsThatGoBackEnd) {
  make_ari();
  ari(far, 8);
  destroy();
  handover.machine.lines.clear();
  boot();
  EXPECT_NE(bus->find({0, 0x0480}), nullptr);
  EXPECT_TRUE(said("as the next one, which cannot be"));
  ari(eighth, 0x44);  // not there
  destroy();
  handover.machine.lines.clear();
  boot();
  EXPECT_EQ(bus->find({0, 0x0480}), nullptr);
  EXPECT_TRUE(said("names function 68 as the next one"));
}

}  // namespace
}  // namespace perdure::pci
