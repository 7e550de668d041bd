// Fields of /proc/PID/status.
#pragma once
#include <sys/types.h>

#include <optional>
#include <string>

namespace perdure::intercept {

// The text behind "NAME:\t"; nothing: there is no such process.
std::optional<std::string> proc_status(pid_t process, const std::string& name);
// The thread that traces it; 0: none.
std::optional<pid_t> tracer_of(pid_t process);

}  // namespace perdure::intercept
