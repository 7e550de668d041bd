// The new kernel: retrieving, finishing, shared states, and what damaged images do.
#include <random>

#include "core/luo/fakes.h"

namespace perdure::luo {
namespace {

using test::Events;
using test::World;

struct Rig {
  // Sessions "s" (a 1, b 2, a 3), "t" (no file), "u" (a 4).
  void fill() {
    auto s = w.create("s"), t = w.create("t"), u = w.create("u");
    ASSERT_TRUE(w.preserve(*s, w.open_fake(101), 1));
    ASSERT_TRUE(w.preserve(*s, w.open_fake(102, "b-file"), 2));
    ASSERT_TRUE(w.preserve(*s, w.open_fake(103), 3));
    ASSERT_TRUE(w.preserve(*u, w.open_fake(104), 4));
    for (auto* f : {&s, &t, &u}) w.held.push_back(std::move(*f));
  }
  void update() {
    fill();
    w.update();
    ASSERT_TRUE(w.load_result);
  }
  // Serializes, lets `damage` loose on the records, and jumps.
  void update_damaged(FunctionRef<void(LuoSer&)> damage) {
    fill();
    ASSERT_TRUE(w.luo().serialize());
    damage(*w.machines.machine.virt<LuoSer>(w.kho().outgoing_subtree("LUO")->at));
    w.jump();
  }
  template <class T>
  T& entry(u64 block, u64 i) {
    return *w.machines.machine.virt<T>(Phys(block + 16 + i * sizeof(T)));
  }
  kho::BlockHeader& header(u64 block) { return *w.machines.machine.virt<kho::BlockHeader>(Phys(block)); }
  u64 number(s32 fd) { return file_cast<test::FakeFile>(w.task.files[fd].get())->number(); }

