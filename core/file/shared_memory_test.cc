#include "core/file/shared_memory.h"

#include "core/file/host_files.h"
#include "core/mem/heap.h"
#include "tests/support/bank_machine.h"
#include "tests/support/test_task.h"

namespace perdure {
namespace {

using test::TestMemfd;
using test::TestTask;

constexpr auto kIgnore = [](const FileExtent&) -> Result<void> { return {}; };

class HostEventFake final : public HostEvent {
 public:
  explicit HostEventFake(u64 id) : id_(id) {}
  u64 id() const override { return id_; }
  void signal(u64) override {}

 private:
  void dispose() override { ::delete this; }
  u64 id_;
};

class SharedMemoryTest : public ::testing::Test {
 protected:
  static constexpr u64 kRam = u64{16} << 20;
  SharedMemoryTest() : machine(kRam, u64{1} << 30), frames(machine), heap(frames), files(heap) {
    const Extent ram[] = {{Phys(0), kRam}};
    if (!frames.init(ram, {}, {})) throw std::runtime_error("frames");
    frames.open();
  }
  ~SharedMemoryTest() override { task.close_all(); }
  std::vector<FileExtent> extents(SharedMemory& m, u64 offset, u64 length) {
    std::vector<FileExtent> all;
    EXPECT_TRUE(m.extents(offset, length, [&](const FileExtent& e) -> Result<void> {
      EXPECT_EQ(perdure_thread_context()->count, 0u);  // no lock is held
      all.push_back(e);
      return {};
    }));
    return all;
  }

  test::BankMachine machine;
  FrameAllocator frames;
  Heap heap;
  HostFiles files;
  TestTask task;
};

TEST_F(SharedMemoryTest, FirstUseAttachesTheWholeFile) {
  auto host = TestMemfd::create(3 * kPageSize + 5);
  auto m = *files.memory(host);
  EXPECT_TRUE(machine.banks.empty());
  const auto e = extents(*m, kPageSize, kPageSize);
  ASSERT_EQ(machine.banks.size(), 1u);
  const Bank& bank = machine.banks.begin()->second;
  EXPECT_EQ(bank.offset, 0u);
  EXPECT_EQ(bank.length, 4 * kPageSize);
  ASSERT_EQ(e.size(), 1u);
  EXPECT_EQ(e[0].base, bank.base + kPageSize);
  EXPECT_EQ(e[0].length, kPageSize);
  EXPECT_EQ(e[0].offset, kPageSize);
  host->fill(kPageSize, "seen");
  EXPECT_EQ(memcmp(machine.virt(e[0].base), "seen", 4), 0);
  EXPECT_EQ(extents(*m, 0, 0).size(), 0u);
}

TEST_F(SharedMemoryTest, RangesBeyondTheEnd) {
  auto m = *files.memory(TestMemfd::create(kPageSize + 1));
  EXPECT_TRUE(m->extents(0, 2 * kPageSize, kIgnore));  // the last page is whole
  EXPECT_EQ(m->extents(0, 2 * kPageSize + 1, kIgnore).error(), Errno::Einval);
  EXPECT_EQ(m->extents(3 * kPageSize, 0, kIgnore).error(), Errno::Einval);
  EXPECT_EQ(m->extents(~u64{0}, 2, kIgnore).error(), Errno::Einval);
  EXPECT_EQ(m->extents(kPageSize, ~u64{0}, kIgnore).error(), Errno::Einval);
}

TEST_F(SharedMemoryTest, GrowthAddsABank) {
  auto host = TestMemfd::create(kPageSize);
  auto m = *files.memory(host);
  const auto first = extents(*m, 0, kPageSize);
  ASSERT_TRUE(host->resize(4 * kPageSize));
  const auto all = extents(*m, 0, 4 * kPageSize);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].base, first[0].base);  // addresses never change
  EXPECT_EQ(all[1].offset, kPageSize);
  EXPECT_EQ(all[1].length, 3 * kPageSize);
  host->fill(3 * kPageSize, "tail");
  EXPECT_EQ(memcmp(machine.virt(all[1].base + 2 * kPageSize), "tail", 4), 0);
}

