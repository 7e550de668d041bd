#include "machine/intercept/agent_caller.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "machine/host/send_message.h"

namespace perdure::intercept {

using agent::Say;
using agent::Word;

AgentCaller::AgentCaller(host::Descriptor socket, Processes& processes, std::span<const sock_filter> filter)
    : socket_(std::move(socket)), processes_(processes), filter_(filter) {
  ucred peer = {};
  socklen_t length = sizeof peer;
  if (getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0) process_ = peer.pid;
}

Result<void> AgentCaller::say(const Word& word, std::span<const std::byte> more, int fd) const {
  // Whatever is wrong with the socket: the program can be told nothing more.
  if (!host::send_message(socket_.get(), std::as_bytes(std::span(&word, 1)), more, fd)) return fail(Errno::Ekilled);
  return {};
}

Result<Word> AgentCaller::hear() const {
  Word word;
  for (;;) {
    const ssize_t n = recv(socket_.get(), &word, sizeof word, 0);
    if (n == static_cast<ssize_t>(sizeof word)) return word;
    if (n < 0 && errno == EINTR) continue;
    return fail(n > 0 ? Errno::Eproto : Errno::Ekilled);
  }
}

// A program that has numbers of its own for processes (a pid namespace) knows its threads by those: then the process
// has to stand for them.
s32 AgentCaller::thread_of(s32 said) {
  const auto target = processes_.target(said);
  if (target && target->process() == process_) return said;
  const auto again = processes_.target_again(said);
  return again && again->process() == process_ ? said : process_;
}

Result<SystemCall> AgentCaller::receive() {
  for (;;) {
    const Word word = TRY(hear());
    switch (word.say) {
      case Say::Hello:
        TRY(say({.say = Say::Filter, .number = static_cast<u32>(filter_.size())}, std::as_bytes(filter_)));
        continue;
      case Say::Call: {
        SystemCall call{.id = ++calls_, .tid = thread_of(word.thread), .number = word.number};
        std::memcpy(call.args.data(), word.args, sizeof word.args);
        return call;
      }
      default: return fail(Errno::Eproto);
    }
  }
}

bool AgentCaller::waits(const SystemCall&) const {
  pollfd gone = {socket_.get(), POLLRDHUP, 0};
  return poll(&gone, 1, 0) == 0;
}

// Who is not there any more needs no answer.
void AgentCaller::resume(const SystemCall&) {
  (void)say({.say = Say::Resume});
}

void AgentCaller::answer(const SystemCall&, s64 value) {
  (void)say({.say = Say::Value, .value = value});
}

void AgentCaller::refuse(const SystemCall&, Errno error) {
  (void)say({.say = Say::Value, .value = -static_cast<s64>(error)});
}

Result<s32> AgentCaller::add_fd(const SystemCall&, int fd, bool cloexec, s32 at) {
  const Word install = {.say = Say::Install, .number = cloexec ? static_cast<u32>(O_CLOEXEC) : 0, .value = at};
  TRY(say(install, {}, fd));
  const Word put = TRY(hear());
  if (put.say != Say::Put || put.value > 0x7fffffff) return fail(Errno::Ekilled);
  if (put.value < 0) return fail(static_cast<Errno>(-put.value));
  return static_cast<s32>(put.value);
}

}  // namespace perdure::intercept
