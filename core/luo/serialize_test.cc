// The reboot path: order of freezing, undoing at every step, what is written, and what happens after.
#include "core/luo/fakes.h"

namespace perdure::luo {
namespace {

using test::Events;
using test::World;

class Serialize : public ::testing::Test {
 protected:
  // Sessions "s" (a 1, b 2, a 3), "t" (no file), "u" (a 4).
  void fill() {
    s = w.create("s");
    t = w.create("t");
    u = w.create("u");
    ASSERT_TRUE(w.preserve(*s, w.open_fake(101), 1));
    ASSERT_TRUE(w.preserve(*s, w.open_fake(102, "b-file"), 2));
    ASSERT_TRUE(w.preserve(*s, w.open_fake(103), 3));
    ASSERT_TRUE(w.preserve(*u, w.open_fake(104), 4));
    w.take_events();
  }
  const LuoSer& ser() { return *w.machines.machine.virt<LuoSer>(w.kho().outgoing_subtree("LUO")->at); }
  const FlbHeader& flbs() { return *w.machines.machine.virt<FlbHeader>(Phys(ser().flbs)); }
  template <class T>
  const T& entry(u64 block, u64 i) {
    return *w.machines.machine.virt<const T>(Phys(block + 16 + i * sizeof(T)));
  }
  const kho::BlockHeader& header(u64 block) { return *w.machines.machine.virt<const kho::BlockHeader>(Phys(block)); }
  void release() { s = t = u = nullptr; }
  void die() {
    for (auto* f : {&s, &t, &u}) w.held.push_back(std::move(*f));
  }

