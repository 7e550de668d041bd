// Directories of machines: whose they are, who has them, and what is left when nobody tidied up.
#include "tool/machine/runtime_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "tool/machine/run_directory.h"

namespace perdure::tool {
namespace {

namespace fs = std::filesystem;
using State = Found::State;

template <class Act>
Errno error_of(Act act) {
  try {
    act();
  } catch (const MachineError& e) {
    EXPECT_NE(std::string(e.what()), "");
    return e.why();
  }
  return Errno{};
}

class RuntimeDirectoryTest : public ::testing::Test {
 protected:
  RuntimeDirectoryTest() {
    if (const char* old = std::getenv("XDG_RUNTIME_DIR")) old_ = old;
    setenv("XDG_RUNTIME_DIR", base_.path().c_str(), 1);
  }
  ~RuntimeDirectoryTest() override {
    if (old_.empty()) {
      unsetenv("XDG_RUNTIME_DIR");
    } else {
      setenv("XDG_RUNTIME_DIR", old_.c_str(), 1);
    }
  }
  static MachineRecord record(const std::string& name, ProcessId board) {
    return {.name = name, .board = board, .started = "once", .config = ""};
  }
  static ProcessId self() { return *process_of(getpid()); }
  // A process that was there, and is not any more.
  static ProcessId gone() {
    const pid_t pid = fork();
    if (pid == 0) {
      pause();
      _exit(0);
    }
    const ProcessId process = *process_of(pid);
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return process;
  }
  mode_t mode(const fs::path& path) {
    struct stat st = {};
    EXPECT_EQ(lstat(path.c_str(), &st), 0) << path;
    return st.st_mode & 07777;
  }
  RunDirectory base_;
  std::string old_;
};

TEST_F(RuntimeDirectoryTest, Names) {
  for (const char* good :
       {"a", "alpha", "A-1_b.c", "0", "x23456789012345678901234567890123456789012345678901234567890123"}) {
    EXPECT_EQ(error_of([&] { check_name(good); }), Errno{}) << good;
  }
  const std::string longer(65, 'x');
  for (const char* bad : {"", ".", "..", "-f", "_a", "a/b", "a b", "a\n", "ä", "../x", "/x", "a\"", longer.c_str()}) {
    EXPECT_EQ(error_of([&] { check_name(bad); }), Errno::Einval) << bad;
    EXPECT_EQ(error_of([&] { (void)find_machine(bad); }), Errno::Einval) << bad;
    EXPECT_EQ(error_of([&] { (void)claim(bad); }), Errno::Einval) << bad;
  }
  EXPECT_EQ(error_of([&] { check_name(std::string_view("a\0b", 3)); }), Errno::Einval);
}

TEST_F(RuntimeDirectoryTest, LookingMakesNothing) {
  EXPECT_EQ(find_machine("a").state, State::Absent);
  EXPECT_TRUE(find_machines().empty());
  EXPECT_EQ(error_of([] { (void)machine_socket("a"); }), Errno::Enoent);
  EXPECT_TRUE(fs::is_empty(base_.path()));
}

TEST_F(RuntimeDirectoryTest, WhatIsMadeIsThisUsersAlone) {
  const mode_t mask = umask(0);
  const Claimed claimed = claim("a");
  umask(mask);
  EXPECT_EQ(mode(base_.path() / "perdure"), 0700u);
  EXPECT_EQ(mode(claimed.directory), 0700u);
  EXPECT_EQ(mode(claimed.directory / "lock"), 0600u);
}

TEST_F(RuntimeDirectoryTest, ADirectoryThatOthersMayEnterIsRefused) {
  fs::create_directory(base_.path() / "perdure");
  chmod((base_.path() / "perdure").c_str(), 0755);
  EXPECT_EQ(error_of([] { (void)claim("a"); }), Errno::Eacces);
  EXPECT_EQ(error_of([] { (void)find_machine("a"); }), Errno::Eacces);
  EXPECT_EQ(error_of([] { (void)find_machines(); }), Errno::Eacces);
}

TEST_F(RuntimeDirectoryTest, ALinkIsNoDirectory) {
  RunDirectory elsewhere;
  fs::create_directory_symlink(elsewhere.path(), base_.path() / "perdure");
  EXPECT_EQ(error_of([] { (void)claim("a"); }), Errno::Eacces);
  EXPECT_TRUE(fs::is_empty(elsewhere.path()));
}

TEST_F(RuntimeDirectoryTest, AnotherUsersDirectoryIsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a directory away";
  ASSERT_EQ(chown(base_.path().c_str(), 65534, 65534), 0);
  EXPECT_EQ(error_of([] { (void)claim("a"); }), Errno::Eacces);
  EXPECT_EQ(error_of([] { (void)find_machine("a"); }), Errno::Eacces);
}

TEST_F(RuntimeDirectoryTest, ARelativePathIsIgnored) {
  setenv("XDG_RUNTIME_DIR", "run", 1);
  EXPECT_EQ(machine_directory("a"), "/tmp/perdure-" + std::to_string(geteuid()) + "/a");
  unsetenv("XDG_RUNTIME_DIR");
  EXPECT_EQ(machine_directory("a"), "/tmp/perdure-" + std::to_string(geteuid()) + "/a");
}

TEST_F(RuntimeDirectoryTest, OneClaimsAtATime) {
  Claimed first = claim("a");
  EXPECT_EQ(error_of([] { (void)claim("a"); }), Errno::Eexist);
  EXPECT_EQ(find_machine("a").state, State::Starting);
  EXPECT_EQ(error_of([] { (void)machine_socket("a"); }), Errno::Eagain);
  // Of another name: nothing to do with it.
  EXPECT_EQ(error_of([] { (void)claim("b"); }), Errno{});
  first.lock.reset();
  EXPECT_EQ(error_of([] { (void)claim("a"); }), Errno{});
}

// However many start it at once, one gets it.
TEST_F(RuntimeDirectoryTest, ClaimsThatRace) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> got{0};
    std::atomic<int> refused{0};
    std::atomic<bool> go{false};
    std::vector<std::thread> all;
    all.reserve(4);
    std::vector<Claimed> claims(4);
    for (usize i = 0; i < claims.size(); ++i) {
      all.emplace_back([&, i] {
        while (!go) std::this_thread::yield();
        try {
          claims[i] = claim("a");
          ++got;
        } catch (const MachineError& e) {
          EXPECT_EQ(e.why(), Errno::Eexist) << e.what();
          ++refused;
        }
      });
    }
    go = true;
    for (std::thread& t : all) t.join();
    EXPECT_EQ(got, 1);
    EXPECT_EQ(refused, 3);
    remove_locked(base_.path() / "perdure" / "a");
  }
}