TEST_F(SharedMemoryTest, ShrunkAndGrownAgainKeepsItsBank) {
  auto host = TestMemfd::create(4 * kPageSize);
  auto m = *files.memory(host);
  const auto before = extents(*m, 0, 4 * kPageSize);
  ASSERT_TRUE(host->resize(kPageSize));
  EXPECT_EQ(m->extents(kPageSize, kPageSize, kIgnore).error(), Errno::Einval);
  ASSERT_TRUE(host->resize(4 * kPageSize));
  EXPECT_EQ(extents(*m, 0, 4 * kPageSize)[0].base, before[0].base);
  EXPECT_EQ(machine.banks.size(), 1u);
}

TEST_F(SharedMemoryTest, VisitorsErrorStops) {
  auto m = *files.memory(TestMemfd::create(kPageSize));
  EXPECT_EQ(m->extents(0, kPageSize, [](const FileExtent&) -> Result<void> { return fail(Errno::Eio); }).error(),
            Errno::Eio);
}

TEST_F(SharedMemoryTest, FailuresOfTheMachineAndTheHeap) {
  auto host = TestMemfd::create(kPageSize);
  for (u64 nth = 1;; ++nth) {
    machine.counting.allocations = 0;
    machine.counting.fail_at = nth;
    auto m = files.memory(host);
    const auto r = m ? (*m)->extents(0, kPageSize, kIgnore) : fail(m.error());
    machine.counting.fail_at = 0;
    if (r) break;
    EXPECT_EQ(r.error(), Errno::Enomem);
    m = fail(Errno::Enoent);
    EXPECT_TRUE(machine.banks.empty());
    ASSERT_LT(nth, 20u);
  }
  heap.trim();
  EXPECT_EQ(heap.bytes_in_use(), 0u);
}

TEST_F(SharedMemoryTest, LastCloseDetaches) {
  auto m = *files.memory(TestMemfd::create(kPageSize));
  ASSERT_TRUE(m->extents(0, kPageSize, kIgnore));
  const Ref<SharedMemory> other = m;
  m = nullptr;
  EXPECT_EQ(machine.banks.size(), 1u);
}

TEST_F(SharedMemoryTest, PinnedBanksStayForGood) {
  auto m = *files.memory(TestMemfd::create(kPageSize));
  ASSERT_TRUE(m->extents(0, kPageSize, kIgnore));
  m->pin();
  m->pin();
  m->unpin();
  m = nullptr;
  EXPECT_EQ(machine.banks.size(), 1u);
  EXPECT_NE(machine.lines.back().find("closed while pinned"), std::string::npos);
  auto n = *files.memory(TestMemfd::create(kPageSize));
  ASSERT_TRUE(n->extents(0, kPageSize, kIgnore));
  n->pin();
  n->unpin();
  n = nullptr;
  EXPECT_EQ(machine.banks.size(), 1u);
}

TEST_F(SharedMemoryTest, AdoptedBanksAreUsed) {
  auto host = TestMemfd::create(8 * kPageSize);
  const Bank high = *machine.bank_attach(*host, 4 * kPageSize, 4 * kPageSize);
  auto m = *files.memory(host);
  ASSERT_TRUE(m->adopt_bank(high));
  ASSERT_TRUE(m->adopt_bank(high));  // again: nothing to do
  Bank overlapping = high;
  overlapping.offset = 3 * kPageSize;
  EXPECT_EQ(m->adopt_bank(overlapping).error(), Errno::Eexist);
  overlapping.offset = 7 * kPageSize;
  EXPECT_EQ(m->adopt_bank(overlapping).error(), Errno::Eexist);
  // What is missing is attached.
  const auto all = extents(*m, 0, 8 * kPageSize);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].length, 4 * kPageSize);
  EXPECT_EQ(all[1].base, high.base);
  std::vector<u64> offsets;
  ASSERT_TRUE(m->each_bank([&](const Bank& b) -> Result<void> {
    offsets.push_back(b.offset);
    return {};
  }));
  EXPECT_EQ(offsets, (std::vector<u64>{0, 4 * kPageSize}));
}

TEST_F(SharedMemoryTest, OneObjectForOneMemory) {
  auto host = TestMemfd::create(kPageSize);
  auto a = *files.memory(host), b = *files.memory(host);
  EXPECT_EQ(a, b);
  EXPECT_EQ(files.find_memory(host->id()), a);
  auto other = *files.memory(TestMemfd::create(kPageSize));
  EXPECT_NE(other, a);
  const u64 id = host->id();
  a = b = nullptr;
  EXPECT_FALSE(files.find_memory(id));
  EXPECT_TRUE(files.memory(host));
}

