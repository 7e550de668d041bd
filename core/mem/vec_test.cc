#include "core/mem/vec.h"

#include <rapidcheck.h>

#include "tests/support/test_machine.h"

namespace perdure {
namespace {

struct VecTest : testing::Test {
  VecTest() {
    const Extent ram{Phys(0), machine.window};
    EXPECT_TRUE(frames.init({&ram, 1}, {}, {}));
    frames.open();
  }
  ~VecTest() override { EXPECT_EQ(heap.bytes_in_use(), 0u); }
  test::TestMachine machine{u64{32} << 20};
  FrameAllocator frames{machine};
  Heap heap{frames};
};

// Counts the objects that live, and knows whether it was moved from.
struct Probe {
  explicit Probe(int v) : value(v) { ++live; }
  Probe(Probe&& o) noexcept : value(std::exchange(o.value, -1)) { ++live; }
  Probe& operator=(Probe&& o) noexcept {
    value = std::exchange(o.value, -1);
    return *this;
  }
  ~Probe() { --live; }
  bool operator==(int v) const { return value == v; }
  int value;
  static inline int live = 0;
};

TEST_F(VecTest, Model) {
  EXPECT_TRUE(rc::check("against std::vector", [this](const std::vector<std::pair<u8, u8>>& steps) {
    std::vector<int> model;
    {
      Vec<Probe> v(heap);
      int next = 0;
      for (auto [what, where] : steps) {
        const usize at = model.empty() ? 0 : where % model.size();
        switch (what % 8) {
          case 0:
          case 1:
          case 2:
            RC_ASSERT(static_cast<bool>(v.push_back(Probe(next))));
            model.push_back(next++);
            break;
          case 3:
          case 4:
            RC_ASSERT(static_cast<bool>(v.insert_at(at, Probe(next))));
            model.insert(model.begin() + static_cast<s64>(at), next++);
            break;
          case 5:
            if (model.empty()) break;
            v.erase_at(at);
            model.erase(model.begin() + static_cast<s64>(at));
            break;
          case 6:
            if (model.empty()) break;
            v.pop_back();
            model.pop_back();
            break;
          case 7: {
            if (where % 16 == 0) {
              v.clear();
              model.clear();
            }
            Vec<Probe> other(std::move(v));
            v = std::move(other);
            break;
          }
        }
        RC_ASSERT(v.size() == model.size());
        RC_ASSERT(v.empty() == model.empty());
        RC_ASSERT(std::equal(v.begin(), v.end(), model.begin(), model.end()));
        RC_ASSERT(Probe::live == static_cast<int>(model.size()));
      }
    }
    RC_ASSERT(Probe::live == 0);
    RC_ASSERT(heap.bytes_in_use() == 0u);
  }));
}

TEST_F(VecTest, FailedGrowthChangesNothing) {
  Vec<Probe> v(heap);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(v.push_back(Probe(i)));
  machine.counting.fail_at = machine.counting.allocations + 1;
  EXPECT_EQ(v.push_back(Probe(4)).error(), Errno::Enomem);
  machine.counting.fail_at = machine.counting.allocations + 1;
  EXPECT_EQ(v.insert_at(0, Probe(4)).error(), Errno::Enomem);
  EXPECT_EQ(v.size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(v[static_cast<usize>(i)].value, i);
}

TEST_F(VecTest, ReserveKnowsItsLimits) {
  Vec<u64> v(heap);
  EXPECT_TRUE(v.reserve(Heap::kMaxBytes / sizeof(u64)));
  EXPECT_EQ(v.reserve(Heap::kMaxBytes / sizeof(u64) + 1).error(), Errno::Enomem);
  EXPECT_EQ(v.reserve(~usize{0}).error(), Errno::Enomem);
  struct Odd {
    u64 words[3];
  };
  Vec<Odd> odd(heap);
  EXPECT_TRUE(odd.reserve(Heap::kMaxBytes / sizeof(Odd))) << "though no power of two";
}

TEST_F(VecTest, MoveAssignmentReleasesTheFormer) {
  Vec<Probe> a(heap), b(heap);
  ASSERT_TRUE(a.push_back(Probe(1)));
  ASSERT_TRUE(b.push_back(Probe(2)));
  a = std::move(b);
  EXPECT_EQ(Probe::live, 1);
  EXPECT_EQ(a[0].value, 2);
  auto& same = a;
  a = std::move(same);
  EXPECT_EQ(a.size(), 1u);
}

}  // namespace
}  // namespace perdure
