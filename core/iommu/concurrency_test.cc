// Threads against one another where locks are what keeps them apart; worth most under ThreadSanitizer.
#include <atomic>
#include <mutex>
#include <thread>

#include "core/iommu/testing/iommu_world.h"

namespace perdure::testing {
namespace {

constexpr SourceId a0 = IommuWorld::a0, a1 = IommuWorld::a1, b0 = IommuWorld::b0, b1 = IommuWorld::b1;

void together(std::initializer_list<std::function<void()>> bodies) {
  std::vector<std::thread> threads;
  std::atomic<usize> ready{0};
  for (const auto& body : bodies) {
    threads.emplace_back([&ready, &body, all = bodies.size()] {
      ++ready;
      while (ready.load() != all) std::this_thread::yield();
      body();
    });
  }
  for (std::thread& t : threads) t.join();
}

TEST(IommuConcurrency, HeldGroupGoesToExactlyOneClaimant) {
  IommuWorld w;
  Workload s = set_up(w, {a0});
  w.begin();
  preserve(w, s, {a0});
  forget(s);
  w.jump();
  w.handover.machine.steps = nullptr;
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> won{0};
    Ref<TestOwner> owners[3] = {w.owner(), w.owner(), w.owner()};
    TestOwner* winner = nullptr;
    const auto claim = [&](int i) {
      if (w.group(a0).claim(owners[i])) ADD_FAILURE() << "held for another";
      if (!w.group(a0).claim_held(owners[i], kSession, kToken)) return;
      ++won;
      winner = owners[i].get();
    };
    together({[&] { claim(0); }, [&] { claim(1); }, [&] { claim(2); }});
    ASSERT_EQ(won, 1);
    w.group(a0).unclaim_held(*winner);
    ASSERT_EQ(w.group(a0).ownership(), Ownership::HeldForSession);
  }
}

// One domain, attached and detached on four groups of two units while it is mapped and unmapped: whenever a range is
// gone, it was flushed on every unit that could have had it.
TEST(IommuConcurrency, NoUnmapMissesAUnitThatIsJustBeingAttached) {
  IommuWorld w;
  w.handover.machine.steps = nullptr;
  auto d = w.domain();
  auto who = w.owner();
  for (SourceId f : {a0, a1, b0, b1}) ASSERT_TRUE(w.group(f).claim(who));

  // What an IOMMU may have cached: by unit, whether the page was walked since its last flush.
  std::atomic<bool> mapped{false};
  std::atomic<u64> stale{0}, seen{0};
  struct Cache {
    std::mutex lock;
    bool holds = false;
  } cache_a, cache_b;
  const auto hook = [](Cache& cache) {
    return [&cache](const std::string& what) {
      if (what.starts_with("flush") || what.starts_with("clear")) {
        std::lock_guard guard(cache.lock);
        cache.holds = false;
      }
    };
  };
  w.hw_a.on_call = hook(cache_a);
  w.hw_b.on_call = hook(cache_b);
  std::atomic<bool> stop{false};
  const auto walk = [&](FakeHardware& hw, Cache& cache) {
    std::lock_guard hardware(hw.lock);
    if (hw.entries.empty()) return;
    // Under the unit's lock, as the walk and the flush exclude one another in hardware.
    std::lock_guard guard(cache.lock);
    if (mapped) {
      cache.holds = true;
      ++seen;
    }
  };
  const auto churn = [&](SourceId f) {
    for (int i = 0; i < 150; ++i) {
      EXPECT_TRUE(w.group(f).attach(*who, d));
      std::this_thread::yield();
      EXPECT_TRUE(w.group(f).detach(*who));
    }
  };
  together({[&] { churn(a0); }, [&] { churn(a1); }, [&] { churn(b0); },
            [&] {
              do churn(b1);
              while (seen == 0);
              stop = true;
            },
            [&] {
              while (!stop) {
                walk(w.hw_a, cache_a);
                walk(w.hw_b, cache_b);
              }
            },
            [&] {
              while (!stop) {
                EXPECT_TRUE(d->map(Iova(0), Phys(0x1000), kPageSize, Access::Read));
                mapped = true;
                std::this_thread::yield();
                mapped = false;
                EXPECT_TRUE(d->unmap(Iova(0), kPageSize));
                for (Cache* cache : {&cache_a, &cache_b}) {
                  std::lock_guard guard(cache->lock);
                  if (cache->holds) ++stale;
                }
              }
            }});
  EXPECT_EQ(stale, 0u);
  EXPECT_GT(seen, 0u);
  EXPECT_EQ(d->attached_devices(), 0u);
  EXPECT_TRUE(w.hw_a.dids.empty() && w.hw_b.dids.empty());
}

// R37: who goes down the list of functions at the jump asks without a lock; under ThreadSanitizer a plain flag would
// show.
TEST(IommuConcurrency, PreservedIsReadWithoutALock) {
  IommuWorld w;
  Workload s = set_up(w, {a0});
  w.handover.machine.steps = nullptr;
  w.begin();
  std::atomic<bool> stop{false};
  std::atomic<u64> seen[2] = {0, 0};
  const IommuDevice& device = w.device(a0);
  together({[&] {
              while (!stop || seen[0] == 0) ++seen[device.preserved() ? 1 : 0];
            },
            [&] {
              for (int round = 0; round < 300; ++round) {
                EXPECT_TRUE(w.live->preserve_domain(*s.domain, kSession));
                EXPECT_TRUE(w.live->preserve_device(w.device(a0), *s.who, kSession, kToken));
                // Until the other one looked, so that both states were seen.
                for (const u64 before = seen[1]; round == 0 && seen[1] == before;) std::this_thread::yield();
                w.live->unpreserve_device(w.device(a0));
                EXPECT_FALSE(device.preserved());
                w.live->unpreserve_domain(*s.domain);
              }
              stop = true;
            }});
  EXPECT_GT(seen[0], 0u);
  EXPECT_GT(seen[1], 0u);
}

TEST(IommuConcurrency, QuarantineInTheMiddleOfAttachAndDetachEndsBlocked) {
  for (int round = 0; round < 50; ++round) {
    IommuWorld w;
    w.handover.machine.steps = nullptr;
    auto d = w.domain();
    auto who = w.owner();
    for (SourceId f : {a0, a1, b0}) ASSERT_TRUE(w.group(f).claim(who));
    const auto churn = [&](SourceId f) {
      for (int i = 0; i < 20; ++i) {
        if (w.group(f).attach(*who, d)) static_cast<void>(w.group(f).detach(*who));
      }
    };
    together({[&] { churn(a0); }, [&] { churn(a1); }, [&] { churn(b0); },
              [&] { w.iommu->quarantine(w.device(a0), "a test"); },
              [&] { w.iommu->quarantine_unit(w.unit(IommuWorld::kUnitB), "a test"); }});
    EXPECT_FALSE(w.hw_a.entries.contains(a0));
    EXPECT_TRUE(w.hw_b.entries.empty());
    EXPECT_EQ(w.group(a1).ownership(), Ownership::Owned);
    EXPECT_EQ(w.group(b1).ownership(), Ownership::Quarantined);
    EXPECT_EQ(d->attached_devices(), 0u);
  }
}

}  // namespace
}  // namespace perdure::testing
