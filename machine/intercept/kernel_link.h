// A connection of the supervisor to the kernel: one call at a time, and the kernel's questions about the task that it is for.
#pragma once
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/function_ref.h"
#include "machine/wire/message.h"
#include "machine/wire/syscall_protocol.h"

namespace perdure::intercept {

// What the kernel asks while it serves a call.
class Questions {
 public:
  struct Answer {
    wire::Header head;
    std::vector<std::byte> payload;
    host::Descriptor fd;
  };
  virtual Result<Answer> answer(wire::Message& question) = 0;

 protected:
  ~Questions() = default;
};

class KernelLink {
 public:
  // Joins the front of this number, 0: a new one. Eproto; Ekilled.
  static Result<std::unique_ptr<KernelLink>> join(host::Descriptor socket, u64 front);

  // Blocks for the result. `slow` is called once when that takes longer than others should wait for this thread.
  // Ekilled: the kernel is gone.
  Result<wire::Message> call(wire::Call op, wire::Header head, std::span<const std::byte> payload, Questions* about,
                             FunctionRef<void()> slow);
  Result<wire::Message> call(wire::Call op, wire::Header head, std::span<const std::byte> payload = {});

  u64 front() const { return front_; }
  // From now on the kernel speaks first on it.
  Result<host::Descriptor> become_event_channel() &&;

 private:
  explicit KernelLink(host::Descriptor socket) : socket_(std::move(socket)) {}
  host::Descriptor socket_;
  u64 front_ = 0;
};

}  // namespace perdure::intercept
