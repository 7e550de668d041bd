#include "machine/process/syscall_server.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "machine/host/host_files.h"
#include "machine/process/accept.h"
#include "machine/process/connection.h"

namespace perdure::process {

Result<void> SyscallServer::listen(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return fail(Errno::Einval);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  host::Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) return fail(host::last_error());
  unlink(path.c_str());
  const mode_t mask = umask(0177);
  const int bound = bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  umask(mask);
  if (bound != 0 || ::listen(socket.get(), 64) != 0) return fail(host::last_error());
  listener_ = std::move(socket);
  return {};
}

void SyscallServer::run() {
  accept_all(listener_.get(), [this](host::Descriptor socket) {
    // Detached: a program's thread ends with its program, or with this process at the jump.
    std::thread([this, s = std::move(socket)]() mutable {
      ucred peer = {};
      socklen_t length = sizeof peer;
      if (getsockopt(s.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.uid != geteuid()) return;
      serve(std::move(s));
    }).detach();
  });
}

void SyscallServer::serve(host::Descriptor socket) {
  Connection(kernel_, machine_, fronts_, drivers_, creds_, std::move(socket)).run();
}

}  // namespace perdure::process
