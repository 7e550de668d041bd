#include "core/base/lock.h"

#include <atomic>
#include <thread>

namespace perdure {
namespace {

// The compiler would refuse what these tests do on purpose.
void lock(Mutex& m) NO_THREAD_SAFETY_ANALYSIS {
  m.lock();
}
void unlock(Mutex& m) NO_THREAD_SAFETY_ANALYSIS {
  m.unlock();
}

TEST(Lock, HeldByTheThreadThatTookIt) {
  Mutex m(LockRank::Heap);
  EXPECT_FALSE(m.held_by_me());
  {
    const MutexGuard guard(m);
    EXPECT_TRUE(m.held_by_me());
    m.assert_held();
    std::thread([&m] { EXPECT_FALSE(m.held_by_me()); }).join();
  }
  EXPECT_FALSE(m.held_by_me());
  EXPECT_EQ(m.rank(), LockRank::Heap);
}

TEST(Lock, RanksMustRise) {
  Mutex outer(LockRank::Arena), inner(LockRank::Frames), peer(LockRank::Frames);
  {
    const MutexGuard a(outer);
    const MutexGuard b(inner);
    EXPECT_TRUE(outer.held_by_me() && inner.held_by_me());
  }
  lock(inner);
  EXPECT_DEATH(lock(outer), "panic") << "inversion";
  EXPECT_DEATH(lock(peer), "panic") << "no order between locks of one rank";
  EXPECT_DEATH(lock(inner), "panic") << "would wait for itself";
  unlock(inner);
  lock(outer);
  unlock(outer);
}

// A rank is compared with the highest held, also after locks went in another order than they came.
TEST(Lock, ReleaseInAnyOrder) {
  Mutex a(LockRank::Ioas), b(LockRank::Arena), c(LockRank::Heap), d(LockRank::Frames);
  lock(a);
  lock(b);
  lock(c);
  unlock(b);
  EXPECT_TRUE(a.held_by_me() && !b.held_by_me() && c.held_by_me());
  EXPECT_DEATH(lock(b), "panic") << "c is still held";
  lock(d);
  unlock(c);
  unlock(a);
  EXPECT_TRUE(d.held_by_me());
  EXPECT_DEATH(lock(b), "panic") << "d is still held";
  unlock(d);
  lock(b);
  unlock(b);
}

TEST(Lock, MisusePanics) {
  Mutex m(LockRank::Heap);
  EXPECT_DEATH(unlock(m), "panic");
  EXPECT_DEATH(m.assert_held(), "panic");
  lock(m);
  EXPECT_DEATH(std::thread([&m] { unlock(m); }).join(), "panic") << "another thread's";
  unlock(m);
}

TEST(Lock, ThreadsExcludeEachOther) {
  Mutex m(LockRank::Leaf);
  u64 plain = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        const MutexGuard guard(m);
        ++plain;
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(plain, 20000u);
}

}  // namespace
}  // namespace perdure
