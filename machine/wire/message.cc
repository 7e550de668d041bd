#include "machine/wire/message.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "machine/host/host_files.h"
#include "machine/host/send_message.h"

namespace perdure::wire {

Result<void> send(int socket, const Header& head, std::span<const std::byte> payload, int fd) {
  if (payload.size() > kMaxPayload) return fail(Errno::Emsgsize);
  Header stamped = head;
  stamped.bytes = static_cast<u32>(payload.size());
  stamped.has_fd = fd >= 0 ? 1 : 0;
  return host::send_message(socket, std::as_bytes(std::span(&stamped, 1)), payload, fd);
}

Result<Message> receive(int socket) {
  Message m;
  thread_local std::vector<std::byte> room(kMaxPayload);
  iovec parts[2] = {{&m.head, sizeof m.head}, {room.data(), room.size()}};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n = 0;
  do {
    n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return fail(host::peer_is_gone(errno) ? Errno::Ekilled : host::last_error());
  if (n == 0) return fail(Errno::Ekilled);
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c), sizeof fd);
      m.fd = host::Descriptor(fd);
    }
  }
  const auto received = static_cast<usize>(n);
  if (received < sizeof(Header) || (message.msg_flags & MSG_TRUNC) != 0 || received - sizeof(Header) != m.head.bytes) {
    return fail(Errno::Eproto);
  }
  // There is room for one, so that what was cut off is one that could not be opened here.
  m.fd_lost = (message.msg_flags & MSG_CTRUNC) != 0 && !m.fd;
  if ((m.head.has_fd != 0) != (m.fd || m.fd_lost)) return fail(Errno::Eproto);
  m.payload.assign(room.begin(), room.begin() + m.head.bytes);
  return m;
}

Result<std::pair<host::Descriptor, host::Descriptor>> socket_pair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return fail(host::last_error());
  return std::pair(host::Descriptor(ends[0]), host::Descriptor(ends[1]));
}

}  // namespace perdure::wire
