// How a kernel process takes the connections of programs.
#pragma once
#include <functional>

#include "machine/host/descriptor.h"

namespace perdure::process {

// Hands each connection to `serve`, and returns when the listening socket breaks. Descriptors, memory or threads that
// are short for a while cost the programs that want in their time or their connection, and never the kernel.
void accept_all(int listener, const std::function<void(host::Descriptor socket)>& serve);

}  // namespace perdure::process
