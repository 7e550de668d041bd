// The user API: numbers, sizes, order of checks and every errno (kho-luo §3).
#include "core/luo/fakes.h"

namespace perdure::luo {
namespace {

using test::TestTask;
using test::World;
using uapi::LiveupdateFinish;
using uapi::LiveupdateGetName;
using uapi::LiveupdatePreserveFd;
using uapi::LiveupdateRetrieveFd;
using uapi::LiveupdateSession;

constexpr u32 kCreate = 0xba00, kRetrieveSession = 0xba01, kPreserve = 0xba40, kRetrieve = 0xba41, kFinish = 0xba42,
              kGetName = 0xba43;
// Where nothing is mapped.
constexpr UserAddr kBad{8};

class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override { device = *w.device().open(); }
  Result<u64> call(File& file, u32 cmd) { return file.ioctl(w.task, cmd, TestTask::kMemory); }
  Result<Ref<SessionFile>> create(const char* name) {
    w.task.put(LiveupdateSession{72, -1, {}});
    std::snprintf(reinterpret_cast<char*>(w.task.at(TestTask::kMemory + 8)), 64, "%s", name);
    const auto r = call(*device, kCreate);
    if (!r) return fail(r.error());
    return session(w.task.get<LiveupdateSession>().fd);
  }
  Ref<SessionFile> session(s32 fd) { return Ref<SessionFile>(file_cast<SessionFile>(w.task.files.at(fd).get())); }
  // "in" with token 1, waiting.
  void update() {
    auto s = *create("in");
    ASSERT_TRUE(w.preserve(*s, w.open_fake(1), 1));
    w.held.push_back(std::move(s));
    w.held.push_back(std::move(device));
    w.update();
    device = *w.device().open();
  }
  void TearDown() override {
    w.task.close_all();
    device = nullptr;
  }

