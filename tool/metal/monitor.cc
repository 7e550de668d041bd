#include "tool/metal/monitor.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

namespace perdure::tool::metal {

namespace {

using nlohmann::json;

constexpr int kAnswerMs = 30'000;
constexpr usize kLongestMessage = usize{1} << 20;

}  // namespace

std::expected<void, std::string> Monitor::open() {
  auto greeting = message();
  if (!greeting) return std::unexpected(greeting.error());
  if (!greeting->contains("QMP")) return std::unexpected("QEMU's monitor does not greet: " + greeting->dump());
  return command({{"execute", "qmp_capabilities"}});
}

std::expected<void, std::string> Monitor::stop() {
  return command({{"execute", "stop"}});
}

std::expected<void, std::string> Monitor::resume() {
  return command({{"execute", "cont"}});
}

std::expected<void, std::string> Monitor::save(u64 base, u64 length, const std::filesystem::path& file) {
  return command(
      {{"execute", "pmemsave"}, {"arguments", {{"val", base}, {"size", length}, {"filename", file.string()}}}});
}

std::expected<void, std::string> Monitor::command(const json& what) {
  const std::string text = what.dump() + "\n";
  if (send(connection_.get(), text.data(), text.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(text.size())) {
    return std::unexpected(fmt::format("QEMU's monitor does not listen: {}", std::strerror(errno)));
  }
  for (;;) {
    auto answer = message();
    if (!answer) return std::unexpected(answer.error());
    if (answer->contains("return")) return {};
    if (answer->contains("error")) {
      return std::unexpected(
          fmt::format("QEMU refuses '{}': {}", what.at("execute").get<std::string>(), answer->at("error").dump()));
    }
    // Anything else is an event.
  }
}

std::expected<json, std::string> Monitor::message() {
  for (;;) {
    if (const usize end = rest_.find('\n'); end != std::string::npos) {
      json parsed = json::parse(rest_.substr(0, end), nullptr, false);
      rest_.erase(0, end + 1);
      if (parsed.is_object()) return parsed;
      return std::unexpected("QEMU's monitor does not speak JSON");
    }
    if (rest_.size() > kLongestMessage) return std::unexpected("QEMU's monitor does not end its message");
    pollfd p = {connection_.get(), POLLIN, 0};
    const int ready = poll(&p, 1, kAnswerMs);
    if (ready < 0 && errno == EINTR) continue;
    char chunk[4096];
    const ssize_t n = ready <= 0 ? -1 : recv(connection_.get(), chunk, sizeof chunk, 0);
    if (n <= 0) return std::unexpected(ready == 0 ? "QEMU's monitor does not answer" : "QEMU's monitor is gone");
    rest_.append(chunk, static_cast<usize>(n));
  }
}

}  // namespace perdure::tool::metal
