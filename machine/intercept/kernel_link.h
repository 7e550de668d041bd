// A connection of the supervisor to the kernel: one call at a time, and the kernel's questions about the task it is
// for.
#pragma once
#include <functional>
#include <memory>
#include <span>

#include "core/base/function_ref.h"
#include "machine/wire/channel.h"
#include "machine/wire/lent_turn.h"

namespace perdure::intercept {

// What the kernel asks while it serves a call.
class Questions {
 public:
  virtual Result<wire::Reply> answer(wire::Message& question) = 0;

 protected:
  ~Questions() = default;
};

class KernelLink {
 public:
  // Joins the front of this number; 0: a new one. Eproto; Ekilled.
  static Result<std::unique_ptr<KernelLink>> join(wire::Channel channel, u64 front);

  // Blocks for the result. `slow` is called once when that takes longer than others should wait for this thread.
  // Ekilled: the kernel is gone.
  Result<wire::Message> call(wire::Call op, wire::Header head, std::span<const std::byte> payload, Questions* about,
                             FunctionRef<void()> slow, int fd = -1);
  Result<wire::Message> call(wire::Call op, const wire::Header& head, std::span<const std::byte> payload = {});

  // Call::Serve: blocks until the turn is back. `stalled`: see Lender::lend().
  Result<wire::Message> lend(wire::Header head, std::span<const std::byte> payload, Questions& about,
                             const wire::LentTurn& turn, FunctionRef<void()> stalled);

  u64 front() const { return front_; }
  // From now on the kernel speaks first on it.
  static Result<wire::Channel> become_events(std::unique_ptr<KernelLink> link);

 private:
  explicit KernelLink(wire::Channel channel) : channel_(std::move(channel)) {}
  wire::Channel channel_;
  void watch(const wire::LentTurn& turn, bool& stalled, FunctionRef<void()> when_stalled);
  u64 front_ = 0;
};

// How a supervisor gets another connection to its kernel.
using Connect = std::function<Result<wire::Channel>()>;

}  // namespace perdure::intercept
