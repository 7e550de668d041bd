#include "machine/intercept/kernel_link.h"

namespace perdure::intercept {

using wire::Call;
using wire::Question;

namespace {

// Longer than any call that only looks something up; short for who waits behind it.
constexpr u64 kSlowNs = 100'000;
// How often somebody looks whether the kernel, which receives calls itself, gets on with them; and for how long while
// there are none.
constexpr u64 kTickNs = 1'000'000;
constexpr unsigned kIdleTicks = 20;

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

// Until the kernel says something, or nobody needs to look.
void KernelLink::watch(const wire::LentTurn& turn, bool& stalled, FunctionRef<void()> when_stalled) {
  u64 last = turn.progress();
  for (unsigned idle = 0; !stalled && !channel_.ready(kTickNs);) {
    const u64 now = turn.progress();
    const bool serves = now % 2 != 0;
    if (now != last) {
      idle = 0;
    } else if (serves) {
      stalled = true;
      turn.revoke();
      when_stalled();
    } else if (++idle >= kIdleTicks && turn.look_away(now)) {
      return;
    }
    last = now;
  }
}

Result<wire::Message> KernelLink::lend(wire::Header head, std::span<const std::byte> payload, Questions& about,
                                       const wire::LentTurn& turn, FunctionRef<void()> stalled) {
  head.op = static_cast<u32>(Call::Serve);
  TRY(channel_.send(head, payload));
  for (bool has_stalled = false;;) {
    watch(turn, has_stalled, stalled);
    wire::Message m = TRY(channel_.receive());
    if (m.head.op == static_cast<u32>(Question::Result)) {
      if (m.head.result != 0) return fail(static_cast<Errno>(m.head.result));
      return m;
    }
    // Watch: there is nothing to say to it.
    const bool to_watch = m.head.op == static_cast<u32>(Question::Watch);
    TRY(channel_.reply(to_watch ? Result<wire::Reply>(wire::Reply{}) : about.answer(m)));
  }
}

Result<wire::Channel> KernelLink::become_events(std::unique_ptr<KernelLink> link) {
  TRY(link->call(Call::Events, {}));
  link->channel_.stop_sharing();
  return std::move(link->channel_);
}

}  // namespace perdure::intercept
