// Many programs at once, against a kernel that freezes and thaws all the while. Meant for ThreadSanitizer as well.
#include <thread>

#include "core/luo/fakes.h"

namespace perdure::luo {
namespace {

using perdure::test::Handover;
using perdure::test::TestTask;

class QuietFile final : public File {
 public:
  static constexpr FileType kType{"quiet"};
  const FileType& type() const override { return kType; }
};

class QuietHandler final : public FileHandler {
 public:
  std::string_view compatible() const override { return "quiet"; }
  bool can_preserve(File& file) const override { return file_cast<QuietFile>(&file) != nullptr; }
  Result<void> preserve(FileState&) override {
    ++preserved;
    return {};
  }
  void unpreserve(FileState&) override { --preserved; }
  Result<void> freeze(FileState& s) override {
    if (s.token % 97 == 13) return fail(Errno::Eagain);
    ++frozen;
    return {};
  }
  void unfreeze(FileState&) override { --frozen; }
  Result<Ref<File>> retrieve(FileState&) override { return fail(Errno::Eio); }
  void finish(FileState&) override {}
  std::atomic<int> preserved{0};
  std::atomic<int> frozen{0};
};

TEST(Concurrency, ProgramsComeAndGoWhileTheKernelFreezesAndThaws) {
  Handover world(u64{24} << 20);
  world.machine.steps = nullptr;  // counts without a lock
  auto luo_storage = std::make_unique<perdure::test::Forgettable<Luo>>();
  Luo& luo = luo_storage->make(world.kho());
  ASSERT_TRUE(luo.load_incoming());
  ASSERT_TRUE(luo.init());
  Device device(luo);
  QuietHandler handler;
  test::Events events;
  test::FakeFlb flb(events, "one");
  ASSERT_TRUE(luo.register_handler(handler));
  ASSERT_TRUE(luo.link_flb(handler, flb));

  std::atomic<int> running{0}, updates{0}, killed{0}, done{0};
  const auto program = [&](unsigned number) {
    TestTask task;
    for (unsigned round = 0; round < 10 || updates < 30; ++round) {
      auto session = SessionFile::create(luo, std::to_string(number) + "/" + std::to_string(round));
      if (!session) {
        killed += session.error() == Errno::Ekilled;
        std::this_thread::yield();
        continue;
      }
      for (u64 token = 0; token < 20; ++token) {
        const s32 fd = task.open(*world.heap().make_ref<QuietFile>());
        const auto r = (*session)->ioctl(
            task, uapi::kLiveupdateSessionPreserveFd,
            task.put(uapi::LiveupdatePreserveFd{sizeof(uapi::LiveupdatePreserveFd), fd, number * 1000 + token}));
        if (!r) killed += r.error() == Errno::Ekilled;
        if (r) ++done;
        if (token % 3 == 0) task.close(fd);
      }
      session = fail(Errno::Enoent);  // perhaps while frozen
      task.close_all();
      if (const auto file = device.open(); !file) {
        EXPECT_TRUE(file.error() == Errno::Ebusy || file.error() == Errno::Ekilled);
      }
    }
    --running;
  };
  std::vector<std::thread> threads;
  constexpr unsigned kPrograms = 4;
  running = kPrograms;
  for (unsigned i = 0; i < kPrograms; ++i) threads.emplace_back(program, i);
  while (running != 0) {
    if (const auto r = luo.serialize()) {
      ++updates;
      std::this_thread::yield();
      luo.unfreeze_all();
    } else {
      EXPECT_EQ(r.error(), Errno::Eagain);
    }
    std::this_thread::yield();
  }
  for (auto& t : threads) t.join();
  EXPECT_GT(updates, 0);
  EXPECT_GT(done, 0);
  EXPECT_EQ(handler.preserved, 0);
  EXPECT_EQ(handler.frozen, 0);
  usize left = 0;
  luo.each_outgoing([&](const OutgoingSession&) { ++left; });
  EXPECT_EQ(left, 0u);
  luo_storage->destroy();
  EXPECT_EQ(world.heap().bytes_in_use(), 0u);
}

}  // namespace
}  // namespace perdure::luo
