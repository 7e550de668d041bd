#include "machine/process/bell.h"

#include <poll.h>

#include <cerrno>

#include "machine/wire/message.h"

namespace perdure::process {

void BellWatch::run() const {
  constexpr u64 kMillisecond = 1'000'000;
  // What the kernel before did not take is there already, and nobody tells of it again.
  deliver();
  u64 serviced = now_ns();
  for (;;) {
    pollfd bell{socket, POLLIN, 0};
    const int rang = poll(&bell, 1, static_cast<int>(kServiceNs / kMillisecond));
    if (rang < 0 && errno != EINTR) return;
    if (rang > 0) {
      if (!wire::receive(socket)) return;
      deliver();
    }
    if (const u64 now = now_ns(); now - serviced >= kServiceNs) {
      serviced = now;
      service();
    }
  }
}

}  // namespace perdure::process
