#include "machine/intercept/eventfds.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "machine/host/host_files.h"

namespace perdure::intercept {

namespace {

// All eventfds share one inode; what tells them apart is a number in fdinfo.
std::string number_at(const std::string& fdinfo) {
  char text[1024];
  const host::Descriptor file(open(fdinfo.c_str(), O_RDONLY | O_CLOEXEC));
  const ssize_t n = file ? read(file.get(), text, sizeof text) : -1;
  const std::string_view info(text, n > 0 ? static_cast<usize>(n) : 0);
  constexpr std::string_view kField = "eventfd-id:";
  const usize at = info.find(kField);
  if (at == std::string_view::npos) return {};
  const usize end = info.find('\n', at);
  return std::string(info.substr(at + kField.size(), end == std::string_view::npos ? end : end - at - kField.size()));
}

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

// Names in a directory that are numbers.
std::vector<std::string> numbers_in(const std::string& path) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, CloseDirectory> directory(opendir(path.c_str()));
  if (!directory) return names;
  while (const dirent* entry = readdir(directory.get())) {
    if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9') names.emplace_back(entry->d_name);
  }
  return names;
}

}  // namespace

bool EventFds::needed() {
  const host::Descriptor self(static_cast<int>(syscall(__NR_pidfd_open, getpid(), 0)));
  if (!self) return true;
  const host::Descriptor copy(static_cast<int>(syscall(__NR_pidfd_getfd, self.get(), self.get(), 0)));
  return !copy;
}

Result<host::Descriptor> EventFds::make(u32 count, int flags) {
  host::Descriptor made(eventfd(count, flags | EFD_CLOEXEC));
  if (!made) return fail(host::last_error());
  const std::string number = number_at("/proc/self/fdinfo/" + std::to_string(made.get()));
  host::Descriptor ours(fcntl(made.get(), F_DUPFD_CLOEXEC, 0));
  if (!ours) return fail(Errno::Emfile);
  const std::scoped_lock lock(mutex_);
  if (by_number_.size() >= next_look_) drop_unused_locked();
  if (!number.empty()) by_number_[number] = std::move(ours);
  return made;
}

Result<host::Descriptor> EventFds::find(const Target& target, s32 fd) const {
  const std::string number = number_at(target.proc("fdinfo/" + std::to_string(fd)));
  const std::scoped_lock lock(mutex_);
  const auto found = by_number_.find(number);
  if (number.empty() || found == by_number_.end()) return fail(Errno::Ebadf);
  host::Descriptor copy(fcntl(found->second.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail(host::last_error());
  return copy;
}

usize EventFds::held() const {
  const std::scoped_lock lock(mutex_);
  return by_number_.size();
}

void EventFds::drop_unused_locked() {
  std::set<std::string> used;
  std::set<std::string> once;  // in this process: one is what is held, a second one is on its way to a program
  const std::string self = std::to_string(getpid());
  for (const std::string& process : numbers_in("/proc")) {
    const std::string its = "/proc/" + process;
    for (const std::string& fd : numbers_in(its + "/fd")) {
      if (read_link((its + "/fd/").append(fd)) != "anon_inode:[eventfd]") continue;
      std::string number = number_at((its + "/fdinfo/").append(fd));
      if (process == self && once.insert(number).second) continue;
      used.insert(std::move(number));
    }
  }
  std::erase_if(by_number_, [&](const auto& held) { return !used.contains(held.first); });
  next_look_ = std::max<usize>(64, by_number_.size() * 2);
}

}  // namespace perdure::intercept
