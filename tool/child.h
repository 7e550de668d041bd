// A child process that speaks lines: commands to its standard input, answers from its standard output.
#pragma once
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "machine/host/descriptor.h"

namespace perdure::tool {

class Child {
 public:
  // Runs this very program with these arguments.
  static Result<Child> start(const std::vector<std::string>& arguments);
  Child(Child&& o) noexcept;
  Child& operator=(Child&&) = delete;
  // Ends it.
  ~Child();

  Result<void> tell(std::string_view command);
  // The next line; Ekilled at the end of its output, Etimedout.
  Result<std::string> line(int timeout_ms);
  // Waits for its end; its exit status, or 128 + the signal.
  int wait();

 private:
  Child(pid_t pid, host::Descriptor in, host::Descriptor out) : pid_(pid), in_(std::move(in)), out_(std::move(out)) {}
  pid_t pid_ = -1;
  host::Descriptor in_;
  host::Descriptor out_;
  std::string buffer_;
};

}  // namespace perdure::tool
