#include "machine/intercept/processes.h"

#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "machine/host/host_files.h"

namespace perdure::intercept {

Result<std::unique_ptr<Processes>> Processes::create() {
  host::Descriptor epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail(host::last_error());
  return std::unique_ptr<Processes>(new Processes(std::move(epoll)));
}

Result<Target> Processes::target(s32 thread) {
  {
    const std::scoped_lock lock(mutex_);
    if (const auto known = known_.find(thread); known != known_.end()) return known->second;
  }
  return target_again(thread);
}

Result<Target> Processes::target_again(s32 thread) {
  Target target = TRY(Target::of(thread));
  const std::scoped_lock lock(mutex_);
  // Numbers of threads that are gone come again: what is out of date is found out when it is used. Each has a
  // descriptor here.
  constexpr usize kMost = 256;
  if (known_.size() >= kMost) known_.clear();
  known_.insert_or_assign(thread, target);
  return target;
}

void Processes::watch(s32 process) {
  const std::scoped_lock lock(mutex_);
  if (watched_.contains(process)) return;
  host::Descriptor fd(static_cast<int>(syscall(__NR_pidfd_open, process, 0)));
  if (!fd) return;
  epoll_event event = {.events = EPOLLIN, .data = {.fd = process}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) == 0) watched_[process] = std::move(fd);
}

std::vector<wire::LentThread> Processes::lent_threads(usize most) {
  std::vector<wire::LentThread> all;
  const std::scoped_lock lock(mutex_);
  all.reserve(std::min(most, known_.size()));
  for (const auto& [thread, target] : known_) {
    if (all.size() == most) break;
    if (!watched_.contains(target.process())) continue;
    all.push_back({.process = static_cast<u32>(target.process()), .thread = static_cast<u32>(thread)});
  }
  return all;
}

std::vector<s32> Processes::take_gone() {
  std::vector<s32> gone;
  std::array<epoll_event, 16> ready;
  const std::scoped_lock lock(mutex_);
  for (;;) {
    const int n = epoll_wait(epoll_.get(), ready.data(), static_cast<int>(ready.size()), 0);
    if (n <= 0) return gone;
    for (int i = 0; i < n; ++i) {
      const s32 process = ready[static_cast<usize>(i)].data.fd;
      gone.push_back(process);
      watched_.erase(process);
      std::erase_if(known_, [&](const auto& known) { return known.second.process() == process; });
    }
  }
}

}  // namespace perdure::intercept
