// The board process of one machine: hardware, control socket, log. Started by `perdure machine up` and by `perdure run`
// (start.h), which tells it over a socket what to be; it ends when it is told to, by signal, or, unless it is to stay,
// when that socket closes.
#pragma once

namespace perdure::tool {

// Descriptors that it is started with. The lock is there for machines that stay.
inline constexpr int kStarterSocket = 3;
inline constexpr int kLockFile = 4;

int run_board_process();

}  // namespace perdure::tool
