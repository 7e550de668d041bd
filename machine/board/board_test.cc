// The board as a whole: files, threads, several parties at once.
#include "machine/board/board.h"

#include <fcntl.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "machine/board/board_fixture.h"

namespace perdure::board {
namespace {

namespace fs = std::filesystem;
using testing::GuestFile;
using testing::kStreamerAt;

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = fs::temp_directory_path() / "perdure-board-XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) ADD_FAILURE() << "mkdtemp";
    path_ = pattern;
  }
  ~TemporaryDirectory() { fs::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

class BoardFilesTest : public testing::BoardTest {
 protected:
  TemporaryDirectory directory;
};

TEST_F(BoardFilesTest, AMachineGoesOnWhereItWasSaved) {
  build();
  stream_setup();
  store(0x123'4560, 0xABCD);
  start_ring(kStreamerAt, 0, {});
  start_ring(kStreamerAt, 1, {.slots = 4096, .read = true, .source = kStreamerAt.value});
  board->step_for(20'000'000);
  board->enter_phase(Phase::During);
  const u64 done = read64(bar64(kStreamerAt) + 0x40);
  const u64 clock = board->now_ns();
  const u32 command = config32(kStreamerAt, 4);
  board->save(directory.path());

  // The old machine and the program's memory are gone.
  const u64 old_id = guest->id();
  board.reset();
  guest.reset();
  board = Board::load(directory.path());
  EXPECT_EQ(board->now_ns(), clock);
  EXPECT_EQ(board->phase(), Phase::During);
  EXPECT_EQ(load(0x123'4560), 0xABCDu);
  EXPECT_EQ(config32(kStreamerAt, 4), command);
  EXPECT_EQ(read64(bar64(kStreamerAt) + 0x40), done);
  EXPECT_NE(read32(kUnit + 0x1C) & kTe, 0u);
  ASSERT_EQ(board->memory().banks().size(), 1u);
  const Bank again = board->memory().banks()[0];
  EXPECT_EQ(again.base, bank.base);
  EXPECT_NE(again.host_id, old_id);
  AuditReport report = board->audit();
  EXPECT_EQ(now(report, kStreamerAt).slots_checked, 2000u);
  EXPECT_TRUE(report.clean(Phase::During)) << report.findings.size();
  EXPECT_EQ(report.devices[0].in(Phase::Before).done, done);

  board->step_for(20'000'000);
  EXPECT_GT(read64(bar64(kStreamerAt) + 0x40), done + 3000);
  report = board->audit();
  EXPECT_TRUE(report.clean(Phase::During));
  EXPECT_GT(now(report, kStreamerAt).slots_checked, 3900u);
}

TEST_F(BoardFilesTest, SavedTwiceIsTheSameAndLoadedRunsRepeat) {
  build();
  stream_setup();
  start_ring(kStreamerAt, 0, {});
  board->step_for(1'000'000);
  board->save(directory.path());
  const auto run = [&] {
    const std::unique_ptr<Board> b = Board::load(directory.path());
    b->step(500);
    return std::pair(b->now_ns(), b->mmio_read(Phys(bar64(kStreamerAt) + 0x40), Width::W64));
  };
  const auto first = run();
  EXPECT_EQ(first, run());
  board->step(500);
  EXPECT_EQ(first, std::pair(board->now_ns(), read64(bar64(kStreamerAt) + 0x40))) << "as if it had never stopped";
}

TEST_F(BoardFilesTest, FilesOfSeveralBanksKeepSizeAndSeals) {
  build();
  GuestFile f(3 << 20);
  f.set_word(0x1000, 1);
  f.set_word(0x20'0000, 2);
  ASSERT_TRUE(board->bank_attach(f.fd(), 0, 1 << 20));
  ASSERT_TRUE(board->bank_attach(f.fd(), 2 << 20, 2 << 20));  // beyond the end
  ASSERT_EQ(fcntl(f.fd(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  board->save(directory.path());
  board = Board::load(directory.path());
  const std::vector<Bank> banks = board->memory().banks();
  ASSERT_EQ(banks.size(), 2u);
  EXPECT_EQ(banks[0].host_id, banks[1].host_id);
  EXPECT_EQ(load(banks[0].base.value + 0x1000), 1u);
  EXPECT_EQ(load(banks[1].base.value), 2u);
  const int fd = *board->bank_fd(banks[0].host_id);
  EXPECT_EQ(lseek(fd, 0, SEEK_END), 3 << 20);
  EXPECT_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW);
  close(fd);
}

TEST_F(BoardFilesTest, DamagedFilesAreRefused) {
  build();
  stream_setup();
  board->save(directory.path());
  const fs::path state = directory.path() / "machine.state";
  std::ifstream in(state, std::ios::binary);
  const std::string good((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  for (usize length = 0; length < good.size(); length += 997) {
    std::ofstream(state, std::ios::binary | std::ios::trunc).write(good.data(), static_cast<std::streamsize>(length));
    EXPECT_THROW(Board::load(directory.path()), std::runtime_error) << length;
  }
  std::ofstream(state, std::ios::binary | std::ios::trunc) << good << "more";
  EXPECT_THROW(Board::load(directory.path()), StateError);
  std::string flipped = good;
  flipped[good.size() / 2] = static_cast<char>(flipped[good.size() / 2] ^ 0x40);
  std::ofstream(state, std::ios::binary | std::ios::trunc) << flipped;
  EXPECT_THROW(Board::load(directory.path()), StateError) << "a checksum covers the whole";
  std::ofstream(state, std::ios::binary | std::ios::trunc) << good;
  fs::remove(directory.path() / "ram.img");
  EXPECT_THROW(Board::load(directory.path()), std::runtime_error);
  EXPECT_THROW(Board::load(directory.path() / "nowhere"), std::runtime_error);
}

// --- threads ---------------------------------------------------------------------------------------------------------

class BoardThreadsTest : public testing::BoardTest {
 protected:
  static void wait_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }
  // Hosts are busy: for as long as it takes, a minute at most.
  template <class Condition>
  static void wait_for(Condition condition) {
    for (int i = 0; i < 60'000 && !condition(); ++i) wait_ms(1);
    EXPECT_TRUE(condition());
  }
  u64 done(Bdf bdf) { return read64(bar64(bdf) + 0x40); }
};

TEST_F(BoardThreadsTest, DevicesStreamInRealTimeWhileAudited) {
  build();
  stream_setup();
  start_ring(kStreamerAt, 0, {.rate = 50'000});
  start_ring(kStreamerAt, 1, {.rate = 20'000, .read = true, .source = kStreamerAt.value});
  board->start();
  EXPECT_TRUE(board->running());
  board->step(1000);  // without effect
  for (u64 i = 1; i <= 5; ++i) {
    wait_for([&] { return done(kStreamerAt) > 200 * i; });
    const AuditReport report = board->audit();
    EXPECT_TRUE(report.clean(Phase::Before)) << (report.findings.empty() ? "" : report.findings[0].to_string());
  }
  board->stop();
  EXPECT_FALSE(board->running());
  const PhaseResult r = now(board->audit(), kStreamerAt);
  EXPECT_TRUE(r.clean());
  EXPECT_GT(r.done, 1000u);
  EXPECT_GT(r.slots_checked, 400u);
  const u64 clock = board->now_ns();
  board->step();
  EXPECT_GT(board->now_ns(), clock) << "stepped again, and the clock never goes back";
}

TEST_F(BoardThreadsTest, EverythingAtOnce) {
  // Two streamers, a program that declares and withdraws, a kernel that maps, flushes and attaches, interrupts, audits.
  build();
  stream_setup();
  set_context(testing::kBelowAt, guest_top, 5);
  set_command(testing::kBelowAt, 6);
  ASSERT_TRUE(board->declare(testing::kBelowAt, {kIova, u64{16} << 20, guest->id(), 0, IntentAccess::ReadWrite}));
  const unsigned msix = capability(kStreamerAt, 0x11);
  const u64 table = bar64(kStreamerAt, 0x18);
  write64(table, 0xFEE0'0000);
  write64(table + 8, 1);
  set_config16(kStreamerAt, msix + 2, 0x8000);
  start_ring(kStreamerAt, 0, {.length = u64{8} << 20, .slots = 2048, .rate = 20'000, .irq_every = 16});
  start_ring(testing::kBelowAt, 0,
             {.base = kIova + (u64{8} << 20), .length = u64{8} << 20, .slots = 2048, .rate = 20'000});
  board->start();
  std::atomic<bool> stop{false};
  std::thread kernel([&] {
    const GuestFile other(1 << 20);
    while (!stop) {
      flush_all();
      const Result<Bank> b = board->bank_attach(other.fd(), 0, 1 << 20);
      EXPECT_TRUE(b);
      config32(testing::kEduAt, 0);
      if (b) {
        EXPECT_TRUE(board->bank_detach(*b));
      }
      std::this_thread::yield();
    }
  });
  std::thread program([&] {
    while (!stop) {
      EXPECT_TRUE(board->declare(testing::kEduAt, {0x1000, 4096, guest->id(), 0, IntentAccess::Read}));
      EXPECT_TRUE(board->withdraw(testing::kEduAt, 0x1000, 4096));
      wait_ms(1);
    }
  });
  for (Phase next : {Phase::During, Phase::After}) {
    const u64 before = done(kStreamerAt);
    wait_for([&] { return done(kStreamerAt) > before + 300 && done(testing::kBelowAt) > 300; });
    const AuditReport report = board->enter_phase(next);
    for (const Finding& f : report.findings) ADD_FAILURE() << f.to_string();
  }
  stop = true;
  kernel.join();
  program.join();
  board->stop();
  const AuditReport report = board->audit();
  for (Phase p : {Phase::Before, Phase::During, Phase::After}) EXPECT_TRUE(report.clean(p));
  EXPECT_GT(report.devices[0].in(Phase::Before).done, 100u);
  const std::scoped_lock guard(messages_mutex);
  EXPECT_GT(messages.size(), 10u);
}

// An atomic access that faults does so inside ThreadSanitizer's run-time, which holds a lock that the handler wants.
#ifndef PERDURE_THREAD_SANITIZER
TEST_F(BoardThreadsTest, TruncationOfGuestMemoryHurtsNobodyElse) {
  build();
  stream_setup();
  start_ring(kStreamerAt, 0, {.rate = 50'000});
  board->start();
  wait_for([&] { return done(kStreamerAt) > 500; });
  ASSERT_EQ(ftruncate(guest->fd(), 1 << 20), 0);
  wait_for([&] { return board->memory().bus_errors() > 10; });
  board->stop();
  EXPECT_EQ(now(board->audit(), kStreamerAt).refused(), 0u);
}
#endif

TEST_F(BoardThreadsTest, PoisonRunsBesideDevices) {
  build();
  stream_setup();
  start_ring(kStreamerAt, 0, {.rate = 50'000});
  board->start();
  wait_for([&] { return done(kStreamerAt) > 100; });
  // The whole machine goes: tables are destroyed and the bank is detached under the running device.
  const PoisonStats stats = board->kernel_gone({});
  EXPECT_GT(stats.poisoned_frames, 0u);
  EXPECT_EQ(stats.banks_detached, 1u);
  flush_all();
  wait_for([&] { return now(board->audit(), kStreamerAt).refused() > 0; });
  board->stop();
}

TEST_F(BoardThreadsTest, TranslationGapInRealTime) {
  build();
  stream_setup();
  start_ring(kStreamerAt, 0, {.rate = 20'000});
  board->start();
  // On a busy host the device's thread may sleep through a gap.
  u64 seen = 0;
  for (int i = 0; i < 200 && seen == 0; ++i) {
    wait_ms(5);
    board->break_translation_for(5'000'000);
    seen = now(board->audit(), kStreamerAt).not_done_by(Cause::Unbacked);
  }
  board->stop();
  EXPECT_GT(seen, 0u);
}

}  // namespace
}  // namespace perdure::board
