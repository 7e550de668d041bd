// One message of a socket, with a descriptor if there is one.
#pragma once
#include <cstddef>
#include <span>

#include "core/base/result.h"

namespace perdure::host {

// A message of these two parts; `fd`: one to send along, or -1. Goes on when interrupted. Ekilled: nobody is at the
// other end; else the host's error.
Result<void> send_message(int socket, std::span<const std::byte> head, std::span<const std::byte> payload, int fd);

// An errno that says that nobody is at the other end of a socket.
bool peer_is_gone(int error);

}  // namespace perdure::host
