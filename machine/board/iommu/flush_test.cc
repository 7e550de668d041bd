// Which flush drops what, cache by cache, under the sticky policy: what is not flushed stays.
#include "machine/board/iommu/iommu_fixture.h"

namespace perdure::board::testing {
namespace {

// --- context cache -----------------------------------------------------------------------------------------------

// Functions 00:02.0..7 and 03:00.0; the first eight in domain 5, the last in domain 6.
class ContextCache : public IommuTest {
 protected:
  std::vector<u16> sources{0x10, 0x11, 0x12, 0x14, 0x17, 0x0300};

  // Every entry is cached, then made to name another table under another domain id, so that only the context cache
  // decides who sees it.
  void fill(const IommuModelConfig& c = {}) {
    start_translating(c);
    start_queue();
    const u64 old5 = page();
    const u64 old6 = page();
    const u64 fresh = page();
    map(old5, 0x1000, 0xA000);
    map(old6, 0x1000, 0xA000);
    map(fresh, 0x1000, 0xB000);
    for (u16 s : sources) {
      set_context(s, s < 0x100 ? old5 : old6, s < 0x100 ? 5 : 6);
      EXPECT_EQ(read(s, 0x1000).phys, 0xA000u);
    }
    for (u16 s : sources) set_context(s, fresh, 50);
  }
  std::vector<u16> refreshed() {
    std::vector<u16> out;
    for (u16 s : sources) {
      if (read(s, 0x1000).phys == 0xB000) out.push_back(s);
    }
    return out;
  }
  static u64 device(u16 did, u16 sid, u64 fm) { return 0x31 | u64{did} << 16 | u64{sid} << 32 | fm << 48; }
};

TEST_F(ContextCache, StaysWithoutFlush) {
  fill();
  EXPECT_TRUE(refreshed().empty());
  EXPECT_TRUE(flush_iotlb_global());
  EXPECT_TRUE(refreshed().empty());  // an IOTLB flush leaves contexts alone
}

TEST_F(ContextCache, Global) {
  fill();
  EXPECT_TRUE(flush_context_global());
  EXPECT_EQ(refreshed(), sources);
}

TEST_F(ContextCache, Domain) {
  fill();
  EXPECT_TRUE(submit({{0x21 | 6 << 16, 0}}));
  EXPECT_EQ(refreshed(), (std::vector<u16>{0x0300}));
}

TEST_F(ContextCache, DeviceAndFunctionMask) {
  const std::vector<u16> expected[4] = {{0x10}, {0x10, 0x14}, {0x10, 0x12, 0x14}, {0x10, 0x11, 0x12, 0x14, 0x17}};
  for (u64 fm = 0; fm < 4; ++fm) {
    fill();
    EXPECT_TRUE(submit({{device(5, 0x10, fm), 0}}));
    EXPECT_EQ(refreshed(), expected[fm]) << "FM " << fm;
  }
}

TEST_F(ContextCache, DeviceNeedsTheDomainItIsTaggedWith) {
  fill();
  EXPECT_TRUE(submit({{device(6, 0x10, 3), 0}}));
  EXPECT_TRUE(refreshed().empty());
}

TEST_F(ContextCache, RegisterBased) {
  const auto ccmd = [&](u64 value) {
    model->write(0x28, 8, value | u64{1} << 63);
    return model->read(0x28, 8);
  };
  fill();
  gcmd(kQie, false);
  EXPECT_EQ(ccmd(u64{3} << 61 | u64{1} << 32 | u64{0x10} << 16 | 5) >> 59, 3u << 2 | 3u);  // ICC clear, CAIG 3
  EXPECT_EQ(refreshed(), (std::vector<u16>{0x10, 0x14}));
  EXPECT_EQ(ccmd(u64{2} << 61 | 6) >> 59, 2u << 2 | 2u);
  EXPECT_EQ(refreshed(), (std::vector<u16>{0x10, 0x14, 0x0300}));
  model->write(0x28, 8, u64{1} << 59);  // CAIG is the unit's
  EXPECT_EQ((model->read(0x28, 8) >> 59) & 3, 2u);
  EXPECT_EQ(ccmd(u64{1} << 61) >> 59, 1u << 2 | 1u);
  EXPECT_EQ(refreshed(), sources);
}

TEST_F(ContextCache, RegisterInHalvesActsWithTheHigh) {
  fill();
  gcmd(kQie, false);
  model->write(0x28, 4, u64{0x10} << 16 | 5);
  EXPECT_TRUE(refreshed().empty());
  model->write(0x2C, 4, u64{1} << 31 | u64{3} << 29);
  EXPECT_EQ(refreshed(), (std::vector<u16>{0x10}));
}

// --- IOTLB ---------------------------------------------------------------------------------------------------------

class Iotlb : public IommuTest {
 protected:
  // Domain 5: 4 KiB pages 0..9 and one far away, a 2 MiB page, a 1 GiB page; domain 6: page 0.
  struct Spot {
    u16 source;
    u64 iova;
    unsigned level;
  };
  std::vector<Spot> spots;
  u64 top5 = 0, top6 = 0;