// A directory's end races with its next claims: the lock of a file that is gone is nobody's.
TEST_F(RuntimeDirectoryTest, ClaimsThatRaceWithAnEnd) {
  constexpr int kRounds = 400;
  std::atomic<int> holders{0};
  std::atomic<int> claims{0};
  std::vector<std::thread> all;
  all.reserve(4);
  for (int i = 0; i < 4; ++i) {
    all.emplace_back([&] {
      while (claims < kRounds) {
        try {
          const Claimed claimed = claim("a");
          EXPECT_EQ(++holders, 1) << "after " << claims << " claims";
          ++claims;
          std::this_thread::yield();
          --holders;
          remove_locked(claimed.directory);
        } catch (const MachineError& e) {
          // It may vanish between two steps of ours, too.
          EXPECT_TRUE(e.why() == Errno::Eexist || e.why() == Errno::Enoent) << e.what();
          std::this_thread::yield();
        }
      }
    });
  }
  for (std::thread& t : all) t.join();
}

// Who waits for a lock whose file is removed meanwhile does not have the machine of that name.
TEST_F(RuntimeDirectoryTest, ALockThatIsRemovedIsNoLock) {
  Claimed first = claim("a");
  remove_locked(first.directory);
  EXPECT_FALSE(fs::exists(first.directory));
  const Claimed second = claim("a");  // while the first one's descriptor is open
  EXPECT_EQ(find_machine("a").state, State::Starting);
  first.lock.reset();
  EXPECT_EQ(error_of([] { (void)claim("a"); }), Errno::Eexist);
}

