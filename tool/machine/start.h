// Starting the board process of a machine, from outside.
#pragma once
#include <sys/types.h>

#include <filesystem>
#include <string>

#include "machine/host/descriptor.h"
#include "tool/machine/machine_config.h"

namespace perdure::tool {

struct BoardStart {
  std::string name;
  std::filesystem::path directory;  // its sockets and its log; removed when it ends
  MachineConfig config;
  std::string config_name;  // for people: the file that it came from
  bool stay = false;        // it outlives whoever started it; else it ends with the BoardProcess
  bool echo = false;        // what kernels say goes to standard error, too
  host::Descriptor lock;    // of the directory, if it has one
  // What is run: this very program.
  std::filesystem::path program = "/proc/self/exe";
};

class BoardProcess {
 public:
  // Returns when the first kernel serves. Throws MachineError, with what board and kernel had to say. To be called
  // before this process has threads that hold locks of the C library: it forks.
  static BoardProcess start(BoardStart what);
  BoardProcess(BoardProcess&& o) noexcept
      : pid_(std::exchange(o.pid_, -1)), line_(std::move(o.line_)), release_(std::move(o.release_)) {}
  BoardProcess& operator=(BoardProcess&&) = delete;
  // Ends the machine and waits for it, unless it is to stay. Without that it ends when this process and all children
  // that it forked, and that executed nothing else, are gone.
  ~BoardProcess();

  pid_t pid() const { return pid_; }
  // Of the first kernel.
  const std::string& release() const { return release_; }
  // Readable when the machine has ended.
  int line() const { return line_.get(); }
  // Leaves it to itself.
  void release_it() { pid_ = -1; }

 private:
  BoardProcess(pid_t pid, host::Descriptor line) : pid_(pid), line_(std::move(line)) {}
  pid_t pid_ = -1;
  host::Descriptor line_;
  std::string release_;
};

}  // namespace perdure::tool