  u64 target(const Spot& s, u64 generation) const {
    return generation << (12 + 9 * (s.level - 1));  // aligned as a page of that size must be
  }
  void place(u64 generation) {
    for (const Spot& s : spots) {
      set_entry(s.source == kDevice ? top5 : top6, 4, s.iova, s.level,
                target(s, generation) | 3 | (s.level > 1 ? 0x80 : 0));
    }
  }
  void fill(const IommuModelConfig& c = {}) {
    start_translating(c);
    start_queue();
    top5 = page();
    top6 = page();
    set_context(kDevice, top5, 5);
    set_context(kSibling, top6, 6);
    spots.clear();
    for (u64 i = 0; i < 10; ++i) spots.push_back({kDevice, i << 12, 1});
    spots.push_back({kDevice, u64{0x105} << 12, 1});
    spots.push_back({kDevice, u64{7} << 21, 2});
    spots.push_back({kDevice, u64{5} << 30, 3});
    spots.push_back({kSibling, 0, 1});
    place(1);
    for (const Spot& s : spots) EXPECT_EQ(read(s.source, s.iova).phys, target(s, 1));
    place(2);
  }
  // Indices of what shows the new page.
  std::vector<usize> refreshed() {
    std::vector<usize> out;
    for (usize i = 0; i < spots.size(); ++i) {
      if (read(spots[i].source, spots[i].iova).phys == target(spots[i], 2)) out.push_back(i);
    }
    return out;
  }
  static std::vector<usize> range(usize first, usize end) {
    std::vector<usize> out;
    for (usize i = first; i < end; ++i) out.push_back(i);
    return out;
  }
};

TEST_F(Iotlb, StaysWithoutFlush) {
  fill();
  EXPECT_TRUE(flush_context_global());
  EXPECT_TRUE(refreshed().empty());
}

TEST_F(Iotlb, Global) {
  fill();
  EXPECT_TRUE(flush_iotlb_global());
  EXPECT_EQ(refreshed(), range(0, 14));
}

TEST_F(Iotlb, Domain) {
  fill();
  EXPECT_TRUE(flush_iotlb_domain(5));
  EXPECT_EQ(refreshed(), range(0, 13));
}

TEST_F(Iotlb, WrongDomain) {
  fill();
  EXPECT_TRUE(flush_iotlb_domain(7));
  EXPECT_TRUE(flush_pages(7, 0, 9));
  EXPECT_TRUE(refreshed().empty());
}

TEST_F(Iotlb, Pages) {
  fill();
  EXPECT_TRUE(flush_pages(5, 0x3000, 0, true));
  EXPECT_EQ(refreshed(), range(3, 4));
  EXPECT_TRUE(flush_pages(5, 0x4000, 2));
  EXPECT_EQ(refreshed(), range(3, 8));
  expect_clean();
}

TEST_F(Iotlb, PageInsideALargePage) {
  fill();
  EXPECT_TRUE(flush_pages(5, (u64{7} << 21) + 0x5000));
  EXPECT_EQ(refreshed(), range(11, 12));
  EXPECT_TRUE(flush_pages(5, (u64{5} << 30) + 0x1234'5000));
  EXPECT_EQ(refreshed(), range(11, 13));
}

TEST_F(Iotlb, LargeMaskTakesEverythingInReach) {
  fill();
  EXPECT_TRUE(flush_pages(5, 0, 18));  // 1 GiB
  EXPECT_EQ(refreshed(), range(0, 12));
}

TEST_F(Iotlb, MisalignedAddressIsAViolation) {
  fill();
  EXPECT_TRUE(flush_pages(5, 0x1000, 2));
  EXPECT_EQ(violations(ViolationKind::BadFlushAddress), 1u);
}

TEST_F(Iotlb, WithoutPsiThePageFlushTakesTheDomain) {
  IommuModelConfig c;
  c.psi = false;
  fill(c);
  EXPECT_TRUE(flush_pages(5, 0x3000));
  EXPECT_EQ(refreshed(), range(0, 13));
}

TEST_F(Iotlb, QemuPageMask8) {
  IommuModelConfig c;
  c.quirks.psi_mask8 = true;
  fill(c);
  EXPECT_TRUE(flush_pages(5, 0x5000));
  EXPECT_EQ(refreshed(), (std::vector<usize>{5, 10}));  // page 0x105 ends in 05
}

TEST_F(Iotlb, RegisterBased) {
  const auto invalidate = [&](u64 value, u64 address = 0) {
    model->write(config.iro, 8, address);
    model->write(config.iro + 8, 8, value | u64{1} << 63);
    return model->read(config.iro + 8, 8);
  };
  fill();
  gcmd(kQie, false);
  u64 after = invalidate(u64{3} << 60 | u64{5} << 32, 0x4000 | 1);
  EXPECT_EQ(after >> 63, 0u);
  EXPECT_EQ((after >> 57) & 3, 3u);
  EXPECT_EQ(refreshed(), range(4, 6));
  after = invalidate(u64{2} << 60 | u64{6} << 32);
  EXPECT_EQ((after >> 57) & 3, 2u);
  EXPECT_EQ(refreshed(), (std::vector<usize>{4, 5, 13}));
  after = invalidate(u64{2} << 60 | u64{5} << 32);
  EXPECT_EQ(refreshed(), range(0, 14));
  place(3);
  model->write(config.iro + 8, 8, u64{3} << 57);  // IAIG is the unit's
  EXPECT_EQ((model->read(config.iro + 8, 8) >> 57) & 3, 2u);
  after = invalidate(u64{1} << 60);
  EXPECT_EQ((after >> 57) & 3, 1u);
  for (const Spot& s : spots) EXPECT_EQ(read(s.source, s.iova).phys, target(s, 3));
  expect_clean();
}

TEST_F(Iotlb, PermissionIsCached) {
  start_translating();
  start_queue();
  const u64 top = page();
  set_context(kDevice, top, 5);
  map(top, 0x1000, 0xA000, kRead);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  map(top, 0x1000, 0xA000, kReadWrite);
  EXPECT_EQ(write(kDevice, 0x1000).fault, 0x5);  // upgraded without a flush
  EXPECT_TRUE(flush_pages(5, 0x1000, 0, true));
  EXPECT_TRUE(write(kDevice, 0x1000).ok());
  map(top, 0x1000, 0xA000, kRead);
  EXPECT_TRUE(write(kDevice, 0x1000).ok());  // downgraded without a flush
  EXPECT_TRUE(flush_pages(5, 0x1000, 0, true));
  EXPECT_FALSE(write(kDevice, 0x1000).ok());
  // The access that found too little permission has filled the cache as well.
  map(top, 0x2000, 0xA000, kRead);
  EXPECT_EQ(write(kDevice, 0x2000).fault, 0x5);
  map(top, 0x2000, 0xA000, kReadWrite);
  EXPECT_EQ(write(kDevice, 0x2000).fault, 0x5);
}

TEST_F(Iotlb, FpdSilencesACachedFault) {
  start_translating();
  const u64 top = page();
  set_context(kDevice, top, 5, 2, 0b11);
  map(top, 0x1000, 0xA000, kRead);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  const Translation t = write(kDevice, 0x1000);
  EXPECT_EQ(t.fault, 0x5);
  EXPECT_FALSE(t.recorded);
  EXPECT_EQ(fsts(), 0u);
}

TEST_F(Iotlb, QemuDropsAWriteToACachedReadOnlyPageSilently) {
  IommuModelConfig c;
  c.quirks.no_perm_check_on_hit = true;
  start_translating(c);
  const u64 top = page();
  set_context(kDevice, top, 5);
  map(top, 0x1000, 0xA000, kRead);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  const Translation t = write(kDevice, 0x1000);
  EXPECT_EQ(t.verdict, Verdict::Blocked);
  EXPECT_FALSE(t.recorded);
  EXPECT_EQ(fsts(), 0u);
}

// --- paging-structure caches ---------------------------------------------------------------------------------------

class Structures : public IommuTest, public ::testing::WithParamInterface<unsigned> {
 protected:
  u64 top = 0;
  static constexpr u64 kNear = 0x12'3456'7000;
  static constexpr u64 kNext = 0x12'3456'8000;  // same tables, not cached itself

  // The tables are cached by an access to kNear; then the entry of `level` is swung to a copy that says something else
  // about kNext.
  void fill(unsigned level) {
    start_translating();
    start_queue();
    top = page();
    set_context(kDevice, top, 5);
    map(top, kNear, 0xA000);
    map(top, kNext, 0xB000);
    EXPECT_EQ(read(kDevice, kNear).phys, 0xA000u);
    const u64 slot = entry_at(top, 4, kNear, level);
    put(slot, 0);
    map(top, kNear, 0xA000);
    map(top, kNext, 0xC000);
  }
};

TEST_P(Structures, StayWithIh) {
  fill(GetParam());
  EXPECT_TRUE(flush_pages(5, kNear, 0, true));
  EXPECT_TRUE(flush_pages(5, kNext, 0, true));
  EXPECT_EQ(read(kDevice, kNext).phys, 0xB000u);
}

TEST_P(Structures, GoWithoutIh) {
  fill(GetParam());
  EXPECT_TRUE(flush_pages(5, kNear));
  EXPECT_EQ(read(kDevice, kNext).phys, 0xC000u);
}

TEST_P(Structures, GoWithTheDomain) {
  fill(GetParam());
  EXPECT_TRUE(flush_iotlb_domain(6));
  EXPECT_EQ(model->statistics().structure_entries, 3u);
  EXPECT_TRUE(flush_iotlb_domain(5));
  EXPECT_EQ(model->statistics().structure_entries, 0u);
  EXPECT_EQ(read(kDevice, kNext).phys, 0xC000u);
}

TEST_P(Structures, StayWhenTheRangeIsElsewhere) {
  fill(GetParam());
  EXPECT_TRUE(flush_pages(5, kNear + (u64{1} << 39)));
  EXPECT_EQ(read(kDevice, kNext).phys, 0xB000u);
}

// A cached table carries the permissions above it.
TEST_P(Structures, KeepPermissions) {
  start_translating();
  for (u64 permission : {kRead, kWrite}) {
    top = page();
    set_context(kDevice, top, static_cast<u16>(4 + permission));
    model->drop_caches();
    map(top, kNear, 0xA000);
    map(top, kNext, 0xB000);
    const u64 slot = entry_at(top, 4, kNear, GetParam());
    put(slot, (memory.word(slot) & ~u64{3}) | permission);
    const bool reads = permission == kRead;
    EXPECT_TRUE((reads ? read(kDevice, kNear) : write(kDevice, kNear)).ok());
    EXPECT_EQ(reads ? write(kDevice, kNext).fault : read(kDevice, kNext).fault, reads ? 0x5 : 0x6);
  }
}

INSTANTIATE_TEST_SUITE_P(Level, Structures, ::testing::Values(2u, 3u, 4u));

// --- not-present caching ---------------------------------------------------------------------------------------------

class CachingMode : public IommuTest {
 protected:
  void begin(bool cm) {
    IommuModelConfig c;
    c.caching_mode = cm;
    start_translating(c);
    start_queue();
  }
};

TEST_F(CachingMode, WithoutItNothingAbsentIsRemembered) {
  begin(false);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x1);
  const u64 top = page();
  context_at(kDevice);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x2);
  set_context(kDevice, top, 5);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x6);
  map(top, 0x1000, 0xA000);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
}

TEST_F(CachingMode, ReservedBitsAreRememberedOnlyWithIt) {
  for (bool cm : {false, true}) {
    begin(cm);
    const u64 top = page();
    map(top, 0x1000, 0xA000);
    set_context(kDevice, top, 5);
    set_context(kOtherBus, top, 5);
    const u64 slot = root + 3 * 16;
    put(context_at(kDevice) + 8, u64{1} << 40);
    put(slot, memory.word(slot) | 2);
    EXPECT_EQ(read(kDevice, 0x1000).fault, 0xB);
    EXPECT_EQ(read(kOtherBus, 0x1000).fault, 0xA);
    put(slot, memory.word(slot) & ~u64{2});
    set_context(kDevice, top, 5);
    EXPECT_EQ(read(kDevice, 0x1000).ok(), !cm);
    EXPECT_EQ(read(kOtherBus, 0x1000).ok(), !cm);
    EXPECT_TRUE(flush_context_global());
    EXPECT_TRUE(read(kDevice, 0x1000).ok());
    EXPECT_TRUE(read(kOtherBus, 0x1000).ok());
  }
}

TEST_F(CachingMode, RootNeedsAGlobalFlush) {
  begin(true);
  const u64 top = page();
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x1);
  map(top, 0x1000, 0xA000);
  set_context(kDevice, top, 5);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x1);
  EXPECT_TRUE(submit({{0x31 | u64{kDevice} << 32, 0}}));
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x1);
  EXPECT_TRUE(submit({{0x21, 0}}));  // domain 0
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x1);
  EXPECT_TRUE(flush_context_global());
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
}

