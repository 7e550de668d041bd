// What is going on, while it goes on.
#pragma once
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <string_view>

namespace perdure::tool {

// On standard error: one line that grows, or whole lines where nobody watches.
class Progress {
 public:
  explicit Progress(bool quiet) : quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1) {}
  void step(std::string_view what) {
    if (quiet_) return;
    if (terminal_) {
      fmt::print(stderr, "\r\x1b[K  {}", what);
    } else {
      fmt::print(stderr, "  {}\n", what);
    }
    std::fflush(stderr);
  }
  ~Progress() {
    if (!quiet_ && terminal_) fmt::print(stderr, "\r\x1b[K");
  }

 private:
  bool quiet_;
  bool terminal_;
};

}  // namespace perdure::tool
