// What only a process of its own can do: children, descriptors through sockets.
#pragma once
#include <functional>

#include "tests/uapi/case.h"

namespace perdure::uapi_test {

// A child process, killed at the latest when this goes.
class Child {
 public:
  Child(Case& t, const std::function<void(Child&)>& body);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // --- in the child --------------------------------------------------------------------------------------------------
  void ready() const;
  [[noreturn]] static void wait_for_ever();
  // Until the parent says so.
  void wait_for_parent() const;

  // --- in the parent -------------------------------------------------------------------------------------------------
  void wait_until_ready(Case& t) const;
  void go_on() const;
  // SIGKILL, and until it is gone.
  void kill(Case& t);
  // Waits for its end; what failed there has failed here.
  void expect_success(Case& t);
  pid_t pid() const { return pid_; }

 private:
  // Up to its end.
  std::string what_it_says() const;

  pid_t pid_ = -1;
  int to_parent_[2] = {-1, -1}, to_child_[2] = {-1, -1};
};

// A socket pair that carries descriptors.
class Channel {
 public:
  explicit Channel(Case& t);
  void send(Case& t, s32 fd) const;
  Fd receive(Case& t) const;

 private:
  Fd one_, two_;
};

}  // namespace perdure::uapi_test
