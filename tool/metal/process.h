// A child process with descriptors of ours, and what it prints.
#pragma once
#include <sys/types.h>

#include <expected>
#include <string>
#include <vector>

#include "core/base/types.h"
#include "machine/host/descriptor.h"

namespace perdure::tool::metal {

// How a process ended.
struct Ending {
  bool signalled = false;
  int code = 0;  // exit status, or signal
  std::string to_string() const;
};

class Process {
 public:
  // Starts `program` (found in PATH) with these descriptors inherited under their numbers. The child dies with us.
  static std::expected<Process, std::string> start(const std::string& program,
                                                   const std::vector<std::string>& arguments,
                                                   const std::vector<int>& inherited);
  Process(Process&& o) noexcept;
  Process& operator=(Process&&) = delete;
  // Ends it.
  ~Process();

  // Readable: standard output and standard error, as one.
  int output() const { return output_.get(); }
  // Readable once it has ended.
  int handle() const { return handle_.get(); }
  void kill();
  // Waits for its end.
  Ending wait();

 private:
  Process(pid_t pid, host::Descriptor handle, host::Descriptor output)
      : pid_(pid), handle_(std::move(handle)), output_(std::move(output)) {}
  pid_t pid_ = -1;
  host::Descriptor handle_;
  host::Descriptor output_;
};

struct Finished {
  Ending ending;
  std::string output;
};
// Runs it to its end, or for this long.
std::expected<Finished, std::string> run(const std::string& program, const std::vector<std::string>& arguments,
                                         int timeout_ms);

}  // namespace perdure::tool::metal
