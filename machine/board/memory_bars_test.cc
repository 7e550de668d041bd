#include "machine/board/memory_bars.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace perdure::board {
namespace {

constexpr u64 kAt = u64{1} << 60;
constexpr u64 kBytes = 0x4000;

// What stands for the device in a program, and the program's mapping of it.
struct Program {
  explicit Program(u64 at = kAt) {
    file = memfd_create("device", MFD_CLOEXEC);
    void* mapped = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, static_cast<off_t>(at));
    EXPECT_NE(mapped, MAP_FAILED);
    memory = static_cast<volatile u64*>(mapped);
  }
  ~Program() {
    munmap(const_cast<u64*>(memory), kBytes);
    close(file);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  u64 size() const {
    struct stat found = {};
    EXPECT_EQ(fstat(file, &found), 0);
    return static_cast<u64>(found.st_size);
  }
  int file = -1;
  volatile u64* memory = nullptr;
};

struct MemoryBarsTest : testing::Test {
  MemoryBarsTest() {
    bars.add(4, kBytes);
    bars.set_on(true);
  }
  MemoryBars bars;
};

TEST_F(MemoryBarsTest, AreSharedWithTheProgram) {
  bars.write(4, 8, 8, 0x1122334455667788);
  Program program;
  ASSERT_TRUE(bars.move(4, program.file, kAt));
  EXPECT_EQ(program.memory[1], 0x1122334455667788U);
  program.memory[2] = 0xAABBCCDD;
  EXPECT_EQ(bars.read(4, 16, 4), 0xAABBCCDDU);
  EXPECT_EQ(bars.read(4, 17, 1), 0xCCU);
  bars.write(4, kBytes - 2, 2, 0xFFFF1234);
  EXPECT_EQ(program.memory[kBytes / 8 - 1], u64{0x1234} << 48);
  EXPECT_EQ(program.size(), kAt + kBytes);
}

// A second mapping of the same file must not bring back what was there before the program's stores.
TEST_F(MemoryBarsTest, StayWhereTheyAre) {
  Program program;
  ASSERT_TRUE(bars.move(4, program.file, kAt));
  program.memory[0] = 5;
  ASSERT_TRUE(bars.move(4, program.file, kAt));
  EXPECT_EQ(program.memory[0], 5U);
  EXPECT_EQ(bars.read(4, 0, 8), 5U);
}

TEST_F(MemoryBarsTest, GoOnWithTheNextProgram) {
  {
    Program first;
    ASSERT_TRUE(bars.move(4, first.file, kAt));
    first.memory[7] = 77;
  }
  EXPECT_EQ(bars.read(4, 56, 8), 77U);
  Program second;
  ASSERT_TRUE(bars.move(4, second.file, kAt));
  EXPECT_EQ(second.memory[7], 77U);
}

TEST_F(MemoryBarsTest, AreKeptAndOutOfReachWhileOff) {
  bars.add(2, kBytes);
  Program program;
  ASSERT_TRUE(bars.move(4, program.file, kAt + (u64{4} << 40)));
  ASSERT_TRUE(bars.move(2, program.file, kAt));
  program.memory[3] = 3;
  bars.write(4, 0, 8, 44);
  bars.set_on(false);
  EXPECT_EQ(program.size(), kAt);  // an access faults: there is no page
  EXPECT_EQ(bars.read(2, 24, 8), 3U);
  bars.set_on(true);
  EXPECT_EQ(program.memory[3], 3U);
  EXPECT_EQ(bars.read(4, 0, 8), 44U);
  bars.set_on(false);
  bars.clear();
  bars.set_on(true);
  EXPECT_EQ(program.memory[3], 0U);
  EXPECT_EQ(bars.read(4, 0, 8), 0U);
}

TEST_F(MemoryBarsTest, MovedWhileOff) {
  bars.write(4, 0, 8, 9);
  bars.set_on(false);
  Program program;
  ASSERT_TRUE(bars.move(4, program.file, kAt));
  EXPECT_EQ(program.size(), 0U);
  bars.set_on(true);
  EXPECT_EQ(program.memory[0], 9U);
}

// It is the program's file: what it takes away is zeros, and nothing worse.
TEST_F(MemoryBarsTest, SurviveWhatTheProgramDoesToItsFile) {
  Program program;
  ASSERT_TRUE(bars.move(4, program.file, kAt));
  program.memory[0] = 6;
  ASSERT_EQ(ftruncate(program.file, 0), 0);
  EXPECT_EQ(bars.read(4, 0, 8), 0U);
  bars.write(4, 0x3FF8, 8, 1);
  EXPECT_EQ(program.memory[kBytes / 8 - 1], 1U);
}

}  // namespace
}  // namespace perdure::board
