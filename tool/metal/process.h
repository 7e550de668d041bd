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
  // Where standard error goes.
  enum class Errors : u8 { WithOutput, Apart };
  // Starts `program` (found in PATH) with these descriptors inherited under their numbers. The child dies with us.
  static std::expected<Process, std::string> start(const std::string& program,
                                                   const std::vector<std::string>& arguments,
                                                   const std::vector<int>& inherited, Errors errors);
  Process(Process&& o) noexcept;
  Process& operator=(Process&&) = delete;
  // Ends it.
  ~Process();

  // Its standard input, to be written, and what it writes, to be read.
  int input() const { return input_.get(); }
  int output() const { return output_.get(); }
  int errors() const { return errors_.get(); }
  // Readable once it has ended.
  int handle() const { return handle_.get(); }
  void kill();
  // Waits for its end.
  Ending wait();

 private:
  Process() = default;
  pid_t pid_ = -1;
  host::Descriptor handle_;
  host::Descriptor input_;
  host::Descriptor output_;
  host::Descriptor errors_;
};

struct Finished {
  Ending ending;
  std::string output;
};
// Runs it to its end, or for this long.
std::expected<Finished, std::string> run(const std::string& program, const std::vector<std::string>& arguments,
                                         int timeout_ms);

}  // namespace perdure::tool::metal
