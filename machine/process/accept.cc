#include "machine/process/accept.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <system_error>

namespace perdure::process {

namespace {

constexpr int kRetryMs = 10;

bool passes(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

}  // namespace

void accept_all(int listener, const std::function<void(host::Descriptor socket)>& serve) {
  for (;;) {
    host::Descriptor socket(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (!passes(errno)) return;
      poll(nullptr, 0, kRetryMs);
      continue;
    }
    try {
      serve(std::move(socket));
    } catch (const std::system_error&) {
      continue;  // no thread to be had for this one, which is hung up on
    }
  }
}

}  // namespace perdure::process
