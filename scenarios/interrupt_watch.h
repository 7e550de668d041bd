// One streamer's interrupts in a program's hands: each ring has a vector and an eventfd of its own, and what arrived is
// held against what the device says it sent.
#pragma once
#include <span>

#include "client/fd.h"
#include "scenarios/context.h"
#include "scenarios/drivers/streamer.h"

namespace perdure::scenarios {

class InterruptWatch {
 public:
  static constexpr u32 kVectors = 4;  // one for each of the rings that interrupt

  // Eventfds to the vectors, from the start. Before the rings run.
  Result<void> connect(Context& context, const client::VfioDevice& device);
  // To those of devices that a former kernel's program left interrupting: what came since that kernel went arrives once
  // a vector, and nothing else does. Every vector must have been used in between. Eio. `rest_ns`: how long a message
  // that is on its way may take; it is waited for once, whatever the number of devices.
  static Result<void> reconnect(Context& context, std::span<InterruptWatch> watches,
                                std::span<const client::VfioDevice> devices, u64 rest_ns);
  // What arrived since then is what was sent, vector by vector. Eio.
  static Result<void> check(Context& context, std::span<InterruptWatch> watches,
                            std::span<const client::VfioDevice> devices, u64 rest_ns);

 private:
  Result<void> open(Context& context, const client::VfioDevice& device);
  Result<void> collect(Context& context);
  Result<void> expect_one_each(Context& context);
  Result<void> await_sent(Context& context, const client::VfioDevice& device);
  Result<void> expect_sent(Context& context, const client::VfioDevice& device);
  static Result<void> interrupt(Context& context, const client::VfioDevice& device, bool on);
  static void rest(Context& context, u64 ns);

  client::Fd event_[kVectors];
  u64 sent_before_[kVectors] = {};
  u64 arrived_[kVectors] = {};
};

}  // namespace perdure::scenarios
