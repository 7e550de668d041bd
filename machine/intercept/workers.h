// The threads that serve. One of them waits for the next call at a time, since the listener wakes all who wait; a
// thread that will not be back soon hands that over first, so that a call that blocks holds up nobody but its caller.
#pragma once
#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "machine/intercept/service.h"

namespace perdure::intercept {

class Workers {
 public:
  // A connection to the kernel for one more thread.
  using Join = std::function<Result<std::unique_ptr<KernelLink>>()>;

  // `gone`: called, from any of the threads, when the kernel is.
  Workers(Machine& machine, Join join, std::function<void()> gone)
      : machine_(machine), join_(std::move(join)), gone_(std::move(gone)) {}
  // Waits for the calls that are being served.
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // The first thread; more come when all are busy.
  void start();
  usize count() const;

 private:
  void work();
  // Waits until nobody has the turn, and takes it. False: stop.
  bool take_turn();
  void pass_turn();
  void add_locked();

  static constexpr usize kMost = 4096;

  Machine& machine_;
  const Join join_;
  const std::function<void()> gone_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool taken_ = false;  // somebody waits for calls
  bool stop_ = false;
  usize idle_ = 0;
  usize running_ = 0;
  std::list<std::jthread> threads_;
};

}  // namespace perdure::intercept