TEST_F(CachingMode, ContextNeedsADeviceFlushOfDomainZero) {
  begin(true);
  const u64 top = page();
  map(top, 0x1000, 0xA000);
  context_at(kDevice);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x2);
  set_context(kDevice, top, 5);
  EXPECT_TRUE(submit({{0x31 | 5 << 16 | u64{kDevice} << 32, 0}}));
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x2);  // tagged 0, not 5
  EXPECT_TRUE(submit({{0x31 | u64{kDevice} << 32, 0}}));
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
}

TEST_F(CachingMode, LeafNeedsAPageFlush) {
  begin(true);
  const u64 top = page();
  set_context(kDevice, top, 5);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x6);
  EXPECT_EQ(write(kDevice, 0x1000).fault, 0x5);
  map(top, 0x1000, 0xA000);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x6);
  EXPECT_TRUE(flush_pages(5, 0x2000, 0, true));
  EXPECT_EQ(write(kDevice, 0x1000).fault, 0x5);
  EXPECT_TRUE(flush_pages(5, 0x1000, 0, true));
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
}

TEST_F(CachingMode, DomainZeroIsReserved) {
  begin(true);
  set_context(kDevice, page(), 0);
  read(kDevice, 0);
  EXPECT_EQ(violations(ViolationKind::DidReserved), 1u);
}

