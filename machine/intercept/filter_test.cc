#include "machine/intercept/filter.h"
#include "machine/agent/filter_run.h"

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>

#include "machine/agent/filter_run.h"

namespace perdure::intercept {
namespace {

class Filter : public testing::Test {
 protected:
  u32 of(int number, std::array<u64, 6> args = {}, u32 arch = AUDIT_ARCH_X86_64) const {
    seccomp_data data = {.nr = number, .arch = arch, .instruction_pointer = 0, .args = {}};
    std::memcpy(data.args, args.data(), sizeof data.args);
    return agent::run_filter(build_filter(options), data);
  }
  bool shown(int number, std::array<u64, 6> args = {}) const {
    const u32 action = of(number, args);
    EXPECT_TRUE(action == SECCOMP_RET_USER_NOTIF || action == SECCOMP_RET_ALLOW) << number;
    return action == SECCOMP_RET_USER_NOTIF;
  }
  FilterOptions options{.files = true, .eventfds = false, .high_fd = 960};
};

TEST_F(Filter, IoctlsOfTheTwoTypesWhateverElseTheirNumberSays) {
  for (const u64 cmd : {0x3b00ul, 0x3b81ul, 0x3bfful, 0xba00ul, 0xba42ul, 0xbafful, 0xc0103b81ul, 0x4004ba00ul,
                        0xabcd00003b81ul, u64{kKvmSetDeviceAttr}}) {
    EXPECT_TRUE(shown(__NR_ioctl, {3, cmd})) << std::hex << cmd;
  }
  for (const u64 cmd : {0x5401ul, 0x3a81ul, 0x3c00ul, 0xb9fful, 0xbb00ul, 0x4018aee2ul, 0x3b000000ul, 0x3b00000000ul}) {
    EXPECT_FALSE(shown(__NR_ioctl, {3, cmd})) << std::hex << cmd;
  }
}

TEST_F(Filter, PositionsOfOurFilesOnly) {
  for (const int number : {__NR_pread64, __NR_pwrite64, __NR_preadv, __NR_pwritev, __NR_preadv2, __NR_pwritev2}) {
    EXPECT_TRUE(shown(number, {3, 0, 8, kOurPositions}));
    EXPECT_TRUE(shown(number, {3, 0, 8, ~u64{0}}));
    EXPECT_FALSE(shown(number, {3, 0, 8, kOurPositions - 1}));
    EXPECT_FALSE(shown(number, {3, 0, 8, 0xffffffff}));
  }
  EXPECT_TRUE(shown(__NR_mmap, {0, 4096, 1, 1, 3, kOurPositions}));
  EXPECT_FALSE(shown(__NR_mmap, {0, 4096, 1, 1, 3, kOurPositions - 4096}));
}

TEST_F(Filter, WritesToWhereOrdersStand) {
  for (const int number : {__NR_write, __NR_writev, __NR_pwrite64}) {
    EXPECT_TRUE(shown(number, {960})) << number;
    EXPECT_FALSE(shown(number, {959})) << number;
  }
  EXPECT_FALSE(shown(__NR_read, {960}));
}

TEST_F(Filter, OptionsAddCalls) {
  for (const int number : {__NR_open, __NR_openat, __NR_openat2, __NR_creat, __NR_reboot, __NR_kexec_load,
                           __NR_kexec_file_load, __NR_stat, __NR_statx, __NR_readlinkat}) {
    EXPECT_TRUE(shown(number)) << number;
  }
  for (const int number : {__NR_close, __NR_dup, __NR_fcntl, __NR_poll, __NR_munmap, __NR_execve, __NR_eventfd2}) {
    EXPECT_FALSE(shown(number)) << number;
  }
  options = {.files = false, .eventfds = true};
  EXPECT_TRUE(shown(__NR_eventfd2));
  EXPECT_FALSE(shown(__NR_statx));
}

TEST_F(Filter, NoWayAround) {
  EXPECT_EQ(of(__NR_io_uring_setup), SECCOMP_RET_ERRNO | ENOSYS);
  EXPECT_EQ(of(0x40000000 | __NR_openat), SECCOMP_RET_ERRNO | ENOSYS);
  EXPECT_EQ(of(5, {}, AUDIT_ARCH_I386), SECCOMP_RET_ERRNO | ENOSYS);
  EXPECT_EQ(of(0x40000000), SECCOMP_RET_ERRNO | ENOSYS);
}

}  // namespace
}  // namespace perdure::intercept
