#include "machine/board/physical_memory.h"

#include "machine/board/config.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "machine/board/board_fixture.h"

namespace perdure::board {
namespace {

using testing::GuestFile;

constexpr unsigned kSmall = 35;
constexpr u64 kMiB = u64{1} << 20;
constexpr u64 kGiB = u64{1} << 30;

std::byte& at(const PhysicalMemory& m, u64 phys) {
  return m.base()[phys];
}

TEST(PhysicalMemory, RamIsBelowTheHoleAndFrom4GiB) {
  const PhysicalMemory small(kSmall, 64 * kMiB);
  EXPECT_EQ(small.ram(), (std::vector<PhysRange>{{0, 64 * kMiB}}));
  EXPECT_TRUE(small.is_kernel_ram(64 * kMiB - 8, 8));
  EXPECT_FALSE(small.is_kernel_ram(64 * kMiB - 8, 16));

  PhysicalMemory large(kSmall, 5 * kGiB);
  EXPECT_EQ(large.ram(), (std::vector<PhysRange>{{0, 2 * kGiB}, {4 * kGiB, 3 * kGiB}}));
  EXPECT_FALSE(large.backed(2 * kGiB, 1));
  EXPECT_FALSE(large.backed(2 * kGiB - 1, 2));
  EXPECT_FALSE(large.is_kernel_ram(2 * kGiB - 4096, 2 * kGiB + 8192));  // around the hole
  EXPECT_TRUE(large.backed(7 * kGiB - 1, 1));
  EXPECT_FALSE(large.backed(7 * kGiB, 1));
  EXPECT_FALSE(large.backed(~u64{0}, 2));
  // The two parts are one file without overlap.
  at(large, 2 * kGiB - 1) = std::byte{1};
  at(large, 4 * kGiB) = std::byte{2};
  EXPECT_EQ(at(large, 2 * kGiB - 1), std::byte{1});
}

TEST(PhysicalMemory, RefusesWhatCannotBe) {
  EXPECT_THROW(PhysicalMemory(20, 64 * kMiB), std::runtime_error);
  EXPECT_THROW(PhysicalMemory(kSmall, 3 * kMiB), std::runtime_error);
  EXPECT_THROW(PhysicalMemory(kSmall, 64 * kMiB + 4096), std::runtime_error);
  EXPECT_THROW(PhysicalMemory(33, 16 * kGiB), std::runtime_error);
}

TEST(PhysicalMemory, BanksAreAlignedToTheirSizeUpTo1GiB) {
  PhysicalMemory m(kDefaultWindowLog2, 64 * kMiB);
  const GuestFile a(12 * 4096);
  const GuestFile b(3 * kMiB);
  const GuestFile c(5 * kGiB);
  const Bank first = *m.attach(a.fd(), 0, 12 * 4096);
  const Bank second = *m.attach(b.fd(), 0, 3 * kMiB);
  const Bank third = *m.attach(c.fd(), 0, 5 * kGiB);
  EXPECT_TRUE(first.base.aligned(64 << 10));
  EXPECT_TRUE(second.base.aligned(4 * kMiB));
  EXPECT_TRUE(third.base.aligned(kGiB));
  for (const Bank& bank : {first, second, third}) EXPECT_GE(bank.base.value, 4 * kGiB);
  EXPECT_FALSE(ranges_overlap(first.base.value, first.length, second.base.value, second.length));
  EXPECT_FALSE(ranges_overlap(second.base.value, second.length, third.base.value, third.length));
  // A hole left by a detached bank is used again.
  ASSERT_TRUE(m.detach(second.base.value));
  EXPECT_EQ(m.attach(b.fd(), 0, 3 * kMiB)->base, second.base);
}

TEST(PhysicalMemory, BankLookupsGoBothWays) {
  PhysicalMemory m(kSmall, 64 * kMiB);
  const GuestFile f(8 * kMiB);
  const Bank low = *m.attach(f.fd(), 0, 2 * kMiB);
  const Bank high = *m.attach(f.fd(), 4 * kMiB, 2 * kMiB);
  EXPECT_EQ(low.host_id, f.id());
  EXPECT_EQ(m.phys_of(f.id(), 0x1234), low.base.value + 0x1234);
  EXPECT_EQ(m.phys_of(f.id(), 4 * kMiB + 8), high.base.value + 8);
  EXPECT_EQ(m.phys_of(f.id(), 2 * kMiB), std::nullopt);
  EXPECT_EQ(m.phys_of(f.id() + 1, 0), std::nullopt);
  EXPECT_EQ(m.bank_at(high.base.value + 2 * kMiB - 1)->offset, 4 * kMiB);
  EXPECT_FALSE(m.bank_at(high.base.value + 2 * kMiB));
  EXPECT_FALSE(m.bank_at(0));

  EXPECT_EQ(m.attach(f.fd(), kMiB, 2 * kMiB).error(), Errno::Eexist);
  EXPECT_EQ(m.attach(f.fd(), 0, 0).error(), Errno::Einval);
  EXPECT_EQ(m.attach(f.fd(), 12, 4096).error(), Errno::Einval);
  EXPECT_EQ(m.attach(f.fd(), u64{1} << 62, 4096).error(), Errno::Einval);
  EXPECT_EQ(m.attach(-1, 0, 4096).error(), Errno::Ebadf);
  EXPECT_EQ(m.attach(f.fd(), 64 * kMiB, 28 * kGiB).error(), Errno::Enospc);
  EXPECT_EQ(m.detach(low.base.value + 4096).error(), Errno::Enoent);
}

TEST(PhysicalMemory, ABankIsTheFileAndNeedsWriteAccess) {
  PhysicalMemory m(kSmall, 64 * kMiB);
  GuestFile f(kMiB);
  const Bank bank = *m.attach(f.fd(), 4096, kMiB - 4096);
  const std::array<std::byte, 12> bytes{std::byte{1}, std::byte{2}, std::byte{3}};
  ASSERT_TRUE(m.write(bank.base.value + 3, bytes));  // unaligned: bytes, a word, a byte
  EXPECT_EQ(f.word(4096), 0x0000'0302'0100'0000u);
  f.set_word(8192, 0x1122'3344'5566'7788);
  u64 word = 0;
  ASSERT_TRUE(m.load64(bank.base.value + 4096, word));
  EXPECT_EQ(word, 0x1122'3344'5566'7788u);
  EXPECT_FALSE(m.load64(bank.base.value + 4097, word));

  const int read_only = open(("/proc/self/fd/" + std::to_string(f.fd())).c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(read_only, 0);
  EXPECT_EQ(m.attach(read_only, 0, 4096).error(), Errno::Eacces);
  close(read_only);
}

TEST(PhysicalMemory, TheProgramsFilePositionIsItsOwn) {
  PhysicalMemory m(kSmall, 64 * kMiB);
  const GuestFile f(kMiB);
  ASSERT_EQ(lseek(f.fd(), 42, SEEK_SET), 42);
  ASSERT_TRUE(m.attach(f.fd(), 0, kMiB));
  m.each_materialised_bank([](const Bank&, PhysRange) {});
  const int again = *m.bank_fd(f.id());
  EXPECT_EQ(lseek(again, 7, SEEK_SET), 7);
  EXPECT_EQ(lseek(f.fd(), 0, SEEK_CUR), 42);
  EXPECT_EQ(*host_file_id(again), f.id());
  close(again);
  EXPECT_EQ(m.bank_fd(12345).error(), Errno::Enoent);
}

TEST(PhysicalMemory, AccessSpansNeighbouringBanksAndStopsAtTheirEnd) {
  PhysicalMemory m(kSmall, 64 * kMiB);
  const GuestFile f(64 << 10);
  const Bank a = *m.attach(f.fd(), 0, 4096);
  const Bank b = *m.attach(f.fd(), 8192, 4096, a.base.value + 4096);
  std::array<std::byte, 64> bytes;
  bytes.fill(std::byte{0xAB});
  EXPECT_TRUE(m.write(b.base.value - 32, bytes));
  EXPECT_EQ(f.word(4096 - 8), 0xABAB'ABAB'ABAB'ABABu);
  EXPECT_EQ(f.word(8192), 0xABAB'ABAB'ABAB'ABABu);
  EXPECT_FALSE(m.write(b.base.value + 4096 - 32, bytes));
  EXPECT_EQ(f.word(8192 + 4096 - 32), 0u) << "a refused write must do nothing";
  EXPECT_EQ(m.attach(f.fd(), 16384, 4096, b.base.value).error(), Errno::Eexist);
  EXPECT_EQ(m.attach(f.fd(), 16384, 4096, 0x1000).error(), Errno::Einval);
}

// Bytes that may go away, page by page.
class Pages final : public ForeignMemory {
 public:
  explicit Pages(usize pages) : bytes_(pages * kPageSize), gone_(pages) {}
  bool read(u64 offset, std::span<std::byte> to) override {
    if (gone_[offset / kPageSize]) return false;
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
    return true;
  }
  bool write(u64 offset, std::span<const std::byte> from) override {
    if (gone_[offset / kPageSize]) return false;
    std::copy(from.begin(), from.end(), bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
    return true;
  }
  void lose(usize page) { gone_[page] = true; }
  std::byte at(u64 offset) const { return bytes_[offset]; }

 private:
  std::vector<std::byte> bytes_;
  std::vector<bool> gone_;
};

TEST(PhysicalMemory, ForeignMemoryIsReachedByTransfersAlone) {
  PhysicalMemory m(kSmall, 64 * kMiB);
  const auto first = std::make_shared<Pages>(1), second = std::make_shared<Pages>(1);
  const u64 a = m.attach_foreign(first, kPageSize, 1)->base.value;
  const u64 b = m.attach_foreign(second, kPageSize, 2)->base.value;
  ASSERT_EQ(b, a + kPageSize) << "small ones lie side by side";
  // A transfer goes from one into the other.
  std::vector<std::byte> data(64, std::byte{0x5a}), back(64);
  EXPECT_TRUE(m.write(b - 32, data));
  EXPECT_EQ(first->at(kPageSize - 1), std::byte{0x5a});
  EXPECT_EQ(second->at(31), std::byte{0x5a});
  EXPECT_TRUE(m.read(b - 32, back));
  EXPECT_EQ(back, data);
  EXPECT_EQ(m.foreign_faults(), 0u);
  // Not beyond the end, and not by words: tables cannot be in it.
  EXPECT_FALSE(m.read(b + kPageSize - 32, back));
  EXPECT_FALSE(m.read(a - 8, back));
  u64 word = 0;
  EXPECT_FALSE(m.load64(a, word));
  EXPECT_FALSE(m.store32(a, 1));
  EXPECT_FALSE(m.compare_exchange64(a, word, 1));
  EXPECT_FALSE(m.is_ram(a, 8));
  EXPECT_EQ(m.foreign_faults(), 0u) << "nobody asked it";
  second->lose(0);
  EXPECT_FALSE(m.write(b - 32, data));
  EXPECT_FALSE(m.read(b, back));
  EXPECT_EQ(m.foreign_faults(), 2u);
  EXPECT_TRUE(m.read(b - 64, back));
}

TEST(PhysicalMemory, ForeignMemoryIsNoBankOfTheMap) {
  PhysicalMemory m(kSmall, 64 * kMiB);
  const usize before = m.map().size();
  const Bank one = *m.attach_foreign(std::make_shared<Pages>(1), kPageSize, 1);
  EXPECT_EQ(m.map().size(), before);
  EXPECT_TRUE(m.banks().empty());
  EXPECT_EQ(m.foreign(), 1u);
  usize lines = 0;
  m.find_lines({one.base.value, kPageSize}, 0, [&](u64) { ++lines; });
  EXPECT_EQ(lines, 0u);
  EXPECT_TRUE(m.detach(one.base.value));
  EXPECT_EQ(m.detach(one.base.value).error(), Errno::Enoent);
  ASSERT_TRUE(m.attach_foreign(std::make_shared<Pages>(1), kPageSize, 2));
  m.detach_foreign();
  EXPECT_EQ(m.foreign(), 0u);
  EXPECT_EQ(m.attach_foreign(std::make_shared<Pages>(1), 100, 3).error(), Errno::Einval);
  EXPECT_EQ(m.attach_foreign(std::make_shared<Pages>(1), 0, 3).error(), Errno::Einval);
}

// Room that was given back is found again, when there is none left behind the last one.
TEST(PhysicalMemory, ForeignMemoryFindsRoomOnceRound) {
  PhysicalMemory m(kSmall, 64 * kMiB);  // 24 to 30 GiB
  std::vector<Bank> all;
  for (u64 i = 0; i < 6; ++i) all.push_back(*m.attach_foreign(std::make_shared<Pages>(1), kGiB, i));
  EXPECT_EQ(m.attach_foreign(std::make_shared<Pages>(1), kPageSize, 9).error(), Errno::Enospc);
  ASSERT_TRUE(m.detach(all[2].base.value));
  const auto small = m.attach_foreign(std::make_shared<Pages>(1), kPageSize, 10);
  ASSERT_TRUE(small);
  EXPECT_EQ(small->base, all[2].base);
  EXPECT_EQ(m.attach_foreign(std::make_shared<Pages>(1), kGiB, 11).error(), Errno::Enospc);
  // RAM that reaches so far is not covered.
  PhysicalMemory large(kSmall, 27 * kGiB);
  EXPECT_GE(large.attach_foreign(std::make_shared<Pages>(1), kPageSize, 1)->base.value, 29 * kGiB);
}

TEST(PhysicalMemory, MapNamesRamFirmwareAndBanks) {
  PhysicalMemory m(kSmall, 64 * kMiB);
  const GuestFile f(kMiB);
  const Bank bank = *m.attach(f.fd(), 0, kMiB);
  const std::vector<MemoryRegion> map = m.map();
  ASSERT_EQ(map.size(), 3u);
  EXPECT_EQ(map[0].type, MemoryRegion::Type::Reserved);
  EXPECT_EQ(map[0].length, kMiB);
  EXPECT_EQ(map[1].type, MemoryRegion::Type::Ram);
  EXPECT_EQ(map[1].base, kMiB);
  EXPECT_EQ(map[1].length, 63 * kMiB);
  EXPECT_EQ(map[2].type, MemoryRegion::Type::Bank);
  EXPECT_EQ(map[2].base, bank.base.value);
  EXPECT_EQ(map[2].host_id, f.id());
}

// ThreadSanitizer cannot take SIGBUS inside an atomic access.
#ifndef PERDURE_THREAD_SANITIZER
TEST(PhysicalMemory, TruncatedFileGivesZerosAndIsCounted) {
  PhysicalMemory m(kSmall, 64 * kMiB);
  GuestFile f(8 * 4096);
  f.set_word(6 * 4096, 77);
  const Bank bank = *m.attach(f.fd(), 0, 8 * 4096);
  ASSERT_EQ(ftruncate(f.fd(), 2 * 4096), 0);
  u64 word = 1;
  EXPECT_TRUE(m.load64(bank.base.value + 6 * 4096, word));
  EXPECT_EQ(word, 0u);
  EXPECT_EQ(m.bus_errors(), 1u);
  EXPECT_TRUE(m.load64(bank.base.value + 6 * 4096 + 8, word));
  EXPECT_EQ(m.bus_errors(), 1u) << "one event for one page";
  EXPECT_TRUE(m.store32(bank.base.value + 7 * 4096, 5));
  EXPECT_EQ(m.bus_errors(), 2u);
  // What is still there is still the file.
  f.set_word(4096, 99);
  EXPECT_TRUE(m.load64(bank.base.value + 4096, word));
  EXPECT_EQ(word, 99u);
  // A bank may reach beyond the end of its file from the start.
  const Bank longer = *m.attach(f.fd(), 8 * 4096, 4096);
  EXPECT_TRUE(m.load64(longer.base.value, word));
  EXPECT_EQ(m.bus_errors(), 3u);
}
#endif

TEST(PhysicalMemory, PunchedHoleIsZerosOfTheFile) {
  PhysicalMemory m(kSmall, 64 * kMiB);
  GuestFile f(8 * 4096);
  f.set_word(4096, 77);
  const Bank bank = *m.attach(f.fd(), 0, 8 * 4096);
  ASSERT_EQ(fallocate(f.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096), 0);
  u64 word = 1;
  EXPECT_TRUE(m.load64(bank.base.value + 4096, word));
  EXPECT_EQ(word, 0u);
  EXPECT_EQ(m.bus_errors(), 0u);
  EXPECT_TRUE(m.store32(bank.base.value + 4096, 5));
  EXPECT_EQ(f.word(4096), 5u);
}

TEST(PhysicalMemoryDeathTest, BusErrorsElsewhereReachWhoeverWasThereBefore) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto touch_lost_page = [] {
    const GuestFile f(4096);
    void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f.fd(), 0);
    if (ftruncate(f.fd(), 0) != 0) _exit(1);
    *static_cast<volatile char*>(page) = 1;
  };
  EXPECT_EXIT(
      {
        struct sigaction action{};
        action.sa_handler = [](int) { _exit(42); };
        sigaction(SIGBUS, &action, nullptr);
        const PhysicalMemory m(kSmall, 64 * kMiB);
        touch_lost_page();
      },
      ::testing::ExitedWithCode(42), "");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_EXIT(
      {
        struct sigaction action{};
        action.sa_handler = SIG_DFL;
        sigaction(SIGBUS, &action, nullptr);
        const PhysicalMemory m(kSmall, 64 * kMiB);
        touch_lost_page();
      },
      ::testing::KilledBySignal(SIGBUS), "");
#endif
}

TEST(PhysicalMemoryDeathTest, DetachedBankIsNotAccessible) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        PhysicalMemory m(kSmall, 64 * kMiB);
        const GuestFile f(4096);
        const Bank bank = *m.attach(f.fd(), 0, 4096);
        if (!m.detach(bank.base.value)) _exit(0);
        *reinterpret_cast<volatile u64*>(m.base() + bank.base.value) = 1;
      },
      "");
}

TEST(PhysicalMemory, OnlyMaterialisedPagesAreVisited) {
  PhysicalMemory m(kDefaultWindowLog2, 64 * kGiB);
  at(m, 4096) = std::byte{1};
  at(m, kGiB) = std::byte{1};
  at(m, 60 * kGiB) = std::byte{1};
  std::vector<PhysRange> seen;
  m.each_materialised_ram([&](PhysRange r) { seen.push_back(r); });
  u64 bytes = 0;
  const auto covers = [&](u64 phys) {
    return std::any_of(seen.begin(), seen.end(), [&](PhysRange r) { return phys >= r.base && phys < r.end(); });
  };
  for (const PhysRange& r : seen) bytes += r.length;
  EXPECT_TRUE(covers(4096) && covers(kGiB) && covers(60 * kGiB));
  EXPECT_LE(bytes, 3 * kHugePageSize);

  const GuestFile f(kGiB);
  const Bank bank = *m.attach(f.fd(), 0, kGiB);
  at(m, bank.base.value + 512 * kMiB) = std::byte{1};
  u64 bank_bytes = 0;
  m.each_materialised_bank([&](const Bank& b, PhysRange r) {
    EXPECT_EQ(b.base, bank.base);
    bank_bytes += r.length;
    EXPECT_TRUE(r.base <= bank.base.value + 512 * kMiB && r.end() > bank.base.value + 512 * kMiB);
  });
  EXPECT_LE(bank_bytes, kHugePageSize);
}

TEST(PhysicalMemory, FindLinesSeesEveryLineAndSurvivesDetachedRanges) {
  PhysicalMemory m(kSmall, 64 * kMiB);
  const u64 magic = 0x1234'5678;
  for (u64 phys : {u64{0}, u64{64}, 3 * kMiB - 64, 5 * kMiB + 128}) {
    *reinterpret_cast<u64*>(m.base() + phys) = magic;
  }
  *reinterpret_cast<u64*>(m.base() + 5 * kMiB + 8) = magic;  // not the beginning of a line
  std::vector<u64> found;
  m.find_lines({0, 64 * kMiB}, magic, [&](u64 phys) { found.push_back(phys); });
  EXPECT_EQ(found, (std::vector<u64>{0, 64, 3 * kMiB - 64, 5 * kMiB + 128}));
  found.clear();
  m.find_lines({8 * kGiB, kGiB}, magic, [&](u64 phys) { found.push_back(phys); });
  EXPECT_TRUE(found.empty());
}

}  // namespace
}  // namespace perdure::board