  World w;
  Ref<SessionFile> s, t, u;
};

TEST_F(Serialize, IdleKernelLeavesAnEmptyRecord) {
  EXPECT_EQ(memcmp(&ser(), "luo-v5\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24), 0);
  EXPECT_EQ(flbs().pages, 1u);
  EXPECT_EQ(flbs().count, 0u);
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(ser().sessions, 0u);
}

TEST_F(Serialize, OldestSessionAndFileFirst) {
  fill();
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(w.take_events(), (Events{"freeze 1", "freeze 2", "freeze 3", "freeze 4"}));
  die();
}

TEST_F(Serialize, WhatIsWritten) {
  ASSERT_TRUE(w.link_flbs());
  w.a->change_data = true;
  fill();
  ASSERT_TRUE(w.luo().get_outgoing(*w.two));
  ASSERT_TRUE(w.luo().serialize());
  const u64 block = ser().sessions;
  ASSERT_NE(block, 0u);
  EXPECT_EQ(header(block).next, 0u);
  EXPECT_EQ(header(block).count, 3u);
  EXPECT_STREQ(entry<SessionSer>(block, 0).name, "s");
  EXPECT_EQ(entry<SessionSer>(block, 0).count, 3u);
  EXPECT_STREQ(entry<SessionSer>(block, 1).name, "t");
  EXPECT_EQ(entry<SessionSer>(block, 1).files, 0u);
  EXPECT_EQ(entry<SessionSer>(block, 1).count, 0u);
  EXPECT_STREQ(entry<SessionSer>(block, 2).name, "u");
  const u64 files = entry<SessionSer>(block, 0).files;
  EXPECT_EQ(header(files).count, 3u);
  EXPECT_STREQ(entry<FileSer>(files, 0).compatible, "a-file");
  EXPECT_EQ(entry<FileSer>(files, 0).token, 1u);
  EXPECT_EQ(entry<FileSer>(files, 0).data, 1101u);  // as freeze() changed it
  EXPECT_STREQ(entry<FileSer>(files, 1).compatible, "b-file");
  EXPECT_EQ(entry<FileSer>(files, 1).data, 102u);
  EXPECT_TRUE(w.kho().is_preserved(Phys(files), 0));
  EXPECT_TRUE(w.kho().is_preserved(Phys(block), 0));
  const u64 page = ser().flbs;
  EXPECT_EQ(flbs().count, 2u);
  EXPECT_STREQ(entry<FlbSer>(page, 0).compatible, "one");
  EXPECT_EQ(entry<FlbSer>(page, 0).count, 3u);
  EXPECT_EQ(entry<FlbSer>(page, 0).data, 7004u);  // as the state's freeze() said
  EXPECT_STREQ(entry<FlbSer>(page, 1).compatible, "second");
  EXPECT_EQ(entry<FlbSer>(page, 1).count, 5u);
  die();
}

TEST_F(Serialize, RefusalOfTheFirstFile) {
  fill();
  w.a->refuse.insert("freeze 1");
  EXPECT_EQ(w.luo().serialize().error(), Errno::Eagain);
  EXPECT_EQ(w.take_events(), (Events{"freeze 1"}));
  EXPECT_NE(w.last_line().find("session \"s\": a-file with token 0x1 cannot be frozen: EAGAIN"), std::string::npos);
}

TEST_F(Serialize, RefusalInTheMiddleOfASession) {
  fill();
  w.a->refuse.insert("freeze 3");
  EXPECT_EQ(w.luo().serialize().error(), Errno::Eagain);
  EXPECT_EQ(w.take_events(), (Events{"freeze 1", "freeze 2", "freeze 3", "unfreeze 1", "unfreeze 2"}));
}

TEST_F(Serialize, RefusalInALaterSessionUndoesSessionsNewestFirst) {
  fill();
  const auto v = w.create("v");
  ASSERT_TRUE(w.preserve(*v, w.open_fake(105), 5));
  w.take_events();
  w.a->refuse.insert("freeze 5");
  EXPECT_EQ(w.luo().serialize().error(), Errno::Eagain);
  EXPECT_EQ(w.take_events(), (Events{"freeze 1", "freeze 2", "freeze 3", "freeze 4", "freeze 5", "unfreeze 4",
                                     "unfreeze 1", "unfreeze 2", "unfreeze 3"}));
}

TEST_F(Serialize, AfterARefusalEverythingIsAsBefore) {
  ASSERT_TRUE(w.link_flbs());
  w.a->change_data = true;
  fill();
  w.two->refuse.insert("freeze");
  EXPECT_EQ(w.luo().serialize().error(), Errno::Eio);
  EXPECT_EQ(ser().sessions, 0u);
  EXPECT_EQ(flbs().count, 0u);
  w.two->refuse.clear();
  // Mutable again in every way, and the retry works.
  ASSERT_TRUE(w.preserve(*t, w.open_fake(106), 6));
  u = nullptr;
  w.take_events();
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(w.take_events(), (Events{"freeze 1", "freeze 2", "freeze 3", "freeze 6", "one freeze", "second freeze"}));
  EXPECT_EQ(header(ser().sessions).count, 2u);
  EXPECT_EQ(entry<FileSer>(entry<SessionSer>(ser().sessions, 0).files, 0).data, 1101u);
  die();
}

TEST_F(Serialize, EveryFailureOfAllocationIsUndone) {
  // A waiting session needs memory when it is forwarded.
  fill();
  die();
  w.update();
  auto fresh = w.create("fresh");
  ASSERT_TRUE(w.preserve(*fresh, w.open_fake(9), 9));
  ASSERT_TRUE(w.luo().serialize());  // warm
  w.luo().unfreeze_all();
  w.heap().trim();
  const auto frames = w.machines.frames().totals();
  const u64 bytes = w.heap().bytes_in_use();
  bool done = false;
  for (u64 nth = 1; !done; ++nth) {
    w.take_events();
    const auto r = w.steps().failing(nth, [&] { return w.luo().serialize(); });
    if (r) {
      done = true;
      EXPECT_GT(nth, 2u);
      w.luo().unfreeze_all();
    } else {
      EXPECT_EQ(r.error(), Errno::Enomem);
    }
    EXPECT_EQ(ser().sessions, 0u);
    w.heap().trim();
    ASSERT_EQ(w.machines.frames().totals(), frames) << nth;
    ASSERT_EQ(w.heap().bytes_in_use(), bytes) << nth;
    int forwarded = 0, frozen = 0;
    for (const auto& e : w.take_events()) {
      forwarded += e.starts_with("forward");
      forwarded -= e.starts_with("unforward");
      frozen += e.starts_with("freeze");
      frozen -= e.starts_with("unfreeze");
    }
    EXPECT_EQ(forwarded, 0);
    EXPECT_EQ(frozen, 0);
    ASSERT_LT(nth, 30u);
  }
}

TEST_F(Serialize, FrozenKernelIsOverForPrograms) {
  fill();
  auto device = *w.device().open();
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(w.luo().serialize().error(), Errno::Ebusy);
  EXPECT_EQ(w.preserve(*s, w.open_fake(200), 9).error(), Errno::Ekilled);
  EXPECT_EQ(w.luo().create_session("x").error(), Errno::Ekilled);
  EXPECT_EQ(w.luo().retrieve_session("x").error(), Errno::Ekilled);
  EXPECT_EQ(s->ioctl(w.task, uapi::kLiveupdateSessionGetName,
                     w.task.put(uapi::LiveupdateGetName{sizeof(uapi::LiveupdateGetName), 0, {}}))
                .error(),
            Errno::Ekilled);
  uapi::LiveupdateSession call{sizeof(uapi::LiveupdateSession), -1, "x"};
  EXPECT_EQ(device->ioctl(w.task, uapi::kLiveupdateCreateSession, w.task.put(call)).error(), Errno::Ekilled);
  EXPECT_EQ(device->ioctl(w.task, uapi::kLiveupdateRetrieveSession, w.task.put(call)).error(), Errno::Ekilled);
  EXPECT_EQ(w.device().open().error(), Errno::Ekilled);
  w.held.push_back(device);
  device = nullptr;
  die();
}

TEST_F(Serialize, CloseAfterFreezeUnpreservesNothing) {
  fill();
  ASSERT_TRUE(w.luo().serialize());
  w.take_events();
  release();
  EXPECT_EQ(w.take_events(), Events{});
  w.jump();
  EXPECT_TRUE(w.load_result);
  EXPECT_TRUE(w.retrieve("s"));
}

TEST_F(Serialize, FailedJumpUndoesTheFreeze) {
  fill();
  ASSERT_TRUE(w.luo().serialize());
  s = nullptr;  // dies in between
  w.take_events();
  w.luo().unfreeze_all();
  EXPECT_EQ(w.take_events(), (Events{"unfreeze 4", "unfreeze 1", "unfreeze 2", "unfreeze 3",  // newest session first
                                     "unpreserve 3", "unpreserve 2", "unpreserve 1"}));
  w.task.close_all();
  EXPECT_EQ(w.take_events(), (Events{"closed 101", "closed 102", "closed 103"}));
  EXPECT_EQ(ser().sessions, 0u);
  // "s" is gone, the others go on.
  EXPECT_TRUE(SessionFile::create(w.luo(), "s"));
  EXPECT_TRUE(w.preserve(*t, w.open_fake(300), 1));
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(header(ser().sessions).count, 2u);
  die();
}

TEST_F(Serialize, NoEmptyBlockCrossesAfterARefusedDuplicate) {
  // 51 sessions fill a block exactly: the refused 52nd must leave nothing (kho-luo §6 row 2).
  std::vector<Ref<SessionFile>> sessions;
  for (int i = 0; i < 51; ++i) sessions.push_back(w.create("s" + std::to_string(i)));
  EXPECT_EQ(SessionFile::create(w.luo(), "s0").error(), Errno::Eexist);
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(header(ser().sessions).count, 51u);
  EXPECT_EQ(header(ser().sessions).next, 0u);
  for (auto& session : sessions) w.held.push_back(std::move(session));
}

TEST_F(Serialize, NoEmptyBlockCrossesAfterSessionsLeft) {
  std::vector<Ref<SessionFile>> sessions;
  for (int i = 0; i < 103; ++i) sessions.push_back(w.create("s" + std::to_string(i)));
  sessions.erase(sessions.begin(), sessions.begin() + 52);
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(header(ser().sessions).count, 51u);
  EXPECT_EQ(header(ser().sessions).next, 0u);
  EXPECT_STREQ(entry<SessionSer>(ser().sessions, 0).name, "s52");
  for (auto& session : sessions) w.held.push_back(std::move(session));
}

TEST_F(Serialize, NoEmptyBlockCrossesForFinishedSessions) {
  fill();
  die();
  w.update();
  // 51 in all, and one that is finished but open: room is made for it before that is known.
  std::vector<Ref<SessionFile>> sessions;
  for (int i = 0; i < 49; ++i) sessions.push_back(w.create("n" + std::to_string(i)));
  auto back = w.retrieve("t");
  ASSERT_TRUE(w.finish(**back));
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(header(ser().sessions).count, 51u);
  EXPECT_EQ(header(ser().sessions).next, 0u);
  for (auto& session : sessions) w.held.push_back(std::move(session));
  w.held.push_back(std::move(*back));
}

TEST_F(Serialize, RefusedFileLeavesNoEmptyBlock) {
  s = w.create("s");
  for (u64 i = 0; i < 63; ++i) ASSERT_TRUE(w.preserve(*s, w.open_fake(i), i));
  EXPECT_EQ(w.preserve(*s, w.open_fake(999, "unknown"), 999).error(), Errno::Enoent);
  ASSERT_TRUE(w.luo().serialize());
  const u64 files = entry<SessionSer>(ser().sessions, 0).files;
  EXPECT_EQ(header(files).count, 63u);
  EXPECT_EQ(header(files).next, 0u);
  die();
}

// --- forwarding -------------------------------------------------------------------------------------------------

TEST_F(Serialize, UnretrievedSessionsAreHandedOn) {
  ASSERT_TRUE(w.link_flbs());
  fill();
  die();
  w.update();
  auto mine = w.create("mine");
  ASSERT_TRUE(w.preserve(*mine, w.open_fake(500), 50));
  w.take_events();
  ASSERT_TRUE(w.luo().serialize());
  // Waiting sessions come first, and their states before them.
  EXPECT_EQ(w.take_events(),
            (Events{"forward 1", "forward 2", "forward 3", "forward 4", "freeze 50", "one freeze", "second freeze"}));
  EXPECT_EQ(w.a->next_generation, generation_of(2, "u"));
  EXPECT_EQ(flbs().count, 2u);
  EXPECT_EQ(entry<FlbSer>(ser().flbs, 1).count, 5u);
  w.held.push_back(std::move(mine));
  w.jump();
  ASSERT_TRUE(w.load_result);
  EXPECT_EQ(w.luo().incoming_number(), 2u);
  std::vector<std::string> names;
  w.luo().each_incoming([&](const IncomingSession& i) {
    names.emplace_back(i.name());
    EXPECT_EQ(i.generation(), generation_of(2, i.name()));
  });
  EXPECT_EQ(names, (std::vector<std::string>{"s", "t", "u", "mine"}));
  auto back = w.retrieve("s");
  ASSERT_TRUE(back);
  const s32 fd = *w.retrieve(**back, 3);
  EXPECT_EQ(file_cast<test::FakeFile>(w.task.files[fd].get())->number(), 5103u);
  w.held.push_back(std::move(*back));
}

TEST_F(Serialize, HandedOnByManyKernels) {
  fill();
  die();
  for (int hop = 0; hop < 5; ++hop) {
    w.update();
    ASSERT_TRUE(w.load_result);
  }
  EXPECT_EQ(w.luo().incoming_number(), 5u);
  auto back = w.retrieve("u");
  ASSERT_TRUE(back);
  const s32 fd = *w.retrieve(**back, 4);
  EXPECT_EQ(file_cast<test::FakeFile>(w.task.files[fd].get())->number(), 104u + 4 * 5000u);
  w.held.push_back(std::move(*back));
}

TEST_F(Serialize, FileThatCannotBeHandedOnRefusesTheUpdate) {
  ASSERT_TRUE(w.link_flbs());
  fill();
  die();
  w.update();
  w.b->refuse.insert("forward");
  EXPECT_EQ(w.luo().serialize().error(), Errno::Ebusy);
  EXPECT_EQ(w.take_events(), (Events{"one preserve", "second preserve", "forward 1", "forward 2", "unforward 1",
                                     "second unpreserve", "one unpreserve"}));
  EXPECT_NE(w.last_line().find("session \"s\" was never retrieved and cannot be handed on: b-file with token 0x2"),
            std::string::npos);
  EXPECT_EQ(ser().sessions, 0u);
  // Its own error goes through.
  w.b->refuse = {"forward 2"};
  EXPECT_EQ(w.luo().serialize().error(), Errno::Enomem);
  w.b->refuse.clear();
  // And in a later session, the earlier ones come back.
  w.a->refuse = {"forward 4"};
  w.take_events();
  EXPECT_EQ(w.luo().serialize().error(), Errno::Enomem);
  EXPECT_EQ(w.take_events(),
            (Events{"one preserve", "second preserve", "forward 1", "forward 2", "forward 3", "forward 4",
                    "unforward 3", "unforward 2", "unforward 1", "second unpreserve", "one unpreserve"}));
  // Retrieving and finishing it is the way out.
  w.a->refuse = {"forward 4"};
  {
    auto back = w.retrieve("u");
    ASSERT_TRUE(back);
    ASSERT_TRUE(w.finish(**back));
  }
  EXPECT_TRUE(w.luo().serialize());
}

TEST_F(Serialize, FailedFreezeUndoesForwarding) {
  fill();
  die();
  w.update();
  auto mine = w.create("mine");
  ASSERT_TRUE(w.preserve(*mine, w.open_fake(500), 50));
  w.a->refuse.insert("freeze 50");
  w.take_events();
  EXPECT_EQ(w.luo().serialize().error(), Errno::Eagain);
  EXPECT_EQ(w.take_events(), (Events{"forward 1", "forward 2", "forward 3", "forward 4", "freeze 50", "unforward 4",
                                     "unforward 3", "unforward 2", "unforward 1"}));
  // They can still be retrieved.
  auto back = w.retrieve("s");
  ASSERT_TRUE(back);
  EXPECT_TRUE(w.retrieve(**back, 1));
}

TEST_F(Serialize, FailedJumpUndoesForwarding) {
  fill();
  die();
  w.update();
  ASSERT_TRUE(w.luo().serialize());
  w.take_events();
  w.luo().unfreeze_all();
  EXPECT_EQ(w.take_events(), (Events{"unforward 4", "unforward 3", "unforward 2", "unforward 1"}));
  auto back = w.retrieve("s");
  ASSERT_TRUE(back);
  EXPECT_TRUE(w.retrieve(**back, 1));
  w.held.push_back(std::move(*back));
}

TEST_F(Serialize, SessionInTheMiddleOfATransferRefusesTheUpdate) {
  fill();
  die();
  w.update();
  auto back = w.retrieve("s");
  ASSERT_TRUE(back);
  EXPECT_EQ(w.luo().serialize().error(), Errno::Ebusy);
  EXPECT_NE(w.last_line().find("session \"s\" is in the middle of a transfer"), std::string::npos);
  ASSERT_TRUE(w.finish(**back));
  EXPECT_TRUE(w.luo().serialize());  // a finished one may stay open
  w.luo().unfreeze_all();
  back = fail(Errno::Enoent);
  EXPECT_TRUE(w.luo().serialize());
}

TEST_F(Serialize, IncomingSessionClosedWhileFrozen) {
  fill();
  die();
  w.update();
  auto back = w.retrieve("t");
  ASSERT_TRUE(w.finish(**back));
  ASSERT_TRUE(w.luo().serialize());
  back = fail(Errno::Enoent);
  w.luo().unfreeze_all();
  EXPECT_EQ(w.retrieve("t").error(), Errno::Enoent);
}

TEST_F(Serialize, ZombieIsFinishedWhenItCanBe) {
  fill();
  die();
  w.update();
  auto back = w.retrieve("u");
  ASSERT_TRUE(w.retrieve(**back, 4));
  w.task.close_all();
  w.a->refuse.insert("finish 4");
  w.take_events();
  back = fail(Errno::Enoent);
  EXPECT_EQ(w.take_events(), (Events{"can_finish 4"}));
  EXPECT_EQ(w.retrieve("u").error(), Errno::Einval);
  EXPECT_EQ(w.luo().serialize().error(), Errno::Ebusy);
  EXPECT_NE(w.last_line().find("session \"u\" was closed, but"), std::string::npos);
  w.a->refuse.clear();
  w.take_events();
  ASSERT_TRUE(w.luo().serialize());
  EXPECT_EQ(w.take_events(), (Events{"can_finish 4", "finish 4", "forward 1", "forward 2", "forward 3", "closed 104"}));
  EXPECT_EQ(header(ser().sessions).count, 2u);
}

TEST_F(Serialize, NewSessionWithTheNameOfAWaitingOne) {
  fill();
  die();
  w.update();
  auto again = w.create("t");  // allowed
  EXPECT_EQ(w.luo().serialize().error(), Errno::Eexist);
  EXPECT_NE(w.last_line().find("session \"t\" waits to be retrieved, and a new one has its name"), std::string::npos);
  again = nullptr;
  EXPECT_TRUE(w.luo().serialize());
}

TEST(Generation, TiesNameAndUpdate) {
  // Part of what crosses: records of one kernel are compared by the next one.
  static_assert(generation_of(1, "s") != generation_of(2, "s"));
  static_assert(generation_of(1, "s") != generation_of(1, "t"));
  EXPECT_EQ(generation_of(1, "vm"), 1357994605332382808u);
}

}  // namespace
}  // namespace perdure::luo
