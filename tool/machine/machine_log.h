// What a machine's kernels say, and when: in a file that does not grow without end, and for those who follow.
#pragma once
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/types.h"
#include "machine/host/descriptor.h"

namespace perdure::tool {

class MachineLog {
 public:
  // `limit`: a file that would become longer is renamed to FILE.1, in place of the one before, and a new one begun.
  // `echo`: lines go to standard error, too. Throws MachineError.
  MachineLog(std::filesystem::path file, u64 limit, bool echo);

  // Where kernels write: a pipe.
  int kernel_end() const { return write_.get(); }
  // Takes what comes out of the pipe until `stop` can be read. Reads are nonblocking, so sync() may run beside.
  void run(int stop);
  // Takes what has been written to the pipe until now.
  void sync();
  // The board process's own word.
  void say(std::string_view line);

  // Lines are numbered from 1 on; the newest are kept in memory, too.
  u64 last() const;
  // Those after `number` that are still there; `number` becomes the last one's.
  std::vector<std::string> after(u64& number) const;
  // Waits until there is one after `number`; false after the time.
  bool wait(u64 number, int timeout_ms) const;

 private:
  void take_locked();
  void put_locked(std::string_view line);
  void rotate_locked();

  static constexpr usize kKept = 1000;
  static constexpr usize kLongestLine = 4096;

  std::filesystem::path file_;
  u64 limit_;
  bool echo_;
  host::Descriptor read_;
  host::Descriptor write_;
  mutable std::mutex mutex_;
  mutable std::condition_variable came_;
  host::Descriptor out_;
  u64 written_ = 0;
  std::string unfinished_;  // a line
  std::deque<std::string> lines_;
  u64 count_ = 0;
};

}  // namespace perdure::tool