// --- write buffer
// ------------------------------------------------------------------------------------------------------

class WriteBuffer : public IommuTest {
 protected:
  u64 top = 0;
  // A leaf becomes present after the unit has looked.
  void begin() {
    IommuModelConfig c;
    c.rwbf = true;
    start_translating(c);
    top = page();
    set_context(kDevice, top, 5);
    EXPECT_EQ(read(kDevice, 0x1000).fault, 0x6);
    map(top, 0x1000, 0xA000);
    EXPECT_EQ(read(kDevice, 0x1000).fault, 0x6);
  }
};

TEST_F(WriteBuffer, IsEmptiedByTheCommand) {
  begin();
  gcmd(kWbf, true);
  EXPECT_EQ(gsts() & kWbf, 0u);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  expect_clean();
}

TEST_F(WriteBuffer, IsEmptiedByAnyInvalidation) {
  begin();
  start_queue();
  EXPECT_TRUE(flush_pages(9, 0x7000));
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
}

// --- root pointer
// ---------------------------------------------------------------------------------------------------------

class RootPointer : public IommuTest {
 protected:
  u64 second_root = 0;
  // Another root table with another answer, set while translation is on.
  void begin(const IommuModelConfig& c) {
    start_translating(c);
    start_queue();
    const u64 one = page();
    const u64 two = page();
    map(one, 0x1000, 0xA000);
    map(two, 0x1000, 0xB000);
    set_context(kDevice, one, 5);
    EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
    second_root = page();
    root = second_root;
    set_context(kDevice, two, 6);
    model->write(0x20, 8, second_root);
    EXPECT_EQ(model->read(0x20, 8), second_root);  // reads back what was written
    EXPECT_EQ(read(kSibling, 0x1000).fault, 0x2);  // but the old one is used
    clear_fault();
    gcmd(kSrtp, true);
  }
};

