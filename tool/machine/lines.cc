#include "tool/machine/lines.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>

namespace perdure::tool {

using nlohmann::json;

Result<void> JsonLines::send(const json& value) {
  // Paths and names are whatever bytes somebody chose.
  const std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  for (usize done = 0; done < text.size();) {
    const ssize_t n = ::send(socket_.get(), text.data() + done, text.size() - done, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail(Errno::Ekilled);
    done += static_cast<usize>(n);
  }
  return {};
}

Result<json> JsonLines::receive(int timeout_ms) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  for (;;) {
    if (const usize cut = buffer_.find('\n'); cut != std::string::npos) {
      json value = json::parse(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(cut), nullptr, false);
      buffer_.erase(0, cut + 1);
      if (value.is_discarded()) return fail(Errno::Ekilled);
      return value;
    }
    if (buffer_.size() > kLongest) return fail(Errno::Ekilled);
    int left = -1;
    if (timeout_ms >= 0) {
      left = static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count());
      if (left < 0) left = 0;
    }
    pollfd p = {socket_.get(), POLLIN, 0};
    const int ready = poll(&p, 1, left);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) return fail(Errno::Etimedout);
    char chunk[16384];
    const ssize_t n = recv(socket_.get(), chunk, sizeof chunk, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail(Errno::Ekilled);
    buffer_.append(chunk, static_cast<usize>(n));
  }
}

bool JsonLines::gone() const {
  pollfd p = {socket_.get(), POLLRDHUP, 0};
  return poll(&p, 1, 0) > 0;
}

}  // namespace perdure::tool
