// Messages with descriptors over a SOCK_SEQPACKET unix socket: one fixed header, up to 64 KiB of bytes, up to one
// descriptor. The wire between programs and the kernel process, and between the kernel process and the board.
#pragma once
#include <span>
#include <vector>

#include "core/base/result.h"
#include "core/base/types.h"
#include "machine/host/descriptor.h"

namespace perdure::wire {

inline constexpr usize kMaxPayload = usize{64} << 10;

struct Header {
  u32 op = 0;      // the protocol's number
  s32 result = 0;  // replies: 0 or an Errno
  u64 a = 0;
  u64 b = 0;
  u64 c = 0;
  u64 d = 0;
  u64 task = 0;   // system calls: on whose behalf
  u32 bytes = 0;  // of the payload
  u32 has_fd = 0;
};
static_assert(sizeof(Header) == 56);

struct Message {
  Header head;
  std::vector<std::byte> payload;
  host::Descriptor fd;
  // There was one, and this process may have no more open.
  bool fd_lost = false;
};

// Whole or not at all. Ekilled when the other side is gone.
Result<void> send(int socket, const Header& head, std::span<const std::byte> payload = {}, int fd = -1);
// Blocks for the next message. Ekilled at the end, Eproto for a malformed one.
Result<Message> receive(int socket);

// A connected pair, close-on-exec.
Result<std::pair<host::Descriptor, host::Descriptor>> socket_pair();

}  // namespace perdure::wire
