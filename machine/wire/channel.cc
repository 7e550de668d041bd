#include "machine/wire/channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "machine/host/host_files.h"

namespace perdure::wire {

Result<Channel> Channel::connect(const std::string& socket_path, int timeout_ms) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof address.sun_path) return fail(Errno::Einval);
  std::memcpy(address.sun_path, socket_path.c_str(), socket_path.size() + 1);
  for (int waited = 0;; ++waited) {
    host::Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!socket) return fail(host::last_error());
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
      Channel channel(std::move(socket));
      TRY(channel.share());
      return channel;
    }
    if (errno != ENOENT && errno != ECONNREFUSED) return fail(host::last_error());
    if (waited >= timeout_ms) return fail(Errno::Etimedout);
    poll(nullptr, 0, 1);
  }
}

namespace {
// Not a message of any protocol: the page that those which follow go through.
constexpr u32 kPage = 0x50414745;
}  // namespace

Result<void> Channel::share() {
  SharedPage page = TRY(SharedPage::create());
  TRY(wire::send(socket_.get(), {.op = kPage}, {}, page.fd()));
  page_ = std::move(page);
  return {};
}

Result<Message> Channel::receive() {
  if (page_) return page_->receive(socket_.get());
  Message m = TRY(wire::receive(socket_.get()));
  if (m.head.op != kPage) return m;
  page_ = TRY(SharedPage::open(std::move(m.fd)));
  return page_->receive(socket_.get());
}

bool Channel::ready(u64 within_ns) {
  if (page_) return page_->ready(socket_.get(), within_ns);
  pollfd p = {socket_.get(), POLLIN, 0};
  const timespec within = {.tv_sec = static_cast<time_t>(within_ns / 1'000'000'000),
                           .tv_nsec = static_cast<long>(within_ns % 1'000'000'000)};
  return ppoll(&p, 1, &within, nullptr) != 0;
}

Result<void> Channel::reply(const Result<Reply>& reply) {
  Header head{.op = static_cast<u32>(Question::Answer)};
  if (!reply) {
    head.result = static_cast<s32>(reply.error());
    return send(head);
  }
  head.a = reply->a;
  head.b = reply->b;
  head.c = reply->c;
  return send(head, reply->payload, reply->own ? reply->own.get() : reply->fd);
}

}  // namespace perdure::wire
