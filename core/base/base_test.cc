// The small headers: types, bits, result, references, callables, guards, sort, log, hardware words.
#include <rapidcheck.h>

#include "core/base/bits.h"
#include "core/base/function_ref.h"
#include "core/base/hw.h"
#include "core/base/log.h"
#include "core/base/ref.h"
#include "core/base/result.h"
#include "core/base/scope_guard.h"
#include "core/base/sort.h"

namespace perdure {
namespace {

// --- types --------------------------------------------------------------------------------------------------

static_assert(!std::is_convertible_v<Phys, Iova> && !std::is_convertible_v<u64, Phys> &&
              !std::is_convertible_v<Phys, u64>);
static_assert(Phys(0x3000) - Phys(0x1000) == 0x2000 && Phys(0x1fff).page() == 1 && !Phys(0) && Phys(1));
static_assert(Phys(0x3000).aligned(0x1000) && !Phys(0x3000).aligned(0x2000));
static_assert(align_up(1, 4096) == 4096 && align_up(4096, 4096) == 4096 && align_up(0, 4096) == 0);
static_assert(align_down(4095, 4096) == 0 && align_down(~u64{0}, 4096) == ~u64{4095});
static_assert(is_pow2(1) && is_pow2(u64{1} << 63) && !is_pow2(0) && !is_pow2(12));
static_assert(!range_overflows(~u64{0}, 1) && range_overflows(~u64{0}, 2) && !range_overflows(~u64{0}, 0));
static_assert(ranges_overlap(0, 2, 1, 1) && !ranges_overlap(0, 1, 1, 1) && !ranges_overlap(0, 5, 2, 0));
static_assert(ranges_overlap(~u64{0}, 1, ~u64{0} - 4, 5) && !ranges_overlap(~u64{0}, 1, 0, 1));

// --- bits ---------------------------------------------------------------------------------------------------

using Middle = Field<15, 4>;
using Address52 = Field<51, 12>;
using Whole = Field<63, 0>;
using Byte = Field<7, 4, u8>;
static_assert(Middle::kWidth == 12 && Middle::kMax == 0xfff && Middle::kMask == 0xfff0);
static_assert(Middle::get(0x12345678) == 0x567 && Middle::make(0x1abc) == 0xabc0);
static_assert(Middle::set(0xffffffff, 0) == 0xffff000f && Middle::set(0, 0xfffff) == 0xfff0);
static_assert(Whole::kMask == ~u64{0} && Whole::get(5) == 5 && Whole::make(~u64{0}) == ~u64{0});
static_assert(Address52::in_place(0xfff0123456789fff) == 0x0000123456789000);
static_assert(Byte::make(0x1f) == 0xf0 && Byte::get(0xab) == 0xa && Byte::set(0xff, 3) == 0x3f);
static_assert(Bit<63>::test(u64{1} << 63) && !Bit<62>::test(u64{1} << 63) && Bit<63>::value() == u64{1} << 63);
static_assert(Bit<7, u8>::value() == 0x80);
static_assert(popcount(0) == 0 && popcount(~u64{0}) == 64 && popcount(0x8000000000000001) == 2);

TEST(Bits, Popcount) {
  EXPECT_TRUE(rc::check([](u64 v) { RC_ASSERT(popcount(v) == static_cast<unsigned>(std::popcount(v))); }));
}

// --- result -------------------------------------------------------------------------------------------------

Result<std::unique_ptr<int>> half(int v) {
  if (v % 2 != 0) return fail(Errno::Einval);
  return std::make_unique<int>(v / 2);
}
Result<void> nothing(bool ok) {
  if (!ok) return fail(Errno::Ebusy);
  return {};
}
Result<int> quarter(int v, bool ok = true) {
  const auto a = TRY(half(v));
  TRY(nothing(ok));
  return *TRY(half(*a));
}

// R66: an address space is a type, so that no conversion between physical and virtual can be left out or made twice.
TEST(Types, AddressSpacesDoNotMix) {
  EXPECT_FALSE((std::is_convertible_v<u64, Phys> || std::is_convertible_v<Phys, u64>));
  EXPECT_FALSE((std::is_convertible_v<void*, Phys> || std::is_constructible_v<Phys, void*>));
  EXPECT_FALSE((std::is_constructible_v<void*, Phys> || std::is_constructible_v<std::byte*, Phys>));
  EXPECT_FALSE((std::is_constructible_v<Phys, Iova> || std::is_constructible_v<Iova, Phys>));
  EXPECT_FALSE((std::is_assignable_v<Phys&, UserAddr> || std::is_assignable_v<UserAddr&, Phys>));
  EXPECT_EQ((Phys(0x3000) + 0x10) - Phys(0x3000), 0x10u);
}

TEST(Result, TryReturnsTheError) {
  EXPECT_EQ(*quarter(12), 3);
  EXPECT_EQ(quarter(13).error(), Errno::Einval);
  EXPECT_EQ(quarter(14).error(), Errno::Einval);
  EXPECT_EQ(quarter(12, false).error(), Errno::Ebusy);
}

TEST(Result, NamesAndNumbersAreLinux) {
  EXPECT_EQ(static_cast<int>(Errno::Eopnotsupp), 95);
  EXPECT_EQ(static_cast<int>(Errno::Eestale), 116);
  EXPECT_EQ(errno_name(Errno::Edeadlock), "EDEADLK");
  EXPECT_EQ(errno_name(Errno::Eestale), "ESTALE");
  EXPECT_EQ(errno_name(static_cast<Errno>(9999)), "E?");
}

// --- references ---------------------------------------------------------------------------------------------

struct Thing : RefCounted {
  explicit Thing(std::string& events) : events_(events) {}
  void on_last_ref() override { events_ += "last."; }
  void dispose() override { events_ += "disposed."; }
  std::string& events_;
};

TEST(Ref, CountsAndDisposesOnce) {
  std::string events;
  Thing thing(events);
  {
    Ref<Thing> a = Ref<Thing>::adopt(&thing);
    EXPECT_EQ(thing.ref_count(), 1u);
    Ref<Thing> b(&thing);
    EXPECT_EQ(thing.ref_count(), 2u);
    Ref<RefCounted> base = b;
    EXPECT_EQ(thing.ref_count(), 3u);
    b = std::move(a);
    EXPECT_FALSE(a);  // NOLINT(bugprone-use-after-move)
    EXPECT_EQ(thing.ref_count(), 2u);
    EXPECT_TRUE(base.get() == b.get());
    Thing* raw = b.release();
    EXPECT_EQ(thing.ref_count(), 2u);
    b = Ref<Thing>::adopt(raw);
    base = nullptr;
    EXPECT_EQ(thing.ref_count(), 1u);
    EXPECT_TRUE(thing.try_get_ref());
    thing.put_ref();
    EXPECT_EQ(events, "");
  }
  EXPECT_EQ(events, "last.disposed.");
  EXPECT_EQ(thing.ref_count(), 0u);
  EXPECT_FALSE(thing.try_get_ref()) << "too late";
}

TEST(Ref, WithoutAHeapNobodyCanDispose) {
  struct Lost : RefCounted {};
  EXPECT_DEATH(
      {
        Lost lost;
        lost.put_ref();
      },
      "panic");
}

// --- callables and guards -----------------------------------------------------------------------------------

int call(FunctionRef<int(int)> f, int v) {
  return f(v);
}

TEST(FunctionRef, CallsLambdasByReference) {
  int sum = 0;
  auto add = [&sum](int v) { return sum += v; };
  EXPECT_EQ(call(add, 3), 3);
  EXPECT_EQ(call([&sum](int v) { return sum * v; }, 5), 15);
  const auto twice = [](int v) { return 2 * v; };
  EXPECT_EQ(call(twice, 4), 8);
  int calls = 0;
  auto counting = [calls](int v) mutable { return ++calls + v; };
  EXPECT_EQ(call(counting, 0), 1);
  EXPECT_EQ(call(counting, 0), 2) << "the caller's object, not a copy";
  // A result that nobody wants.
  FunctionRef<void(int)> ignore = add;
  ignore(4);
  EXPECT_EQ(sum, 7);
  FunctionRef<void(int)> copy = ignore;
  copy(1);
  EXPECT_EQ(sum, 8);
  // Arguments that can only be moved.
  auto take = [](std::unique_ptr<int> p) { return *p; };
  FunctionRef<int(std::unique_ptr<int>)> taker = take;
  EXPECT_EQ(taker(std::make_unique<int>(9)), 9);
}

TEST(ScopeGuard, RunsUnlessDismissed) {
  std::string events;
  {
    ScopeGuard one([&] { events += "one."; });
    ScopeGuard two([&] { events += "two."; });
    ScopeGuard three([&] { events += "three."; });
    two.dismiss();
  }
  EXPECT_EQ(events, "three.one.");
}

// --- sort ---------------------------------------------------------------------------------------------------

TEST(Sort, IsTheStandardOne) {
  EXPECT_TRUE(rc::check([](std::vector<s32> v) {
    std::vector<s32> want = v;
    std::sort(want.begin(), want.end(), std::greater<>());
    sort(std::span(v), std::greater<>());
    RC_ASSERT(v == want);
  }));
  std::vector<int> sorted(1000), falling(1000), equal(1000, 7);
  for (int i = 0; i < 1000; ++i) sorted[static_cast<usize>(i)] = i, falling[static_cast<usize>(i)] = 999 - i;
  for (std::vector<int>* v : {&sorted, &falling, &equal}) {
    usize comparisons = 0;
    sort(std::span(*v), [&](int a, int b) { return ++comparisons, a < b; });
    EXPECT_TRUE(std::is_sorted(v->begin(), v->end()));
    EXPECT_LT(comparisons, 25000u);
  }
}

// --- log ----------------------------------------------------------------------------------------------------

template <class T>
std::string text(T v) {
  Line line;
  line << v;
  return std::string(line.view());
}

TEST(Line, Numbers) {
  EXPECT_EQ(text(0), "0");
  EXPECT_EQ(text(-1), "-1");
  EXPECT_EQ(text(u8{200}), "200");
  EXPECT_EQ(text(~u64{0}), "18446744073709551615");
  EXPECT_EQ(text(std::numeric_limits<s64>::min()), "-9223372036854775808");
  EXPECT_EQ(text(std::numeric_limits<s32>::min()), "-2147483648");
  EXPECT_EQ(text(Hex{0}), "0x0");
  EXPECT_EQ(text(Hex{~u64{0}}), "0xffffffffffffffff");
  EXPECT_EQ(text(Iova(0xabc000)), "0xabc000");
  EXPECT_EQ(text(Errno::Enomem), "ENOMEM");
  EXPECT_EQ(text("text"), "text");
  EXPECT_TRUE(rc::check([](s64 v, u64 w) {
    RC_ASSERT(text(v) == std::to_string(v));
    RC_ASSERT(text(w) == std::to_string(w));
  }));
}

TEST(Line, IsCutNotSplit) {
  Line line;
  for (int i = 0; i < 100; ++i) line << "abc" << i;
  EXPECT_EQ(line.view().size(), 240u);
  EXPECT_TRUE(line.view().starts_with("abc0abc1abc2"));
}

// --- hardware words -----------------------------------------------------------------------------------------

TEST(Hw, LoadsAndStoresWholeWords) {
  alignas(8) u64 word = 0;
  hw::store(&word, u64{0x1122334455667788});
  EXPECT_EQ(hw::load(&word), 0x1122334455667788u);
  u64 expected = 1;
  EXPECT_FALSE(hw::compare_exchange(&word, expected, u64{5}));
  EXPECT_EQ(expected, 0x1122334455667788u);
  EXPECT_TRUE(hw::compare_exchange(&word, expected, u64{5}));
  EXPECT_EQ(word, 5u);
  u8 small = 0;
  hw::store(&small, u8{7});
  EXPECT_EQ(hw::load(&small), 7);
}

}  // namespace
}  // namespace perdure