  World w;
};

class Incoming : public ::testing::Test, protected Rig {};

TEST_F(Incoming, FilesAreRetrievedInAnyOrder) {
  update();
  EXPECT_EQ(w.luo().incoming_number(), 1u);
  auto s = *w.retrieve("s");
  EXPECT_EQ(number(*w.retrieve(*s, 3)), 103u);
  EXPECT_EQ(number(*w.retrieve(*s, 1)), 101u);
  EXPECT_EQ(w.take_events(), (Events{"retrieve 3", "retrieve 1"}));
  EXPECT_EQ(w.retrieve(*s, 9).error(), Errno::Enoent);
  w.task.close_all();
  EXPECT_EQ(w.take_events(), Events{});  // LUO holds them
  ASSERT_TRUE(w.finish(*s));
  // All are asked oldest first, then finished newest first; what was not retrieved is discarded.
  EXPECT_EQ(w.take_events(), (Events{"can_finish 1", "can_finish 2", "can_finish 3", "finish 3", "finish 2", "finish 1",
                                     "closed 103", "closed 101"}));
  ASSERT_TRUE(w.finish(*s));  // again: nothing
  EXPECT_EQ(w.take_events(), Events{});
  EXPECT_EQ(w.retrieve(*s, 1).error(), Errno::Enoent);
}

TEST_F(Incoming, SecondRetrieveIsTheSameFile) {
  update();
  auto s = *w.retrieve("s");
  const s32 one = *w.retrieve(*s, 1), two = *w.retrieve(*s, 1);
  EXPECT_NE(one, two);
  EXPECT_EQ(w.task.files[one].get(), w.task.files[two].get());
  EXPECT_EQ(w.take_events(), (Events{"retrieve 1"}));
}

TEST_F(Incoming, SessionIsRetrievedOnce) {
  update();
  auto s = w.retrieve("s");
  ASSERT_TRUE(s);
  EXPECT_EQ(w.retrieve("s").error(), Errno::Einval);
  s = fail(Errno::Enoent);
  EXPECT_EQ(w.retrieve("s").error(), Errno::Enoent);
  EXPECT_EQ(w.retrieve("nobody").error(), Errno::Enoent);
}

TEST_F(Incoming, CloseFinishes) {
  update();
  auto s = w.retrieve("s");
  w.task.close(*w.retrieve(**s, 1));
  const s32 kept = *w.retrieve(**s, 3);
  w.take_events();
  s = fail(Errno::Enoent);
  EXPECT_EQ(w.take_events(),
            (Events{"can_finish 1", "can_finish 2", "can_finish 3", "finish 3", "finish 2", "finish 1", "closed 101"}));
  EXPECT_EQ(number(kept), 103u);  // the program's own descriptor lives on
}

TEST_F(Incoming, OneFileThatIsNotReadyStopsFinish) {
  update();
  auto s = *w.retrieve("s");
  w.a->refuse.insert("finish 3");
  EXPECT_EQ(w.finish(*s).error(), Errno::Ebusy);
  EXPECT_EQ(w.take_events(), (Events{"can_finish 1", "can_finish 2", "can_finish 3"}));
  EXPECT_TRUE(w.retrieve(*s, 1));  // still usable
  w.a->refuse.clear();
  EXPECT_TRUE(w.finish(*s));
}

TEST_F(Incoming, FailedRetrieveIsRemembered) {
  update();
  auto s = *w.retrieve("s");
  w.a->refuse.insert("retrieve");
  EXPECT_EQ(w.retrieve(*s, 1).error(), Errno::Enomem);
  w.a->refuse.clear();
  EXPECT_EQ(w.retrieve(*s, 1).error(), Errno::Enomem);
  EXPECT_EQ(w.take_events(), (Events{"retrieve 1"}));
  EXPECT_TRUE(w.logged("a-file with token 0x1 cannot be retrieved: ENOMEM"));
  ASSERT_TRUE(w.finish(*s));
  EXPECT_EQ(w.a->last_status, -static_cast<int>(Errno::Enomem));
}

TEST_F(Incoming, FilesMayNeedEachOther) {
  update();
  auto s = *w.retrieve("s");
  w.b->on_retrieve = [&](FileState& state) -> Result<void> {
    auto needed = TRY(state.session.file_of(3));
    EXPECT_EQ(*state.session.token_of(*needed), 3u);
    EXPECT_EQ(state.session.token_of(*w.fake(50)).error(), Errno::Enoent);
    EXPECT_EQ(state.session.file_of(99).error(), Errno::Enoent);
    EXPECT_EQ(state.session.generation(), generation_of(1, "s"));
    EXPECT_EQ(state.session.next_generation(), generation_of(2, "s"));
    return {};
  };
  EXPECT_TRUE(w.retrieve(*s, 2));
  EXPECT_EQ(w.take_events(), (Events{"retrieve 2", "retrieve 3", "CLOSED UNDER A LOCK", "closed 50"}));
}

TEST_F(Incoming, CirclesAreCut) {
  update();
  auto s = *w.retrieve("s");
  const auto other = [](u64 token) {
    return [token](FileState& state) -> Result<void> {
      TRY(state.session.file_of(token));
      return {};
    };
  };
  w.b->on_retrieve = other(3);
  w.a->on_retrieve = other(2);
  EXPECT_EQ(w.retrieve(*s, 2).error(), Errno::Edeadlock);
}

TEST_F(Incoming, ObjectBelongsToItsSessionUntilFinish) {
  update();
  auto s = *w.retrieve("s");
  const s32 fd = *w.retrieve(*s, 1);
  auto next = w.create("next");
  EXPECT_EQ(w.preserve(*next, fd, 1).error(), Errno::Ebusy);
  ASSERT_TRUE(w.finish(*s));
  EXPECT_TRUE(w.preserve(*next, fd, 1));
  w.held.push_back(next);
}

TEST_F(Incoming, TwoRecordsOfOneObject) {
  update_damaged([&](LuoSer& ser) { entry<FileSer>(entry<SessionSer>(ser.sessions, 0).files, 2).data = 101; });
  auto s = *w.retrieve("s");
  EXPECT_TRUE(w.retrieve(*s, 1));
  EXPECT_EQ(w.retrieve(*s, 3).error(), Errno::Ebusy);
  EXPECT_EQ(w.retrieve(*s, 3).error(), Errno::Ebusy);
  w.take_events();
  ASSERT_TRUE(w.finish(*s));
  EXPECT_EQ(w.take_events().back(), "closed 101");
}

TEST_F(Incoming, FailingEveryAllocationOfARetrieve) {
  update();
  auto s = *w.retrieve("s");
  EXPECT_TRUE(w.retrieve(*s, 1));
  for (u64 nth = 1; nth < 4; ++nth) {
    const auto r = w.steps().failing(nth, [&] { return w.retrieve("u"); });
    if (r) break;
    EXPECT_EQ(r.error(), Errno::Enomem);
  }
  EXPECT_EQ(w.retrieve("u").error(), Errno::Enoent);  // the one that worked was closed, and is finished
}

// --- shared states ------------------------------------------------------------------------------------------------

TEST_F(Incoming, StateIsRetrievedOnceAndFinishedWithItsLastFile) {
  ASSERT_TRUE(w.link_flbs());
  update();
  EXPECT_EQ(*w.luo().incoming_flb_data("one"), 7004u);
  EXPECT_EQ(*w.luo().incoming_flb_data("second"), 7007u);
  EXPECT_EQ(w.luo().incoming_flb_data("third").error(), Errno::Enoent);
  ASSERT_TRUE(w.luo().get_incoming(*w.one));
  ASSERT_TRUE(w.luo().get_incoming(*w.one));
  w.luo().put_incoming(*w.one);
  w.luo().put_incoming(*w.one);
  EXPECT_EQ(w.take_events(), (Events{"one retrieve 7004"}));
  auto u = w.retrieve("u");
  ASSERT_TRUE(w.finish(**u));
  EXPECT_EQ(w.take_events(), (Events{"can_finish 4", "finish 4"}));
  auto s = w.retrieve("s");
  ASSERT_TRUE(w.finish(**s));
  // The second state hangs on b-file, too; the first goes with the last a-file.
  EXPECT_EQ(w.take_events(), (Events{"can_finish 1", "can_finish 2", "can_finish 3", "finish 3", "finish 2", "finish 1",
                                     "second finish 7007", "one finish 7004"}));
  EXPECT_EQ(w.luo().get_incoming(*w.one).error(), Errno::Enodata);
}

TEST_F(Incoming, StateNobodyAskedForIsFinishedToo) {
  // Linux's counter runs below 0 here (kho-luo §2.8).
  ASSERT_TRUE(w.link_flbs());
  update();
  w.retrieve("s") = fail(Errno::Enoent);
  w.take_events();
  w.retrieve("u") = fail(Errno::Enoent);
  EXPECT_EQ(w.take_events(), (Events{"can_finish 4", "finish 4", "second finish 7007", "one finish 7004"}));
}

TEST_F(Incoming, StateInUseOutlivesItsFiles) {
  ASSERT_TRUE(w.link_flbs());
  update();
  ASSERT_TRUE(w.luo().get_incoming(*w.one));
  w.retrieve("s") = fail(Errno::Enoent);
  w.retrieve("u") = fail(Errno::Enoent);
  EXPECT_EQ(w.take_events().back(), "second finish 7007");
  w.luo().put_incoming(*w.one);
  EXPECT_EQ(w.take_events(), (Events{"one finish 7004"}));
}

TEST_F(Incoming, FailedStateIsRemembered) {
  ASSERT_TRUE(w.link_flbs());
  update();
  w.one->refuse.insert("retrieve");
  EXPECT_EQ(w.luo().get_incoming(*w.one).error(), Errno::Eproto);
  w.one->refuse.clear();
  EXPECT_EQ(w.luo().get_incoming(*w.one).error(), Errno::Eproto);
  w.retrieve("s") = fail(Errno::Enoent);
  w.retrieve("u") = fail(Errno::Enoent);
  const auto events = w.take_events();
  EXPECT_EQ(std::count(events.begin(), events.end(), "one finish 7004"), 0);
}

TEST_F(Incoming, StateWithoutRecord) {
  update();  // nothing was linked in the old kernel
  ASSERT_TRUE(w.link_flbs());
  EXPECT_EQ(w.luo().get_incoming(*w.one).error(), Errno::Enoent);
  w.retrieve("s") = fail(Errno::Enoent);
  w.retrieve("u") = fail(Errno::Enoent);
  for (const auto& e : w.take_events()) EXPECT_EQ(e.find("one"), std::string::npos);
}

TEST_F(Incoming, ForgedCountsOfAStateMeanNothing) {
  for (u64 count : {u64{0}, u64{1}, u64{1000}, ~u64{0}}) {
    World fresh;
    ASSERT_TRUE(fresh.link_flbs());
    auto s = fresh.create("s");
    ASSERT_TRUE(fresh.preserve(*s, fresh.open_fake(1), 1));
    ASSERT_TRUE(fresh.preserve(*s, fresh.open_fake(2), 2));
    fresh.held.push_back(std::move(s));
    ASSERT_TRUE(fresh.luo().serialize());
    const auto& ser = *fresh.machines.machine.virt<LuoSer>(fresh.kho().outgoing_subtree("LUO")->at);
    fresh.machines.machine.virt<FlbSer>(Phys(ser.flbs + 16))->count = count;
    fresh.jump();
    ASSERT_TRUE(fresh.load_result);
    fresh.retrieve("s") = fail(Errno::Enoent);
    EXPECT_EQ(fresh.take_events(), (Events{"can_finish 1", "can_finish 2", "finish 2", "finish 1", "second finish 7007",
                                           "one finish 7004"}));
  }
}

// --- damage -----------------------------------------------------------------------------------------------------

TEST_F(Incoming, UnknownVersionIsReportedAndClosed) {
  update_damaged([](LuoSer& ser) { ser.compatible[5] = '6'; });
  EXPECT_EQ(w.load_result.error(), Errno::Eproto);
  EXPECT_TRUE(w.logged("of version \"luo-v6\", known is \"luo-v5\""));
  EXPECT_EQ(w.device().open().error(), Errno::Eio);
  EXPECT_EQ(w.luo().incoming_flb_data("one").error(), Errno::Eproto);
  // Nothing was freed: 2 LUO pages, the block of sessions, 2 of files, and the FDT.
  EXPECT_EQ(w.machines.frames().totals().kept, 6u);
  EXPECT_TRUE(w.luo().serialize());  // a jump is the way out
}

TEST_F(Incoming, UnreadableListOfSessions) {
  update_damaged([](LuoSer& ser) { ser.sessions += 8; });
  EXPECT_EQ(w.load_result.error(), Errno::Eproto);
  EXPECT_TRUE(w.logged("what the former kernel left cannot be read"));
  EXPECT_EQ(w.device().open().error(), Errno::Eio);
}

TEST_F(Incoming, EmptyBlockOfSessionsIsNoPanic) {
  update_damaged([&](LuoSer& ser) {
    const Phys empty = *w.kho().alloc_preserved(kPageSize);
    header(ser.sessions).next = empty.value;
  });
  EXPECT_TRUE(w.load_result);
  EXPECT_TRUE(w.retrieve("s"));
}

TEST_F(Incoming, DamagedSessionLeavesTheOthers) {
  const std::function<void(SessionSer&, Rig&)> damages[] = {
      [](SessionSer& s, Rig&) { s.count = 4; },
      [](SessionSer& s, Rig&) { s.files = 0; },
      [](SessionSer& s, Rig&) { s.files = 0x123000; },
      [](SessionSer& s, Rig&) { s.files = ~u64{0}; },
      [](SessionSer& s, Rig& t) { t.header(s.files).count = 64; },
      [](SessionSer& s, Rig& t) { t.header(s.files).next = s.files; },
  };
  for (const auto& damage : damages) {
    Rig t;
    t.update_damaged([&](LuoSer& ser) { damage(t.entry<SessionSer>(ser.sessions, 0), t); });
    ASSERT_TRUE(t.w.load_result);
    EXPECT_TRUE(t.w.logged("session \"s\" of the former kernel"));
    auto u = t.w.retrieve("u");
    ASSERT_TRUE(u);
    EXPECT_TRUE(t.w.retrieve(**u, 4));
    EXPECT_TRUE(t.w.finish(**u));
    // It stands in the way of the next update until somebody took note of it.
    EXPECT_EQ(t.w.luo().serialize().error(), Errno::Ebusy);
    auto s = t.w.retrieve("s");
    ASSERT_TRUE(s);
    EXPECT_EQ(t.w.retrieve(**s, 1).error(), Errno::Eio);
    EXPECT_TRUE(t.w.finish(**s));
    EXPECT_TRUE(t.w.luo().serialize());
    t.w.held.push_back(std::move(*s));
    t.w.held.push_back(std::move(*u));
  }
}

TEST_F(Incoming, SessionsWithBadNames) {
  update_damaged([&](LuoSer& ser) {
    memset(entry<SessionSer>(ser.sessions, 0).name, 'x', kNameSize);
    entry<SessionSer>(ser.sessions, 1).name[0] = '\0';
  });
  EXPECT_TRUE(w.load_result);
  EXPECT_TRUE(w.logged("a session of the former kernel has no readable name"));
  EXPECT_TRUE(w.retrieve("u"));
}

TEST_F(Incoming, TwoSessionsOfOneName) {
  update_damaged([&](LuoSer& ser) { set_text(entry<SessionSer>(ser.sessions, 2).name, "s"); });
  EXPECT_TRUE(w.load_result);
  auto first = w.retrieve("s");
  EXPECT_TRUE(w.retrieve(**first, 1));
  first = fail(Errno::Enoent);
  auto second = w.retrieve("s");
  ASSERT_TRUE(second);
  EXPECT_TRUE(w.retrieve(**second, 4));
}

TEST_F(Incoming, UnknownTypeOfFileLeavesTheOthers) {
  fill();
  w.leave_out("b-file");
  w.update();
  ASSERT_TRUE(w.load_result);
  auto s = *w.retrieve("s");
  EXPECT_EQ(w.retrieve(*s, 2).error(), Errno::Enoent);
  EXPECT_TRUE(w.logged("nobody here can retrieve a b-file (token 0x2)"));
  EXPECT_TRUE(w.retrieve(*s, 1));
  EXPECT_TRUE(w.retrieve(*s, 3));
  // A handler may still come.
  ASSERT_TRUE(w.luo().register_handler(*w.b));
  EXPECT_TRUE(w.retrieve(*s, 2));
}

TEST_F(Incoming, UnknownTypeOfFileCanBeGivenUp) {
  fill();
  w.leave_out("b-file");
  w.update();
  EXPECT_EQ(w.luo().serialize().error(), Errno::Ebusy);
  EXPECT_TRUE(w.logged("b-file with token 0x2 is of an unknown type; retrieve the session and finish it first"));
  w.take_events();
  w.retrieve("s") = fail(Errno::Enoent);
  EXPECT_EQ(w.take_events(), (Events{"can_finish 1", "can_finish 3", "finish 3", "finish 1"}));
  EXPECT_TRUE(w.logged("nobody here knows what token 0x2 is; its memory stays reserved"));
  EXPECT_TRUE(w.luo().serialize());
}

TEST_F(Incoming, FileWithoutReadableType) {
  update_damaged([&](LuoSer& ser) {
    memset(entry<FileSer>(entry<SessionSer>(ser.sessions, 0).files, 1).compatible, 'y', kCompatibleSize);
  });
  ASSERT_TRUE(w.load_result);
  auto s = *w.retrieve("s");
  EXPECT_EQ(w.retrieve(*s, 2).error(), Errno::Eio);
  EXPECT_TRUE(w.retrieve(*s, 1));
  EXPECT_TRUE(w.finish(*s));
}

TEST_F(Incoming, TokenTwiceTheFirstCounts) {
  update_damaged([&](LuoSer& ser) { entry<FileSer>(entry<SessionSer>(ser.sessions, 0).files, 2).token = 1; });
  auto s = *w.retrieve("s");
  EXPECT_EQ(number(*w.retrieve(*s, 1)), 101u);
  EXPECT_TRUE(w.logged("has token 0x1 twice"));
  w.take_events();
  ASSERT_TRUE(w.finish(*s));
  EXPECT_EQ(w.take_events(),
            (Events{"can_finish 1", "can_finish 2", "can_finish 1", "finish 1", "finish 2", "finish 1"}));
}

TEST_F(Incoming, SharedListOfFilesBelongsToTheFirst) {
  update_damaged([&](LuoSer& ser) {
    entry<SessionSer>(ser.sessions, 2).files = entry<SessionSer>(ser.sessions, 0).files;
    entry<SessionSer>(ser.sessions, 2).count = 3;
  });
  ASSERT_TRUE(w.load_result);
  auto s = *w.retrieve("s"), u = *w.retrieve("u");
  EXPECT_TRUE(w.retrieve(*s, 1));
  EXPECT_EQ(w.retrieve(*u, 1).error(), Errno::Eio);
}

TEST_F(Incoming, DamagedPageOfStates) {
  const std::function<void(FlbHeader&)> damages[] = {
      [](FlbHeader& h) { h.count = 64; },
      [](FlbHeader& h) { h.count = ~u64{0}; },
      [](FlbHeader& h) { h.pages = 2; },
      [](FlbHeader& h) { memset(reinterpret_cast<char*>(&h) + sizeof h, 'z', kCompatibleSize); },
  };
  for (const auto& damage : damages) {
    Rig t;
    ASSERT_TRUE(t.w.link_flbs());
    t.update_damaged([&](LuoSer& ser) { damage(*t.w.machines.machine.virt<FlbHeader>(Phys(ser.flbs))); });
    ASSERT_TRUE(t.w.load_result);  // sessions are fine
    EXPECT_EQ(t.w.luo().incoming_flb_data("one").error(), Errno::Eproto);
    EXPECT_EQ(t.w.luo().get_incoming(*t.w.one).error(), Errno::Eproto);
    EXPECT_TRUE(t.w.logged("the page of shared states"));
    EXPECT_TRUE(t.w.retrieve("s"));
  }
}

TEST_F(Incoming, BlobsThatAreNone) {
  const std::function<KhoBlob(World&, KhoBlob)> forgeries[] = {
      [](World&, KhoBlob b) { return KhoBlob{b.at, 31}; },
      [](World&, KhoBlob b) { return KhoBlob{b.at + 8, 32}; },
      [](World&, KhoBlob) { return KhoBlob{Phys(~u64{0} - 3), 32}; },
      [](World& x, KhoBlob) { return KhoBlob{*x.machines.frames().alloc(0), 32}; },
      [](World& x, KhoBlob) {
        (void)x.kho().preserve(Phys(u64{1} << 30), 0);
        return KhoBlob{Phys(u64{1} << 30), 32};  // programs write there
      },
  };
  for (const auto& forge : forgeries) {
    World x;
    ASSERT_TRUE(x.luo().serialize());
    const KhoBlob good = *x.kho().outgoing_subtree("LUO");
    x.kho().remove_subtree("LUO");
    ASSERT_TRUE(x.kho().add_subtree("LUO", forge(x, good)));
    x.jump();
    EXPECT_EQ(x.load_result.error(), Errno::Eproto);
    EXPECT_EQ(x.device().open().error(), Errno::Eio);
  }
}

TEST_F(Incoming, NoRecordAtAllIsFine) {
  w.kho().remove_subtree("LUO");
  w.jump();
  EXPECT_TRUE(w.load_result);
  EXPECT_TRUE(w.device().open());
}

TEST_F(Incoming, EveryFailureOfAllocationWhileLoading) {
  for (u64 nth = 1;; ++nth) {
    Rig t;
    ASSERT_TRUE(t.w.link_flbs());
    t.fill();
    ASSERT_TRUE(t.w.luo().serialize());
    t.w.fail_load_at = nth;
    t.w.jump();
    if (t.w.load_result) break;
    EXPECT_EQ(t.w.load_result.error(), Errno::Enomem);
    EXPECT_EQ(t.w.device().open().error(), Errno::Eio);
    usize sessions = 0;
    t.w.luo().each_incoming([&](const IncomingSession&) { ++sessions; });
    EXPECT_EQ(sessions, 0u);
    ASSERT_LT(nth, 60u);
  }
}

// Bits of all records flipped at random: nothing crashes, nothing is freed twice, what is served is somebody's.
TEST_F(Incoming, FlippedBitsAreSurvived) {
  std::mt19937 rng(5);
  int readable = 0, retrieved = 0;
  for (int round = 0; round < 120; ++round) {
    Rig t;
    ASSERT_TRUE(t.w.link_flbs());
    t.update_damaged([&](LuoSer& ser) {
      const u64 files = t.entry<SessionSer>(ser.sessions, 0).files, more = t.entry<SessionSer>(ser.sessions, 2).files;
      const std::pair<u64, u64> pages[] = {{t.w.machines.machine.phys(&ser).value, sizeof ser},
                                           {ser.sessions, 16 + 3 * 80},
                                           {files, 16 + 3 * 64},
                                           {more, 16 + 64},
                                           {ser.flbs, 16 + 2 * 64}};
      for (int n = 1 + static_cast<int>(rng() % 4); n > 0; --n) {
        const auto& [page, bytes] = pages[rng() % 5];
        *t.w.machines.machine.virt<u8>(Phys(page + rng() % bytes)) ^= static_cast<u8>(1 << rng() % 8);
      }
    });
    if (!t.w.load_result) continue;
    ++readable;
    for (const char* name : {"s", "t", "u"}) {
      auto session = t.w.retrieve(name);
      if (!session) continue;
      for (u64 token = 1; token < 5; ++token) retrieved += t.w.retrieve(**session, token).has_value();
      t.w.task.close_all();
      ASSERT_TRUE(t.w.finish(**session));
    }
    (void)t.w.luo().get_incoming(*t.w.one);
    (void)t.w.luo().serialize();
  }
  EXPECT_GT(readable, 40);
  EXPECT_GT(retrieved, 100);
}

}  // namespace
}  // namespace perdure::luo
