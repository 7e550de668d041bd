#include "machine/process/front.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "machine/host/host_calls.h"

namespace perdure::process {

Front::Front(u64 its_id, HostFiles& files, host::HostObjects& objects)
    : id(its_id), host_files(files), host_objects(objects), next_(host::kFirstKernelFd) {}

Front::~Front() {
  for (const auto& [tgid, process] : processes_) process->end();
  while (!files_.empty()) files_.erase(files_.begin());
}

Result<u64> Front::insert(Ref<File> file) {
  const std::scoped_lock lock(mutex_);
  if (files_.size() >= kMost || next_ > kLastHandle) return fail(Errno::Enfile);
  files_.emplace(next_, std::move(file));
  return next_++;
}

Result<Ref<File>> Front::find(u64 handle) {
  const std::scoped_lock lock(mutex_);
  const auto file = files_.find(handle);
  if (file == files_.end()) return fail(Errno::Ebadf);
  return file->second;
}

Result<void> Front::close(u64 handle) {
  Ref<File> last;  // dropped outside the lock: the last close may do much
  const std::scoped_lock lock(mutex_);
  const auto file = files_.find(handle);
  if (file == files_.end()) return fail(Errno::Ebadf);
  last = std::move(file->second);
  files_.erase(file);
  return {};
}

Result<Ref<FrontProcess>> Front::process(u32 tgid) {
  Ref<FrontProcess> former;
  const std::scoped_lock lock(mutex_);
  Ref<FrontProcess>& known = processes_[tgid];
  if (known && known->same_memory()) return known;
  if (known) known->end();
  former = std::exchange(known, Ref<FrontProcess>::adopt(new FrontProcess(host_files, host_objects, tgid)));
  return known;
}

void Front::forget_process(u32 tgid) {
  Ref<FrontProcess> former;
  const std::scoped_lock lock(mutex_);
  const auto known = processes_.find(tgid);
  if (known == processes_.end()) return;
  known->second->end();
  former = std::move(known->second);
  processes_.erase(known);
}

Result<void> Front::claim_events() {
  const std::scoped_lock lock(events_mutex_);
  if (events_claimed_) return fail(Errno::Ebusy);
  events_claimed_ = true;
  return {};
}

void Front::set_events(wire::Channel& channel) {
  const std::scoped_lock lock(events_mutex_);
  // A supervisor that reads nothing must not hold up the jump.
  const timeval limit = {.tv_sec = 1, .tv_usec = 0};
  setsockopt(channel.socket(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  events_ = &channel;
  events_known_.notify_all();
}

void Front::clear_events() {
  const std::scoped_lock lock(events_mutex_);
  events_claimed_ = false;
  events_ = nullptr;
  events_known_.notify_all();
}

bool Front::send_reboot(std::chrono::steady_clock::time_point until) {
  std::unique_lock lock(events_mutex_);
  events_known_.wait_until(lock, until, [this] { return events_ || !events_claimed_; });
  return events_ && events_->send({.op = static_cast<u32>(wire::Event::Reboot), .a = ++reboots_});
}

bool Front::await_reboot(std::chrono::steady_clock::time_point until) {
  using std::chrono::milliseconds;
  const std::scoped_lock lock(events_mutex_);
  while (events_) {
    const auto left = std::chrono::ceil<milliseconds>(until - std::chrono::steady_clock::now()).count();
    pollfd p = {events_->socket(), POLLIN | POLLRDHUP, 0};
    const int ready = poll(&p, 1, static_cast<int>(std::max<decltype(left)>(left, 0)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    const auto said = events_->receive();
    if (!said) return true;  // gone, and its programs with it
    if (said->head.op == static_cast<u32>(wire::Question::Answer) && said->head.a == reboots_) return true;
    if (left <= 0) return false;
  }
  return true;
}

std::shared_ptr<Front> Fronts::create() {
  const std::scoped_lock lock(mutex_);
  std::erase_if(fronts_, [](const auto& one) { return one.second.expired(); });
  u64 id = 0;
  while (id == 0 || fronts_.contains(id)) {
    if (getrandom(&id, sizeof id, 0) != static_cast<ssize_t>(sizeof id)) id = 0;
  }
  auto front = std::make_shared<Front>(id, host_files_, host_objects_);
  fronts_[id] = front;
  return front;
}

Result<std::shared_ptr<Front>> Fronts::join(u64 id) {
  const std::scoped_lock lock(mutex_);
  const auto found = fronts_.find(id);
  if (found == fronts_.end()) return fail(Errno::Enoent);
  auto front = found->second.lock();
  if (!front) return fail(Errno::Enoent);
  return front;
}

unsigned Fronts::reboot(std::chrono::milliseconds patience) {
  std::vector<std::shared_ptr<Front>> asked;
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& [id, front] : fronts_) {
      if (auto alive = front.lock()) asked.push_back(std::move(alive));
    }
  }
  const auto until = std::chrono::steady_clock::now() + patience;
  std::erase_if(asked, [until](const auto& front) { return !front->send_reboot(until); });
  unsigned silent = 0;
  for (const auto& front : asked) silent += front->await_reboot(until) ? 0 : 1;
  return silent;
}

}  // namespace perdure::process