  World w;
  Ref<File> device;
};

TEST_F(DeviceTest, OneOpenerAtATime) {
  EXPECT_EQ(device->type().name, "/dev/liveupdate");
  EXPECT_EQ(w.device().open().error(), Errno::Ebusy);
  const Ref<File> dup = device;
  device = nullptr;
  EXPECT_EQ(w.device().open().error(), Errno::Ebusy);
}

TEST_F(DeviceTest, OpenAgainAfterTheLastClose) {
  auto s = create("s");
  device = nullptr;
  device = *w.device().open();
  EXPECT_EQ((*s)->name(), "s");  // sessions do not mind
  w.steps().allocations = 0;
  device = nullptr;
  w.steps().fail_at = 1;
  EXPECT_EQ(w.device().open().error(), Errno::Enomem);
  w.steps().fail_at = 0;
  EXPECT_TRUE(w.device().open());
}

TEST_F(DeviceTest, NumbersOfTheDevice) {
  w.task.put(LiveupdateSession{72, -1, "s"});
  EXPECT_EQ(call(*device, 0xba02).error(), Errno::Einval);
  EXPECT_EQ(device->ioctl(w.task, 0xbaff, kBad).error(), Errno::Einval);  // before the size is looked at
  EXPECT_EQ(device->ioctl(w.task, 0x1200, kBad).error(), Errno::Efault);  // before the rest of the number is
  EXPECT_EQ(call(*device, 0x1200).error(), Errno::Enotty);
  EXPECT_EQ(call(*device, 0xc048ba00).error(), Errno::Enotty);
  EXPECT_EQ(call(*device, kPreserve).error(), Errno::Einval);
  EXPECT_TRUE(call(*device, kCreate));
}

TEST_F(DeviceTest, SizesOfTheDevice) {
  for (u32 cmd : {kCreate, kRetrieveSession}) {
    for (u32 size : {0u, 4u, 71u}) {
      w.task.put(LiveupdateSession{size, -1, "s"});
      EXPECT_EQ(call(*device, cmd).error(), Errno::Einval) << size;
    }
    w.task.put(LiveupdateSession{80, -1, "s"});
    w.task.put(u64{1} << 56, 72);
    EXPECT_EQ(call(*device, cmd).error(), Errno::E2big);
    w.task.put(LiveupdateSession{~u32{0}, -1, "s"});
    w.task.put(u64{0}, 72);
    EXPECT_EQ(call(*device, cmd).error(), Errno::Efault);  // zero as far as there is memory
  }
  w.task.put(LiveupdateSession{80, -1, "s"});
  ASSERT_TRUE(call(*device, kCreate));
  EXPECT_EQ(w.task.get<LiveupdateSession>().size, 80u);  // stays the caller's
}

TEST_F(DeviceTest, StructureAtTheEndOfMemory) {
  const UserAddr at = TestTask::kMemory + TestTask::kBytes - 40;
  const u32 size = 72;
  memcpy(w.task.at(at), &size, 4);
  EXPECT_EQ(device->ioctl(w.task, kCreate, at).error(), Errno::Efault);
}

TEST_F(DeviceTest, CreateErrors) {
  w.task.put(LiveupdateSession{72, -1, {}});
  EXPECT_EQ(call(*device, kCreate).error(), Errno::Einval);
  LiveupdateSession full{72, -1, {}};
  memset(full.name, 'x', sizeof full.name);
  w.task.put(full);
  EXPECT_EQ(call(*device, kCreate).error(), Errno::Einval);
  full.name[63] = '\0';
  w.task.put(full);
  EXPECT_TRUE(call(*device, kCreate));
  w.task.put(full);
  EXPECT_EQ(call(*device, kCreate).error(), Errno::Eexist);
  // The descriptor comes before the name.
  w.task.fds_left = 0;
  w.task.put(LiveupdateSession{72, -1, {}});
  EXPECT_EQ(call(*device, kCreate).error(), Errno::Emfile);
}

TEST_F(DeviceTest, RefusedCallsGiveTheDescriptorBack) {
  const u32 before = w.task.fds_left;
  w.task.put(LiveupdateSession{72, -1, {}});
  EXPECT_FALSE(call(*device, kCreate));
  EXPECT_FALSE(call(*device, kRetrieveSession));
  w.task.put(LiveupdateSession{72, -1, "nobody"});
  EXPECT_EQ(call(*device, kRetrieveSession).error(), Errno::Enoent);
  EXPECT_EQ(w.task.fds_left, before);
  EXPECT_TRUE(w.task.files.empty());
}

TEST_F(DeviceTest, FaultWhileAnsweringCreateTearsTheSessionDown) {
  w.task.put(LiveupdateSession{72, -1, "s"});
  w.task.writable_from = TestTask::kMemory + TestTask::kBytes;
  EXPECT_EQ(call(*device, kCreate).error(), Errno::Efault);
  w.task.writable_from = UserAddr(0);
  EXPECT_TRUE(create("s"));
}

TEST_F(DeviceTest, FaultWhileAnsweringRetrieveFinishesTheSession) {
  update();
  w.task.put(LiveupdateSession{72, -1, "in"});
  w.task.writable_from = TestTask::kMemory + TestTask::kBytes;
  EXPECT_EQ(call(*device, kRetrieveSession).error(), Errno::Efault);
  w.task.writable_from = UserAddr(0);
  EXPECT_EQ(call(*device, kRetrieveSession).error(), Errno::Enoent);
  EXPECT_EQ(w.take_events().back(), "finish 1");
}

TEST_F(DeviceTest, RetrieveErrors) {
  update();
  w.task.put(LiveupdateSession{72, -1, "in"});
  w.task.fds_left = 0;
  EXPECT_EQ(call(*device, kRetrieveSession).error(), Errno::Emfile);
  w.task.fds_left = 10;
  LiveupdateSession full{72, -1, {}};
  memset(full.name, 'x', sizeof full.name);
  w.task.put(full);
  EXPECT_EQ(call(*device, kRetrieveSession).error(), Errno::Enoent);
  w.task.put(LiveupdateSession{72, -1, {}});
  EXPECT_EQ(call(*device, kRetrieveSession).error(), Errno::Enoent);
  w.task.put(LiveupdateSession{72, -1, "in"});
  w.steps().allocations = 0;
  w.steps().fail_at = 1;
  EXPECT_EQ(call(*device, kRetrieveSession).error(), Errno::Enomem);
  w.steps().fail_at = 0;
  EXPECT_TRUE(call(*device, kRetrieveSession));  // that was undone
  EXPECT_EQ(call(*device, kRetrieveSession).error(), Errno::Einval);
}

TEST_F(DeviceTest, NumbersOfASession) {
  auto s = *create("s");
  EXPECT_EQ(s->type().name, "anon_inode:[luo_session]");
  w.task.put(LiveupdateGetName{72, 0, {}});
  for (u32 cmd : {0xba00u, 0xba3fu, 0xba44u, 0xbaffu}) EXPECT_EQ(call(*s, cmd).error(), Errno::Einval);
  EXPECT_EQ(s->ioctl(w.task, 0xba44, kBad).error(), Errno::Einval);
  EXPECT_EQ(s->ioctl(w.task, 0x1240, kBad).error(), Errno::Efault);
  EXPECT_EQ(call(*s, 0x1240).error(), Errno::Enotty);
  EXPECT_EQ(call(*s, 0xc010ba40).error(), Errno::Enotty);
  EXPECT_TRUE(call(*s, kGetName));
}

TEST_F(DeviceTest, DirectionComesBeforeSize) {
  auto out = *create("out");
  w.task.put(u32{0});
  EXPECT_EQ(call(*out, kRetrieve).error(), Errno::Einval);
  EXPECT_EQ(call(*out, kFinish).error(), Errno::Einval);
  w.task.put(LiveupdateRetrieveFd{16, -1, 1});
  EXPECT_EQ(call(*out, kRetrieve).error(), Errno::Einval);
  w.task.put(LiveupdateFinish{8, 0});
  EXPECT_EQ(call(*out, kFinish).error(), Errno::Einval);
  out = nullptr;
  w.task.close_all();
  update();
  w.task.put(LiveupdateSession{72, -1, "in"});
  ASSERT_TRUE(call(*device, kRetrieveSession));
  auto in = session(w.task.get<LiveupdateSession>().fd);
  w.task.put(LiveupdatePreserveFd{16, 0, 1});
  EXPECT_EQ(call(*in, kPreserve).error(), Errno::Einval);
  w.task.put(LiveupdateGetName{72, 0, {}});
  ASSERT_TRUE(call(*in, kGetName));
  EXPECT_STREQ(w.task.get<LiveupdateGetName>().name, "in");
}

TEST_F(DeviceTest, SizesOfASession) {
  auto s = *create("s");
  for (u32 size : {0u, 15u}) {
    w.task.put(LiveupdatePreserveFd{size, 0, 1});
    EXPECT_EQ(call(*s, kPreserve).error(), Errno::Einval);
  }
  w.task.put(LiveupdatePreserveFd{17, 0, 1});
  w.task.put(u8{1}, 16);
  EXPECT_EQ(call(*s, kPreserve).error(), Errno::E2big);
  w.task.put(LiveupdateGetName{71, 0, {}});
  EXPECT_EQ(call(*s, kGetName).error(), Errno::Einval);
}

TEST_F(DeviceTest, GetName) {
  auto s = *create("some name");
  w.task.put(LiveupdateGetName{72, 1, {}});
  EXPECT_EQ(call(*s, kGetName).error(), Errno::Einval);
  LiveupdateGetName dirty{72, 0, {}};
  memset(dirty.name, 0xff, sizeof dirty.name);
  w.task.put(dirty);
  ASSERT_TRUE(call(*s, kGetName));
  char expected[64] = "some name";
  EXPECT_EQ(memcmp(w.task.get<LiveupdateGetName>().name, expected, 64), 0);
  w.task.writable_from = TestTask::kMemory + TestTask::kBytes;
  EXPECT_EQ(call(*s, kGetName).error(), Errno::Efault);
  w.task.writable_from = UserAddr(0);
}

TEST_F(DeviceTest, FaultWhileAnsweringPreserveKeepsTheFile) {
  auto s = *create("s");
  w.task.put(LiveupdatePreserveFd{16, w.open_fake(1), 1});
  w.task.writable_from = TestTask::kMemory + TestTask::kBytes;
  EXPECT_EQ(call(*s, kPreserve).error(), Errno::Efault);
  w.task.writable_from = UserAddr(0);
  EXPECT_EQ(call(*s, kPreserve).error(), Errno::Eexist);
}

TEST_F(DeviceTest, RetrieveFd) {
  update();
  w.task.put(LiveupdateSession{72, -1, "in"});
  ASSERT_TRUE(call(*device, kRetrieveSession));
  auto in = session(w.task.get<LiveupdateSession>().fd);
  w.task.put(LiveupdateRetrieveFd{16, -1, 2});
  EXPECT_EQ(call(*in, kRetrieve).error(), Errno::Enoent);
  w.task.put(LiveupdateRetrieveFd{16, -1, 1});
  w.task.fds_left = 0;
  EXPECT_EQ(call(*in, kRetrieve).error(), Errno::Emfile);
  EXPECT_EQ(w.take_events(), test::Events{});  // not even tried
  w.task.fds_left = 10;
  w.task.writable_from = TestTask::kMemory + TestTask::kBytes;
  EXPECT_EQ(call(*in, kRetrieve).error(), Errno::Efault);
  w.task.writable_from = UserAddr(0);
  EXPECT_EQ(w.task.fds_left, 10u);
  ASSERT_TRUE(call(*in, kRetrieve));  // LUO kept it
  EXPECT_EQ(w.take_events(), test::Events{"retrieve 1"});
  EXPECT_EQ(w.task.fds_left, 9u);
}

TEST_F(DeviceTest, Finish) {
  update();
  w.task.put(LiveupdateSession{72, -1, "in"});
  ASSERT_TRUE(call(*device, kRetrieveSession));
  auto in = session(w.task.get<LiveupdateSession>().fd);
  w.task.put(LiveupdateFinish{8, 1});
  EXPECT_EQ(call(*in, kFinish).error(), Errno::Einval);
  w.task.put(LiveupdateFinish{8, 0});
  w.a->refuse.insert("finish 1");
  EXPECT_EQ(call(*in, kFinish).error(), Errno::Ebusy);
  w.a->refuse.clear();
  w.task.writable_from = TestTask::kMemory + TestTask::kBytes;
  EXPECT_EQ(call(*in, kFinish).error(), Errno::Efault);  // done all the same
  w.task.writable_from = UserAddr(0);
  EXPECT_EQ(w.take_events().back(), "finish 1");
  EXPECT_TRUE(call(*in, kFinish));
}

}  // namespace
}  // namespace perdure::luo