TEST_F(RootPointer, KeepsCachesUntilFlushed) {
  begin({});
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  EXPECT_TRUE(flush_context_global());
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xB000u);
  expect_clean();
}

TEST_F(RootPointer, DropsThemWithEsrtps) {
  IommuModelConfig c;
  c.esrtps = true;
  begin(c);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xB000u);
}

TEST_F(RootPointer, QemuDropsThemAnyway) {
  IommuModelConfig c;
  c.quirks.srtp_flushes = true;
  begin(c);
  EXPECT_EQ(model->read(8, 8) >> 63, 0u);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xB000u);
}

// --- policies
// ---------------------------------------------------------------------------------------------------------------

class Policy : public IommuTest {
 protected:
  // How many of `n` requests see a change that nobody flushed.
  unsigned fresh_answers(CachePolicy policy, u64 seed, unsigned n) {
    IommuModelConfig c;
    c.policy = policy;
    c.seed = seed;
    start_translating(c);
    const u64 top = page();
    set_context(kDevice, top, 5);
    unsigned fresh = 0;
    for (unsigned i = 0; i < n; ++i) {
      const u64 target = (i + 1) * u64{0x1000};
      map(top, 0x1000, target);
      fresh += read(kDevice, 0x1000).phys == target;
    }
    return fresh;
  }
};

TEST_F(Policy, Sticky) {
  EXPECT_EQ(fresh_answers(CachePolicy::Sticky, 1, 100), 1u);
}

TEST_F(Policy, EvictAlways) {
  EXPECT_EQ(fresh_answers(CachePolicy::EvictAlways, 1, 100), 100u);
  EXPECT_EQ(model->statistics().context_entries, 0u);
  EXPECT_EQ(model->statistics().iotlb_entries, 0u);
  EXPECT_EQ(model->statistics().structure_entries, 0u);
}

TEST_F(Policy, RandomDependsOnTheSeedOnly) {
  const unsigned a = fresh_answers(CachePolicy::Random, 7, 200);
  EXPECT_GT(a, 5u);
  EXPECT_LT(a, 100u);
  EXPECT_EQ(fresh_answers(CachePolicy::Random, 7, 200), a);
}

TEST_F(Policy, CanBeChangedLater) {
  start_translating();
  const u64 top = page();
  set_context(kDevice, top, 5);
  map(top, 0x1000, 0xA000);
  read(kDevice, 0x1000);
  map(top, 0x1000, 0xB000);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  model->set_policy(CachePolicy::EvictAlways, 0);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xB000u);
}

}  // namespace
}  // namespace perdure::board::testing
