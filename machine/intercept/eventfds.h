// Eventfds that the supervisor made for programs, where it may not take a duplicate of one out of them: container
// profiles refuse pidfd_getfd().
#pragma once
#include <mutex>
#include <string>
#include <unordered_map>

#include "machine/intercept/target.h"

namespace perdure::intercept {

class EventFds {
 public:
  // Descriptors cannot be taken out of programs: eventfds have to be made here.
  static bool needed();

  // As eventfd2() has it; a duplicate of it stays here. Einval, Emfile.
  Result<host::Descriptor> make(u32 count, int flags);
  // A duplicate of what the target has there. Ebadf: not one of ours.
  Result<host::Descriptor> find(const Target& target, s32 fd) const;
  // How many are held for programs.
  usize held() const;

 private:
  // Only those that a program still has are worth keeping.
  void drop_unused_locked();

  mutable std::mutex mutex_;
  std::unordered_map<std::string, host::Descriptor> by_number_;  // by the number that fdinfo shows
  usize next_look_ = 64;
};

}  // namespace perdure::intercept
