#include "machine/intercept/process_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include "machine/host/descriptor.h"

namespace perdure::intercept {

namespace {

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

struct Stat {
  char state = 0;
  pid_t parent = 0;
};

// Nothing: there is no such process any more.
std::optional<Stat> stat_of(const char* pid) {
  char text[512];
  const std::string path = std::string("/proc/") + pid + "/stat";
  const host::Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const ssize_t n = file ? read(file.get(), text, sizeof text - 1) : -1;
  if (n <= 0) return std::nullopt;
  text[n] = 0;
  const std::string_view stat(text, static_cast<size_t>(n));
  // "PID (NAME) STATE PARENT …": a name may hold anything.
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string_view::npos || name_end + 4 >= stat.size()) return std::nullopt;
  return Stat{stat[name_end + 2], static_cast<pid_t>(std::atoi(text + name_end + 4))};
}

}  // namespace

void adopt_orphans() {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
}

std::vector<pid_t> descendants() {
  std::unordered_map<pid_t, pid_t> parent;
  const std::unique_ptr<DIR, CloseDirectory> directory(opendir("/proc"));
  while (const dirent* entry = directory ? readdir(directory.get()) : nullptr) {
    if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
    parent[static_cast<pid_t>(std::atoi(entry->d_name))] = stat_of(entry->d_name).value_or(Stat{}).parent;
  }
  std::vector<std::pair<size_t, pid_t>> found;  // by how far below
  const pid_t self = getpid();
  for (const auto& [pid, unused] : parent) {
    // The numbers were read one after the other: a chain may be broken, or, with numbers that came again, a ring.
    pid_t at = pid;
    size_t steps = 0;
    for (; steps <= parent.size() && at != 0 && at != self; ++steps) {
      const auto next = parent.find(at);
      at = next == parent.end() ? 0 : next->second;
    }
    if (at == self && pid != self) found.emplace_back(steps, pid);
  }
  std::ranges::sort(found);
  std::vector<pid_t> pids;
  pids.reserve(found.size());
  for (const auto& one : found) pids.push_back(one.second);
  return pids;
}

namespace {

std::optional<Ended> reap_child(pid_t which) {
  int status = 0;
  const pid_t pid = waitpid(which, &status, WNOHANG | __WALL);
  if (pid <= 0) return std::nullopt;
  return Ended{pid, status};
}

}  // namespace

// While something is traced only those are waited for that have ended: from a child that is stopped, waiting would take
// what the thread that traces it waits for.
std::optional<Ended> reap(const Tracer* tracer) {
  std::optional<Ended> one;
  const auto any = [&] { one = reap_child(-1); };
  if (tracer == nullptr) {
    any();
    return one;
  }
  if (tracer->while_idle(any)) return one;
  const std::unique_ptr<DIR, CloseDirectory> directory(opendir("/proc"));
  while (const dirent* entry = directory ? readdir(directory.get()) : nullptr) {
    if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
    const auto stat = stat_of(entry->d_name);
    if (!stat || stat->parent != getpid() || stat->state != 'Z') continue;
    if ((one = reap_child(static_cast<pid_t>(std::atoi(entry->d_name))))) return one;
  }
  return std::nullopt;
}

bool any_children() {
  siginfo_t info = {};
  return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 || errno != ECHILD;
}

std::vector<Ended> end_descendants(const Tracer* tracer) {
  std::vector<Ended> ended;
  for (;;) {
    // Parents first: nobody shall see a child of his end, and act on it. Who forks while we look is found the next
    // time: a killed process does not fork.
    for (const pid_t pid : descendants()) kill(pid, SIGKILL);
    while (auto one = reap(tracer)) ended.push_back(*one);
    if (!any_children()) return ended;
    // Until the next one ends: what is orphaned by that becomes a child of this process first.
    poll(nullptr, 0, 1);
  }
}

}  // namespace perdure::intercept
