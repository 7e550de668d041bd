#include "tool/machine/control.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

namespace perdure::tool {

using nlohmann::json;

namespace {

host::Descriptor connected(const std::filesystem::path& directory) {
  const std::string path = directory / kControlSocket;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    throw MachineError(Errno::Einval, path + ": too long a path for a socket");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  host::Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket || connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int error = errno;
    throw MachineError(static_cast<Errno>(error), path + ": no machine answers: " + std::strerror(error));
  }
  return socket;
}

}  // namespace

Control::Control(const std::filesystem::path& directory) : directory_(directory), lines_(connected(directory)) {}

json Control::ask(json request, int timeout_ms) {
  request["v"] = kControlVersion;
  const auto sent = lines_.send(request);
  const auto answer = sent ? lines_.receive(timeout_ms) : Result<json>(fail(sent.error()));
  if (!answer) {
    const bool late = answer.error() == Errno::Etimedout;
    throw MachineError(answer.error(), directory_.string() + (late ? ": the machine does not answer in time"
                                                                   : ": the machine ended while it was asked"));
  }
  if (!answer->is_object() || answer->value("v", 0) != kControlVersion) {
    throw MachineError(Errno::Eproto, directory_.string() +
                                          ": the machine runs under another version of this program; "
                                          "end it with that, or kill its process");
  }
  if (answer->contains("error")) {
    throw MachineError(static_cast<Errno>(answer->value("errno", static_cast<int>(Errno::Eio))),
                       answer->value("error", "?"));
  }
  return *answer;
}

std::optional<json> Control::more() {
  auto line = lines_.receive(-1);
  if (!line) return std::nullopt;
  return std::move(*line);
}

}  // namespace perdure::tool
