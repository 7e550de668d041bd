#include "tool/metal/traffic.h"

#include <sys/socket.h>

#include <array>
#include <fstream>

namespace perdure::tool::metal {
namespace {

u64 load(const std::vector<unsigned char>& bytes, usize at, usize n) {
  u64 value = 0;
  for (usize i = 0; i < n; ++i) value |= u64{bytes[at + i]} << (8 * i);
  return value;
}

// By hand, from the table in docs/metal.md: splitmix64's first outputs for states 0 and 1 are published values.
TEST(Traffic, FramesSayWhatTheyMustBe) {
  const std::vector<unsigned char> first = frame(0, 0);
  ASSERT_EQ(first.size(), 64U);
  EXPECT_EQ(load(first, 0, 6), 0xFFFFFFFFFFFFU);
  EXPECT_EQ(first[6], 0x02);
  EXPECT_EQ(first[12], 0x88);
  EXPECT_EQ(first[13], 0xB5);
  EXPECT_EQ(load(first, 14, 2), 64U);
  EXPECT_EQ(load(first, 16, 8), 0U);
  EXPECT_EQ(load(first, 32, 8), 0xE220A8397B1DCDAFU);  // splitmix64 of 0
  EXPECT_EQ(load(first, 40, 8), 0xE220A8397B1DCDAFU + 0x9E3779B97F4A7C15U);

  const std::vector<unsigned char> other = frame(41, 7);
  ASSERT_EQ(other.size(), 64U + 8 * 20);
  EXPECT_EQ(load(other, 14, 2), other.size());
  EXPECT_EQ(load(other, 16, 8), 41U);
  EXPECT_EQ(load(other, 24, 4), 7U);
  EXPECT_EQ(load(other, 28, 4), 0U);
  EXPECT_NE(load(other, 32, 8), load(frame(41, 8), 32, 8)) << "the seed matters";
}

TEST(Traffic, DiskBlocksAreWhatTheirNumberSays) {
  const std::string path = testing::TempDir() + "perdure-disk";
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  const auto written = write_disk(path);
  ASSERT_TRUE(written) << written.error();
  EXPECT_FALSE(write_disk(path)) << "never into a file that is there";
  std::ifstream in(path, std::ios::binary);
  const std::vector<unsigned char> bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  std::filesystem::remove(path, ignored);
  ASSERT_EQ(bytes.size(), kDiskBytes);
  for (const u64 block : {u64{0}, u64{1}, kDiskBytes / 512 - 1}) {
    for (const unsigned index : {0U, 63U}) {
      EXPECT_EQ(load(bytes, block * 512 + 8 * usize{index}, 8), disk_word(block, index)) << block << " " << index;
    }
  }
  EXPECT_NE(disk_word(0, 0), disk_word(1, 0));
  EXPECT_EQ(disk_word(5, 3) - disk_word(5, 2), 0x9E3779B97F4A7C15U);
}

TEST(Traffic, TheFeederLeavesNoFrameOutAndEndsWhileItIsHeldUp) {
  int fd[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
  host::Descriptor reader(fd[1]);
  {
    Feeder feeder(host::Descriptor{fd[0]}, 3, 1'000'000);
    u64 sequence = 0;
    const auto take = [&](usize n) {
      std::vector<unsigned char> bytes(n);
      EXPECT_EQ(recv(reader.get(), bytes.data(), n, MSG_WAITALL), static_cast<ssize_t>(n));
      return bytes;
    };
    for (; sequence < 5000; ++sequence) {
      const std::vector<unsigned char> length = take(4);
      const std::vector<unsigned char> expected = frame(sequence, 3);
      ASSERT_EQ(length[2] * 256U + length[3], expected.size());
      ASSERT_EQ(take(expected.size()), expected) << "frame " << sequence;
    }
    // Nobody reads on: the socket fills, and the feeder must still end.
  }
}

TEST(Traffic, TheFeederEndsWhenNobodyListens) {
  int fd[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
  close(fd[1]);
  const Feeder feeder(host::Descriptor{fd[0]}, 3, 20'000);
}

}  // namespace
}  // namespace perdure::tool::metal
