#include "machine/intercept/kernel_link.h"

namespace perdure::intercept {

using wire::Call;
using wire::Question;

namespace {

// Longer than any call that only looks something up; short for who waits behind it.
constexpr u64 kSlowNs = 100'000;

}  // namespace

Result<std::unique_ptr<KernelLink>> KernelLink::join(wire::Channel channel, u64 front) {
  std::unique_ptr<KernelLink> link(new KernelLink(std::move(channel)));
  const wire::Message joined = TRY(link->call(Call::Front, {.a = front}));
  link->front_ = joined.head.a;
  return link;
}

Result<wire::Message> KernelLink::call(Call op, const wire::Header& head, std::span<const std::byte> payload) {
  return call(op, head, payload, nullptr, [] {});
}

Result<wire::Message> KernelLink::call(Call op, wire::Header head, std::span<const std::byte> payload, Questions* about,
                                       FunctionRef<void()> slow, int fd) {
  head.op = static_cast<u32>(op);
  TRY(channel_.send(head, payload, fd));
  for (bool patient = false;;) {
    if (!patient && !channel_.ready(kSlowNs)) {
      patient = true;
      slow();
    }
    wire::Message m = TRY(channel_.receive());
    if (m.head.op == static_cast<u32>(Question::Result)) {
      if (m.head.result != 0) return fail(static_cast<Errno>(m.head.result));
      return m;
    }
    TRY(channel_.reply(about ? about->answer(m) : fail(Errno::Eproto)));
  }
}

Result<wire::Channel> KernelLink::become_events(std::unique_ptr<KernelLink> link) {
  TRY(link->call(Call::Events, {}));
  link->channel_.stop_sharing();
  return std::move(link->channel_);
}

}  // namespace perdure::intercept