TEST_F(RuntimeDirectoryTest, ARunningMachineIsFound) {
  const Claimed claimed = claim("a");
  write_record(claimed.directory, record("a", self()));
  const Found found = find_machine("a");
  EXPECT_EQ(found.state, State::Running);
  EXPECT_EQ(found.record.board, self());
  EXPECT_EQ(found.record.started, "once");
  EXPECT_EQ(machine_socket("a"), claimed.directory / "kernel");
  ASSERT_EQ(find_machines().size(), 1u);
  EXPECT_EQ(find_machines().front().record.name, "a");
}

TEST_F(RuntimeDirectoryTest, AMachineThatEndedUnexpectedlyIsStale) {
  {
    const Claimed claimed = claim("a");
    write_record(claimed.directory, record("a", gone()));
    std::ofstream(claimed.directory / "log") << "last words\n";
  }
  EXPECT_EQ(find_machine("a").state, State::Stale);
  EXPECT_EQ(error_of([] { (void)machine_socket("a"); }), Errno::Eestale);
  EXPECT_TRUE(fs::exists(base_.path() / "perdure/a/log"));
  // The next one of this name does not find its files.
  {
    const Claimed next = claim("a");
    EXPECT_FALSE(fs::exists(next.directory / "log"));
  }
  EXPECT_TRUE(tidy(find_machine("a")));
  EXPECT_EQ(find_machine("a").state, State::Absent);
  EXPECT_FALSE(fs::exists(base_.path() / "perdure/a"));
}

// Numbers of processes come again.
TEST_F(RuntimeDirectoryTest, AProcessWithTheSameNumberIsNotTheMachine) {
  {
    const Claimed claimed = claim("a");
    ProcessId other = self();
    other.start_time -= 1;
    write_record(claimed.directory, record("a", other));
  }
  EXPECT_EQ(find_machine("a").state, State::Stale);
}

TEST_F(RuntimeDirectoryTest, WhatIsLockedIsNotTidiedUp) {
  const Claimed claimed = claim("a");
  write_record(claimed.directory, record("a", gone()));
  EXPECT_EQ(find_machine("a").state, State::Starting);
  EXPECT_FALSE(tidy(find_machine("a")));
  EXPECT_TRUE(fs::exists(claimed.directory / "machine"));
}

TEST_F(RuntimeDirectoryTest, ARecordThatIsNoneIsNobodys) {
  for (const char* text :
       {"", "{", "[]", "{\"name\": 3}", "{\"name\":\"a\",\"pid\":\"x\",\"start_time\":1}", "\xff\xfe"}) {
    {
      const Claimed claimed = claim("a");
      std::ofstream(claimed.directory / "machine") << text;
    }
    EXPECT_EQ(find_machine("a").state, State::Stale) << text;
  }
}

TEST_F(RuntimeDirectoryTest, PathsTooLongForASocketAreRefused) {
  const fs::path deep = base_.path() / std::string(90, 'd');
  fs::create_directory(deep);
  chmod(deep.c_str(), 0700);
  setenv("XDG_RUNTIME_DIR", deep.c_str(), 1);
  EXPECT_EQ(error_of([] { (void)claim("a"); }), Errno::Einval);
}

TEST(ProcessId, ZombiesAndNobodyAreNoProcess) {
  EXPECT_EQ(process_of(0), std::nullopt);
  EXPECT_EQ(process_of(-1), std::nullopt);
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  siginfo_t info = {};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(process_of(pid), std::nullopt);
  waitpid(pid, nullptr, 0);
  EXPECT_EQ(process_of(pid), std::nullopt);
}

}  // namespace
}  // namespace perdure::tool
