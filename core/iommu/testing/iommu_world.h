// A machine with two units and functions behind them, and kernels that follow one another on it.
#pragma once
#include <gtest/gtest.h>

#include "core/iommu/live_update.h"
#include "core/iommu/testing/fake_unit.h"
#include "tests/support/handover.h"

namespace perdure::testing {

class TestOwner final : public DmaOwner {};

class IommuWorld {
 public:
  static constexpr Phys kUnitA{0xfed90000};
  static constexpr Phys kUnitB{0xfed91000};
  static constexpr u64 kRam = u64{24} << 20;
  static constexpr SourceId a0{0, 0x0100}, a1{0, 0x0200}, a2{0, 0x0300}, b0{0, 0x8000}, b1{0, 0x8100};

  explicit IommuWorld(u32 version = abi::kIommuReadMax) : write_version(version), handover(kRam) {
    hw_a.base = kUnitA;
    hw_b.base = kUnitB;
    hw_a.log = hw_b.log = bus.log = &event_log;
    for (SourceId s : {a0, a1, a2, b0, b1}) bus.on.insert(s);
    boot_iommu(0);
  }
  ~IommuWorld() { shut_down(); }

  Heap& heap() { return handover.heap(); }
  Kho& kho() { return handover.kho(); }
  FrameAllocator& frames() { return handover.frames(); }
  IommuDevice& device(SourceId source) { return *iommu->find(source); }
  Group& group(SourceId source) { return device(source).group(); }
  IommuUnit& unit(Phys base) { return *iommu->find_unit(base); }

  Ref<TestOwner> owner() { return *heap().make_ref<TestOwner>(); }
  Ref<PagingDomain> domain(SourceId source = a0) { return *iommu->domain_alloc(device(source)); }
  // Memory of a program that survives: 2^order frames, preserved as its file's handler would.
  Phys memory(unsigned order = 0, bool preserve = true) {
    const Phys at = *frames().alloc_zeroed(order);
    if (preserve) {
      EXPECT_TRUE(kho().preserve(at, order));
    }
    return at;
  }
  void attach(SourceId source, Ref<TestOwner> who, Ref<PagingDomain> domain) {
    ASSERT_TRUE(group(source).claim(who));
    ASSERT_TRUE(group(source).attach(*who, domain));
  }

  // --- one update ---------------------------------------------------------------------------------------------
  u64 data = 0;
  void begin() {
    const Result<u64> at = live->preserve();
    ASSERT_TRUE(at);
    data = *at;
  }
  // Freezes and jumps; the next kernel is up to the point where programs come back.
  void jump() {
    const Result<u64> frozen = live->freeze(data);
    ASSERT_TRUE(frozen);
    ASSERT_TRUE(live->quiesce());
    jump_as_is();
  }
  // `tamper`: what happens to the image in between, done by nobody in particular.
  void jump_as_is(const std::function<void(std::byte* header)>& tamper = {}) {
    if (tamper) tamper(handover.machine.virt(Phys(data)));
    jump_memory();
    boot_iommu(data);
  }
  // To where memory is the next kernel's, and nothing else is.
  void jump_memory() {
    live.forget();
    iommu.forget();
    ASSERT_TRUE(handover.jump());
  }
  void boot_iommu(u64 incoming, bool commit = true) {
    events.clear();
    handover.machine.lines.clear();
    iommu.make(heap(), kho());
    iommu->set_bus_master_switch(bus);
    live.make(*iommu, kho(), write_version);
    load_result = incoming ? live->load(incoming) : Result<void>();
    add_units();
    add_devices();
    if (commit) live->commit();
  }
  void add_units() {
    for (FakeHardware* hw : {&hw_a, &hw_b}) {
      Owned<FakeUnit> unit = std::move(*heap().make<FakeUnit>(*hw, heap(), kho()));
      EXPECT_TRUE(unit->start(live->unit_record(hw->base)));
      EXPECT_TRUE(iommu->add_unit(std::move(unit)));
    }
  }
  void add_devices() {
    for (SourceId s : {a0, a1, a2, b0, b1}) {
      if (absent.contains(s)) continue;
      EXPECT_TRUE(iommu->add_device(s, unit(s < b0 ? kUnitA : kUnitB), aliases[s]));
    }
  }
  // An orderly end of this kernel's IOMMU core.
  void shut_down() {
    live.destroy();
    iommu.destroy();
  }

