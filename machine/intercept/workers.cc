#include "machine/intercept/workers.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <chrono>

#include "machine/intercept/lender.h"

namespace perdure::intercept {

namespace {

// Interrupts a thread that waits for a call; does nothing else.
int interrupt_signal() {
  return SIGRTMAX - 2;
}

bool nobody_calls(int listener) {
  pollfd p = {listener, 0, 0};
  return poll(&p, 1, 0) > 0 && (p.revents & POLLHUP) != 0;
}

}  // namespace

void Workers::start() {
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigaction(interrupt_signal(), &action, nullptr);
  const std::scoped_lock lock(mutex_);
  add_locked();
}

Workers::~Workers() {
  std::unique_lock lock(mutex_);
  stop_ = true;
  changed_.notify_all();
  // The signal may come just before a thread waits: until all have ended.
  while (running_ > 0) {
    for (std::jthread& thread : threads_) pthread_kill(thread.native_handle(), interrupt_signal());
    changed_.wait_for(lock, std::chrono::milliseconds(5));
  }
}

usize Workers::count() const {
  const std::scoped_lock lock(mutex_);
  return running_;
}

void Workers::add_locked() {
  if (running_ >= kMost) return;
  ++running_;
  threads_.emplace_back([this] {
    work();
    const std::scoped_lock lock(mutex_);
    --running_;
    changed_.notify_all();
  });
}

bool Workers::take_turn() {
  std::unique_lock lock(mutex_);
  ++idle_;
  changed_.wait(lock, [this] { return stop_ || !taken_; });
  --idle_;
  taken_ = !stop_;
  return !stop_;
}

void Workers::pass_turn() {
  const std::scoped_lock lock(mutex_);
  taken_ = false;
  if (stop_) return;
  if (idle_ > 0) {
    changed_.notify_one();
  } else {
    add_locked();
  }
}

void Workers::work() {
  auto link = join_();
  if (!link) return gone_();
  bool mine = false;
  const auto pass = [&] {
    if (std::exchange(mine, false)) pass_turn();
  };
  Service service(machine_, **link, pass);
  Lender lender(machine_, **link);
  std::optional<SystemCall> left;  // by the kernel, which had the turn
  while (take_turn()) {
    mine = true;
    while (mine || left) {
      const auto call = left ? Result<SystemCall>(*left) : machine_.listener->receive();
      left.reset();
      if (!call) {
        const std::scoped_lock lock(mutex_);
        if (stop_ || (call.error() != Errno::Eintr && nobody_calls(machine_.listener->fd()))) {
          taken_ = false;
          return;
        }
        continue;
      }
      if (!service.serve(*call)) {
        pass();
        return gone_();
      }
      if (!mine || !lender.worth(service.was_lendable())) continue;
      auto back = lender.lend(pass);
      if (!back) {
        pass();
        return gone_();
      }
      left = *back;
    }
  }
}

}  // namespace perdure::intercept
