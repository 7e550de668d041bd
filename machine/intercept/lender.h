// Lends the turn to receive system calls to the kernel, while they are ioctls of its files or accesses to their regions
// (machine/process/lent_calls).
#pragma once
#include <optional>

#include "machine/intercept/service.h"
#include "machine/wire/lent_turn.h"

namespace perdure::intercept {

// One worker's. What is lent is the turn that the worker has.
class Lender {
 public:
  Lender(Machine& machine, KernelLink& link) : machine_(machine), link_(link) {}

  // After each call that was served here; `lendable`: the kernel could have served it alone. Whether the next calls may
  // be worth the way to the kernel and back.
  bool worth(bool lendable);
  // Until the kernel gives the turn back: with a call that is not for it, or without. `stalled`: called once, when the
  // kernel is busy with one call for so long that others must not wait for it; the turn is no longer ours then.
  // Ekilled: the kernel is gone.
  Result<std::optional<SystemCall>> lend(FunctionRef<void()> stalled);

 private:
  Result<void> prepare();
  Result<void> hand_over(wire::Lent what, int fd);

  // Fewer calls than that in a row are not worth it; nor is what was lent in vain.
  static constexpr unsigned kFirst = 16;
  static constexpr unsigned kMost = 1024;

  Machine& machine_;
  KernelLink& link_;
  std::optional<wire::LentTurn> turn_;
  host::Descriptor closes_;  // readable: there is something for Service::pass_on_closes()
  bool possible_ = true;
  unsigned streak_ = 0;
  unsigned wanted_ = kFirst;
};

}  // namespace perdure::intercept