  bool logged(std::string_view what) const {
    for (const std::string& line : handover.machine.lines) {
      if (line.find(what) != std::string::npos) return true;
    }
    return false;
  }
  // Where the event is in the log, from `from` on; the test fails when it is not there.
  usize event(const std::string& what, usize from = 0) const {
    for (usize i = from; i < events.size(); ++i) {
      if (events[i] == what) return i;
    }
    ADD_FAILURE() << "no event: " << what;
    return events.size();
  }
  u64 count(const std::string& prefix) const {
    u64 n = 0;
    for (const std::string& e : events) n += e.starts_with(prefix) ? 1 : 0;
    return n;
  }

  u32 write_version;
  EventLog event_log;
  std::vector<std::string>& events = event_log.lines;
  FakeHardware hw_a, hw_b;
  FakeBus bus;
  std::map<SourceId, std::vector<SourceId>> aliases;
  std::set<SourceId> absent;
  Result<void> load_result;
  test::Handover handover;
  test::Forgettable<Iommu> iommu;
  test::Forgettable<IommuLiveUpdate> live;
};

inline constexpr u64 kSession = 77, kToken = 5;

// One owner, its domain with a page at IOVA 0x10000 and one at 2 MiB, on the named functions.
struct Workload {
  Ref<TestOwner> who;
  Ref<PagingDomain> domain;
  Phys memory;
  u32 index = ~0u;
};

inline Workload set_up(IommuWorld& w, std::initializer_list<SourceId> functions) {
  Workload s;
  s.who = w.owner();
  s.domain = w.domain(*functions.begin());
  for (SourceId f : functions) w.attach(f, s.who, s.domain);
  s.memory = w.memory(1);
  EXPECT_TRUE(s.domain->map(Iova(0x10000), s.memory, kPageSize, Access::ReadWrite));
  EXPECT_TRUE(s.domain->map(Iova(kHugePageSize), s.memory + kPageSize, kPageSize, Access::Read));
  return s;
}
inline void preserve(IommuWorld& w, Workload& s, std::initializer_list<SourceId> functions, u64 token = kToken) {
  const Result<u32> index = w.live->preserve_domain(*s.domain, kSession);
  ASSERT_TRUE(index);
  s.index = *index;
  for (SourceId f : functions) ASSERT_TRUE(w.live->preserve_device(w.device(f), *s.who, kSession, token));
}
// The new kernel's table with the same contents.
inline Ref<PagingDomain> rebuilt(IommuWorld& w, SourceId source, Phys memory) {
  auto d = w.domain(source);
  EXPECT_TRUE(d->map(Iova(0x10000), memory, kPageSize, Access::ReadWrite));
  EXPECT_TRUE(d->map(Iova(kHugePageSize), memory + kPageSize, kPageSize, Access::Read));
  return d;
}

// The old kernel's objects die with it: no reference of a test may outlive the jump.
inline void forget(Workload& s) {
  static_cast<void>(s.who.release());
  static_cast<void>(s.domain.release());
}

class IommuTest : public ::testing::Test {
 protected:
  static constexpr SourceId a0 = IommuWorld::a0, a1 = IommuWorld::a1, a2 = IommuWorld::a2, b0 = IommuWorld::b0,
                            b1 = IommuWorld::b1;
  static constexpr Phys kUnitA = IommuWorld::kUnitA, kUnitB = IommuWorld::kUnitB;
  IommuWorld w;
};

}  // namespace perdure::testing