TEST_F(SharedMemoryTest, OneObjectForOneEvent) {
  auto host = Ref<HostEventFake>::adopt(::new HostEventFake(7));
  auto a = *files.event(host), b = *files.event(host);
  EXPECT_EQ(a, b);
  EXPECT_NE(*files.event(Ref<HostEventFake>::adopt(::new HostEventFake(8))), a);
  a = b = nullptr;
  EXPECT_TRUE(files.event(host));
}

TEST_F(SharedMemoryTest, ManyFiles) {
  std::vector<Ref<EventFd>> all;
  for (u64 i = 0; i < 1000; ++i) all.push_back(*files.event(Ref<HostEventFake>::adopt(::new HostEventFake(i << 12))));
  for (u64 i = 0; i < 1000; ++i)
    EXPECT_EQ(*files.event(Ref<HostEventFake>::adopt(::new HostEventFake(i << 12))), all[i]);
}

TEST_F(SharedMemoryTest, ReadAndWriteThroughTheDirectMap) {
  auto host = TestMemfd::create(kPageSize + 10);
  auto m = *files.memory(host);
  memcpy(task.at(TestTask::kMemory), "abcdefgh", 8);
  EXPECT_EQ(*m->write(task, TestTask::kMemory, 8, kPageSize - 4), 8u);
  EXPECT_EQ(host->contents(kPageSize - 4, 8), "abcdefgh");
  host->fill(kPageSize + 5, "xyz");
  EXPECT_EQ(*m->read(task, TestTask::kMemory + 100, 100, kPageSize + 5), 5u);  // up to the end
  EXPECT_EQ(memcmp(task.at(TestTask::kMemory + 100), "xyz\0\0", 5), 0);
  EXPECT_EQ(*m->read(task, TestTask::kMemory, 10, kPageSize + 10), 0u);
  EXPECT_EQ(m->read(task, UserAddr(8), 10, 0).error(), Errno::Efault);
  EXPECT_EQ(m->write(task, UserAddr(8), 10, 0).error(), Errno::Efault);
  EXPECT_EQ(*m->write(task, TestTask::kMemory, 8, 3 * kPageSize), 8u);  // grows
  EXPECT_EQ(host->size(), 3 * kPageSize + 8);
  EXPECT_EQ(m->write(task, TestTask::kMemory, 8, ~u64{0} - 3).error(), Errno::Efbig);
  ASSERT_TRUE(host->add_seals(seal::kGrow));
  EXPECT_EQ(m->write(task, TestTask::kMemory, 8, 3 * kPageSize + 4).error(), Errno::Eperm);
}

TEST_F(SharedMemoryTest, SealedAgainstWriting) {
  auto host = TestMemfd::create(kPageSize);
  ASSERT_TRUE(host->add_seals(seal::kWrite));
  auto m = *files.memory(host);
  EXPECT_EQ(m->write(task, TestTask::kMemory, 8, 0).error(), Errno::Eperm);
  EXPECT_EQ(m->mmap(task, 0, kPageSize, Access::Write).error(), Errno::Eperm);
}

TEST_F(SharedMemoryTest, Mapping) {
  auto host = TestMemfd::create(2 * kPageSize);
  auto m = *files.memory(host);
  const auto map = m->mmap(task, kPageSize, kPageSize, Access::ReadWrite);
  ASSERT_TRUE(map);
  EXPECT_EQ(map->base, machine.banks.begin()->second.base + kPageSize);
  EXPECT_EQ(map->length, kPageSize);
  EXPECT_EQ(m->mmap(task, 1, kPageSize, Access::Read).error(), Errno::Einval);
  EXPECT_EQ(m->mmap(task, 0, 0, Access::Read).error(), Errno::Einval);
  // Something else between the two banks.
  auto between = *files.memory(TestMemfd::create(kPageSize));
  ASSERT_TRUE(between->extents(0, kPageSize, kIgnore));
  ASSERT_TRUE(host->resize(4 * kPageSize));
  EXPECT_EQ(m->mmap(task, 0, 4 * kPageSize, Access::Read).error(), Errno::Enodev);
}

}  // namespace
}  // namespace perdure
