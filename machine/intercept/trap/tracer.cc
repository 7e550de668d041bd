#include "machine/intercept/trap/tracer.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "machine/intercept/trap/follower.h"
#include "machine/intercept/trap/proc_status.h"

namespace perdure::intercept {

Tracer::~Tracer() {
  std::vector<std::jthread> running;
  {
    const std::scoped_lock lock(mutex_);
    running.swap(running_);
  }
  running.clear();
}

bool Tracer::possible() {
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    for (;;) pause();
  }
  const bool seized = ptrace(PTRACE_SEIZE, child, nullptr, nullptr) == 0;
  kill(child, SIGKILL);
  while (waitpid(child, nullptr, __WALL) < 0 && errno == EINTR) {
  }
  return seized;
}

bool Tracer::is_own_thread(pid_t thread) const {
  const std::scoped_lock lock(mutex_);
  return threads_.contains(thread);
}

Result<bool> Tracer::traced_by_others(pid_t process) const {
  const auto by = tracer_of(process);
  if (!by) return fail(Errno::Esrch);
  return *by != 0 && !is_own_thread(*by);
}

Result<void> Tracer::follow(pid_t process) {
  const std::scoped_lock starting(starting_);
  const auto by = tracer_of(process);
  if (!by) return fail(Errno::Esrch);
  if (*by != 0) return is_own_thread(*by) ? Result<void>() : fail(Errno::Ebusy);
  std::unique_ptr<RegisterBus> bus = TRY(make_bus_());
  std::promise<Result<void>> started;
  auto result = started.get_future();
  {
    const std::scoped_lock lock(mutex_);
    std::erase_if(running_, [&](const std::jthread& thread) { return finished_.erase(thread.get_id()) != 0; });
    ++active_;
    running_.emplace_back([this, process, started = std::move(started), bus = std::move(bus)]() mutable {
      trace(process, std::move(bus), started);
    });
  }
  return result.get();
}

void Tracer::trace(pid_t process, std::unique_ptr<RegisterBus> bus, std::promise<Result<void>>& started) {
  const pid_t self = gettid();
  Follower follower(*this, process, std::move(bus));
  {
    const std::scoped_lock lock(mutex_);
    threads_.insert(self);
  }
  started.set_value(follower.seize());
  follower.run();
  const std::scoped_lock lock(mutex_);
  threads_.erase(self);
  if (--active_ == 0) idle_.notify_all();
  finished_.insert(std::this_thread::get_id());
}

bool Tracer::while_idle(FunctionRef<void()> wait) const {
  const std::scoped_lock lock(mutex_);
  if (active_ != 0) return false;
  wait();
  return true;
}

void Tracer::wait_idle(std::chrono::milliseconds at_most) {
  std::unique_lock lock(mutex_);
  idle_.wait_for(lock, at_most, [this] { return active_ == 0; });
}

}  // namespace perdure::intercept
