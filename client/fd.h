// An open descriptor of a program.
#pragma once
#include <utility>

#include "client/syscalls.h"

namespace perdure::client {

class Fd {
 public:
  Fd() = default;
  Fd(Syscalls& sys, s32 number) : sys_(&sys), number_(number) {}
  Fd(Fd&& o) noexcept : sys_(o.sys_), number_(std::exchange(o.number_, -1)) {}
  Fd& operator=(Fd&& o) noexcept {
    if (this != &o) {
      reset();
      sys_ = o.sys_;
      number_ = std::exchange(o.number_, -1);
    }
    return *this;
  }
  ~Fd() { reset(); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;

  void reset() {
    if (number_ >= 0) (void)sys_->close(std::exchange(number_, -1));
  }
  // The kernel ends it, as at kexec: nothing is closed.
  s32 release() { return std::exchange(number_, -1); }
  s32 number() const { return number_; }
  Syscalls& sys() const { return *sys_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  Syscalls* sys_ = nullptr;
  s32 number_ = -1;
};

}  // namespace perdure::client
