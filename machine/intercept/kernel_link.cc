#include "machine/intercept/kernel_link.h"

#include <poll.h>

#include <cerrno>
#include <ctime>

namespace perdure::intercept {

using wire::Call;
using wire::Question;

namespace {

// Longer than any call that only looks something up; short for who waits behind it.
constexpr long kSlowNs = 100'000;

bool readable_soon(int fd) {
  pollfd p = {fd, POLLIN, 0};
  const timespec soon = {.tv_sec = 0, .tv_nsec = kSlowNs};
  return ppoll(&p, 1, &soon, nullptr) != 0;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

}  // namespace

Result<std::unique_ptr<KernelLink>> KernelLink::join(host::Descriptor socket, u64 front) {
  std::unique_ptr<KernelLink> link(new KernelLink(std::move(socket)));
  const wire::Message joined = TRY(link->call(Call::Front, {.a = front}));
  link->front_ = joined.head.a;
  return link;
}

Result<wire::Message> KernelLink::call(Call op, wire::Header head, std::span<const std::byte> payload) {
  return call(op, head, payload, nullptr, [] {});
}

Result<wire::Message> KernelLink::call(Call op, wire::Header head, std::span<const std::byte> payload, Questions* about,
                                       FunctionRef<void()> slow) {
  head.op = static_cast<u32>(op);
  TRY(wire::send(socket_.get(), head, payload));
  bool patient = false;
  for (;;) {
    if (!patient && !readable_soon(socket_.get())) {
      patient = true;
      slow();
    }
    wire::Message m = TRY(wire::receive(socket_.get()));
    if (m.head.op == static_cast<u32>(Question::Result)) {
      if (m.head.result != 0) return fail(static_cast<Errno>(m.head.result));
      return m;
    }
    if (!about) return fail(Errno::Eproto);
    Questions::Answer reply;
    if (auto answer = about->answer(m)) {
      reply = std::move(*answer);
    } else {
      reply.head.result = static_cast<s32>(answer.error());
    }
    reply.head.op = static_cast<u32>(Question::Answer);
    TRY(wire::send(socket_.get(), reply.head, reply.payload, reply.fd.get()));
  }
}

Result<host::Descriptor> KernelLink::become_event_channel() && {
  TRY(call(Call::Events, {}));
  return std::move(socket_);
}

}  // namespace perdure::intercept
