// Sessions before the jump: creating, preserving in the spec's order, unwinding at every step, closing.
#include "core/luo/fakes.h"

namespace perdure::luo {
namespace {

using test::Events;
using test::World;

class Preserve : public ::testing::Test {
 protected:
  World w;
};

TEST_F(Preserve, SessionNames) {
  EXPECT_EQ(w.luo().create_session("").error(), Errno::Einval);
  EXPECT_EQ(w.luo().create_session(std::string(64, 'x')).error(), Errno::Einval);
  EXPECT_EQ(w.luo().create_session(std::string_view("a\0b", 3)).error(), Errno::Einval);
  const auto longest = w.create(std::string(63, 'x'));
  EXPECT_EQ(longest->name(), std::string(63, 'x'));
  const auto strange = w.create("a/b\n");
  EXPECT_EQ(SessionFile::create(w.luo(), "a/b\n").error(), Errno::Eexist);
}

TEST_F(Preserve, NameIsFreeAgainAfterClose) {
  {
    const auto s = w.create("s");
  }
  EXPECT_TRUE(SessionFile::create(w.luo(), "s"));
}

TEST_F(Preserve, OrderOfCallbacks) {
  ASSERT_TRUE(w.link_flbs());
  auto s = w.create("s");
  const s32 a = w.open_fake(1), b = w.open_fake(2, "b-file"), c = w.open_fake(3);
  ASSERT_TRUE(w.preserve(*s, a, 10));
  ASSERT_TRUE(w.preserve(*s, b, 11));
  ASSERT_TRUE(w.preserve(*s, c, 0));
  EXPECT_EQ(w.take_events(), (Events{"one preserve", "second preserve", "preserve 10", "preserve 11", "preserve 0"}));
  w.task.close_all();
  EXPECT_EQ(w.take_events(), Events{});  // LUO holds them
  s = nullptr;
  // Newest first; a state goes with its last file, in reverse order of linking.
  EXPECT_EQ(w.take_events(), (Events{"unpreserve 0", "unpreserve 11", "unpreserve 10", "second unpreserve",
                                     "one unpreserve", "closed 3", "closed 2", "closed 1"}));
}

TEST_F(Preserve, TokenComesBeforeDescriptor) {
  const auto s = w.create("s");
  ASSERT_TRUE(w.preserve(*s, w.open_fake(1), 5));
  EXPECT_EQ(w.preserve(*s, 9999, 5).error(), Errno::Eexist);
  EXPECT_EQ(w.preserve(*s, 9999, 6).error(), Errno::Ebadf);
  // Another session has its own tokens.
  const auto t = w.create("t");
  EXPECT_TRUE(w.preserve(*t, w.open_fake(2), 5));
}

TEST_F(Preserve, NobodyHandlesIt) {
  const auto s = w.create("s");
  EXPECT_EQ(w.preserve(*s, w.open_fake(1, "unknown"), 1).error(), Errno::Enoent);
  EXPECT_EQ(w.preserve(*s, w.task.open(s), 1).error(), Errno::Enoent);
  w.task.close_all();
}

TEST_F(Preserve, OneObjectIsInOneSession) {
  const auto s = w.create("s"), t = w.create("t");
  const s32 fd = w.open_fake(1);
  ASSERT_TRUE(w.preserve(*s, fd, 1));
  EXPECT_EQ(w.preserve(*s, fd, 2).error(), Errno::Ebusy);
  EXPECT_EQ(w.preserve(*t, fd, 1).error(), Errno::Ebusy);
  // The same object through another file, and the same number of another kind.
  EXPECT_EQ(w.preserve(*t, w.open_fake(1), 1).error(), Errno::Ebusy);
  EXPECT_TRUE(w.preserve(*t, w.open_fake(1, "b-file"), 1));
  EXPECT_EQ(w.preserve(*t, w.open_fake(1), 1).error(), Errno::Eexist);
}

TEST_F(Preserve, ObjectIsFreeAgainAfterClose) {
  const s32 fd = w.open_fake(1);
  auto s = w.create("s");
  ASSERT_TRUE(w.preserve(*s, fd, 1));
  s = nullptr;
  s = w.create("s");
  EXPECT_TRUE(w.preserve(*s, fd, 1));
}

TEST_F(Preserve, RefusalOfTheHandlerUndoesTheRest) {
  ASSERT_TRUE(w.link_flbs());
  auto s = w.create("s");
  const s32 fd = w.open_fake(1);
  w.a->refuse.insert("preserve");
  EXPECT_EQ(w.preserve(*s, fd, 1).error(), Errno::Eopnotsupp);
  EXPECT_EQ(w.take_events(),
            (Events{"one preserve", "second preserve", "preserve 1", "second unpreserve", "one unpreserve"}));
  w.a->refuse.clear();
  EXPECT_TRUE(w.preserve(*s, fd, 1));  // neither token nor object is taken
}

TEST_F(Preserve, RefusalOfAStateUndoesTheOnesBefore) {
  ASSERT_TRUE(w.link_flbs());
  auto s = w.create("s");
  w.two->refuse.insert("preserve");
  EXPECT_EQ(w.preserve(*s, w.open_fake(1), 1).error(), Errno::Enospc);
  EXPECT_EQ(w.take_events(), (Events{"one preserve", "second preserve", "one unpreserve"}));
  EXPECT_EQ(w.luo().get_outgoing(*w.one).error(), Errno::Enoent);
}

TEST_F(Preserve, FailingEveryAllocationLeavesNothing) {
  ASSERT_TRUE(w.link_flbs());
  const auto file = w.fake(1);
  const s32 fd = w.task.open(file);
  // Warm: slabs and tree pages that stay are there already.
  for (int i = 0; i < 2; ++i) {
    auto s = w.create("warm");
    ASSERT_TRUE(w.preserve(*s, fd, 1));
  }
  w.heap().trim();
  const auto frames = w.machines.frames().totals();
  const u64 bytes = w.heap().bytes_in_use();
  bool done = false;
  for (u64 nth = 1; !done; ++nth) {
    w.take_events();
    w.steps().allocations = 0;
    w.steps().fail_at = nth;
    {
      auto s = SessionFile::create(w.luo(), "s");
      const auto r = s ? w.preserve(**s, fd, 1) : fail(s.error());
      w.steps().fail_at = 0;
      if (r) {
        done = true;
        EXPECT_GT(nth, 4u);
      } else {
        EXPECT_EQ(r.error(), Errno::Enomem);
      }
    }
    w.heap().trim();
    ASSERT_EQ(w.heap().bytes_in_use(), bytes) << nth;
    ASSERT_EQ(w.machines.frames().totals(), frames) << nth;
    ASSERT_EQ(file->ref_count(), 2u);
    // What was preserved was unpreserved.
    int balance = 0;
    for (const auto& e : w.take_events()) {
      if (e.ends_with(" preserve") || e == "preserve 1") ++balance;
      if (e.ends_with("unpreserve") || e == "unpreserve 1") --balance;
    }
    ASSERT_EQ(balance, 0);
    ASSERT_LT(nth, 40u);
  }
}

TEST_F(Preserve, ManySessionsAndFiles) {
  w.heap().trim();
  const u64 bytes = w.heap().bytes_in_use();
  std::vector<Ref<SessionFile>> sessions;
  for (int i = 0; i < 2000; ++i) sessions.push_back(w.create("session-" + std::to_string(i)));
  EXPECT_EQ(SessionFile::create(w.luo(), "session-1999").error(), Errno::Eexist);
  for (u64 i = 0; i < 500; ++i) ASSERT_TRUE(w.preserve(*sessions[7], w.open_fake(i), i * 64));
  EXPECT_EQ(w.preserve(*sessions[7], w.open_fake(900), 499 * 64).error(), Errno::Eexist);
  const auto blocks = [&] {
    u64 preserved = 0;
    for (u64 at = 0; at < w.machines.machine.ram_bytes(); at += kPageSize)
      preserved += w.kho().is_preserved(Phys(at), 0);
    return preserved;
  };
  EXPECT_EQ(blocks(), 3u + 40 + 8);  // FDT, LUO, states; 40 blocks of 51 sessions; 8 of 63 files
  sessions.clear();
  w.task.close_all();
  EXPECT_EQ(blocks(), 3u);
  EXPECT_LT(w.heap().bytes_in_use() - bytes, 100'000u);  // indexes that grew
  for (const auto& e : w.take_events()) {
    ASSERT_NE(e, "CLOSED UNDER A LOCK");
    ASSERT_NE(e, "WRONG STATE");
  }
}

TEST_F(Preserve, HandlersSeeTheirSession) {
  auto s = w.create("s");
  const auto first = w.fake(1);
  ASSERT_TRUE(w.preserve(*s, w.task.open(first), 77));
  bool asked = false;
  w.b->on_preserve = [&](FileState& state) {
    asked = true;
    EXPECT_EQ(*state.session.token_of(*first), 77u);
    EXPECT_EQ(state.session.file_of(77)->get(), first.get());
    EXPECT_EQ(state.session.file_of(78).error(), Errno::Enoent);
    const auto other = w.fake(9);
    EXPECT_EQ(state.session.token_of(*other).error(), Errno::Enoent);
    EXPECT_EQ(state.session.name(), "s");
    EXPECT_EQ(state.session.generation(), generation_of(1, "s"));
    EXPECT_EQ(state.session.next_generation(), generation_of(1, "s"));
    w.held.push_back(other);
  };
  ASSERT_TRUE(w.preserve(*s, w.open_fake(2, "b-file"), 1));
  EXPECT_TRUE(asked);
}

TEST_F(Preserve, RegistrationRules) {
  test::FakeHandler same(w.heap(), w.events, "a-file"), unnamed(w.heap(), w.events, ""),
      longest(w.heap(), w.events, std::string(47, 'n')), too_long(w.heap(), w.events, std::string(48, 'n'));
  EXPECT_EQ(w.luo().register_handler(same).error(), Errno::Eexist);
  EXPECT_EQ(w.luo().register_handler(unnamed).error(), Errno::Einval);
  EXPECT_EQ(w.luo().register_handler(too_long).error(), Errno::Einval);
  EXPECT_TRUE(w.luo().register_handler(longest));
  EXPECT_EQ(w.luo().unregister_handler(same).error(), Errno::Enoent);
  EXPECT_TRUE(w.luo().unregister_handler(longest));

  auto s = w.create("s");
  ASSERT_TRUE(w.preserve(*s, w.open_fake(1), 1));
  EXPECT_EQ(w.luo().unregister_handler(*w.a).error(), Errno::Ebusy);
  s = nullptr;
  EXPECT_TRUE(w.luo().unregister_handler(*w.a));
}

TEST_F(Preserve, LinkRules) {
  EXPECT_EQ(w.luo().link_flb(*w.a, *w.one), Result<void>());
  EXPECT_EQ(w.luo().link_flb(*w.a, *w.one).error(), Errno::Eexist);
  test::FakeFlb namesake(w.events, "one"), unnamed(w.events, "");
  EXPECT_EQ(w.luo().link_flb(*w.b, namesake).error(), Errno::Eexist);
  EXPECT_EQ(w.luo().link_flb(*w.b, unnamed).error(), Errno::Einval);
  EXPECT_TRUE(w.luo().link_flb(*w.b, *w.one));
  test::FakeHandler stranger(w.heap(), w.events, "c-file");
  EXPECT_EQ(w.luo().link_flb(stranger, *w.one).error(), Errno::Enoent);
  // As many as one page holds.
  std::vector<std::unique_ptr<test::FakeFlb>> many;
  for (u64 i = 1; i < kMaxFlbs; ++i) {
    many.push_back(std::make_unique<test::FakeFlb>(w.events, "flb-" + std::to_string(i)));
    ASSERT_TRUE(w.luo().link_flb(*w.a, *many.back()));
  }
  EXPECT_EQ(w.luo().link_flb(*w.a, *w.two).error(), Errno::Enospc);
  // A handler that goes takes its links along.
  ASSERT_TRUE(w.luo().unregister_handler(*w.a));
  EXPECT_TRUE(w.luo().link_flb(*w.b, *w.two));
  ASSERT_TRUE(w.luo().unregister_handler(*w.b));
}

TEST_F(Preserve, OutgoingStateIsCounted) {
  ASSERT_TRUE(w.link_flbs());
  EXPECT_EQ(w.luo().get_outgoing(*w.one).error(), Errno::Enoent);
  auto s = w.create("s");
  ASSERT_TRUE(w.preserve(*s, w.open_fake(1), 1));
  ASSERT_TRUE(w.luo().get_outgoing(*w.one));
  w.take_events();
  s = nullptr;
  EXPECT_EQ(w.take_events(), (Events{"unpreserve 1", "second unpreserve"}));
  w.luo().put_outgoing(*w.one);
  EXPECT_EQ(w.take_events(), (Events{"one unpreserve"}));
}

TEST_F(Preserve, EndsWithoutALeak) {
  ASSERT_TRUE(w.link_flbs());
  {
    auto s = w.create("s");
    ASSERT_TRUE(w.preserve(*s, w.open_fake(1), 1));
  }
  w.task.close_all();
  w.shut_down();
  EXPECT_EQ(w.heap().bytes_in_use(), 0u);
  w.heap().trim();
  const auto t = w.machines.frames().totals();
  w.machines.destroy_kho();
  EXPECT_EQ(w.machines.frames().totals().free, t.frames);
}

}  // namespace
}  // namespace perdure::luo
