#include "machine/intercept/process_tree.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <iterator>

namespace perdure::intercept {
namespace {

// Whatever their numbers are.
TEST(ProcessTree, ParentsComeBeforeTheirChildren) {
  constexpr int kGenerations = 4;
  int said[2];
  ASSERT_EQ(pipe(said), 0);
  const pid_t first = fork();
  if (first == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < kGenerations; ++i) {
      const pid_t self = getpid();
      if (write(said[1], &self, sizeof self) != sizeof self) _exit(1);
      if (i + 1 == kGenerations || fork() != 0) break;
      prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    for (;;) pause();
  }
  pid_t chain[kGenerations] = {};
  for (pid_t& pid : chain) ASSERT_EQ(read(said[0], &pid, sizeof pid), static_cast<ssize_t>(sizeof pid));
  const std::vector<pid_t> found = descendants();
  std::vector<pid_t> expected(std::begin(chain), std::end(chain));
  EXPECT_EQ(found, expected);
  adopt_orphans();
  const std::vector<Ended> ended = end_descendants(nullptr);
  EXPECT_EQ(ended.size(), expected.size());
  EXPECT_FALSE(any_children());
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  close(said[0]);
  close(said[1]);
}

}  // namespace
}  // namespace perdure::intercept
