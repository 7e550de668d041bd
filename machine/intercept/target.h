// A thread of a program whose system call waits: its memory, its descriptors, its limits.
#pragma once
#include <sys/stat.h>

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "core/base/result.h"
#include "core/base/types.h"
#include "machine/host/descriptor.h"

namespace perdure::intercept {

// What a descriptor stands for: duplicates, inherited and passed ones have the same.
struct FileId {
  u64 device = 0;
  u64 inode = 0;
  bool operator==(const FileId&) const = default;
};

class Target {
 public:
  Target(s32 process, s32 thread) : process_(process), thread_(thread) {}
  // The process that a thread belongs to, for more than one question: its table of descriptors is looked up once.
  // Esrch: gone.
  static Result<Target> of(s32 thread);

  s32 process() const { return process_; }
  s32 thread() const { return thread_; }
  // As the wire has it.
  u64 number() const { return static_cast<u64>(static_cast<u32>(process_)) << 32 | static_cast<u32>(thread_); }

  // All of it, or Efault.
  Result<void> read(std::span<std::byte> to, u64 from) const;
  Result<void> write(u64 to, std::span<const std::byte> from) const;
  template <class T>
  Result<T> read(u64 from) const {
    T value;
    TRY(read(std::as_writable_bytes(std::span(&value, 1)), from));
    return value;
  }
  // A path: Enametoolong from PATH_MAX on.
  Result<std::string> path(u64 from) const;

  // The thread is one of the process, still.
  bool is_current() const;
  // "/proc/PROCESS/task/THREAD" and what is below it: descriptors may be a thread's own.
  std::string proc(std::string_view file) const;
  // Of one of its descriptors. Ebadf.
  Result<FileId> file_id(s32 fd) const;
  // The flags that one of its descriptors was opened with, or has by now (F_GETFL). Ebadf.
  Result<int> flags(s32 fd) const;
  // A duplicate of one of its descriptors; where nobody may take one, memory opened once more, or else a descriptor
  // that only names the file (O_PATH). Ebadf.
  Result<host::Descriptor> duplicate(s32 fd) const;
  // Another descriptor number can be given out. Emfile.
  Result<void> may_install() const;
  // Of one of its descriptors, or its "cwd", "root": where the link in /proc points.
  Result<std::string> link(const std::string& name) const;

 private:
  s32 process_;
  s32 thread_;
  // /proc/PROCESS/task/THREAD/fd; names this thread, and not one that gets its number later. None: by path.
  std::shared_ptr<const host::Descriptor> table_;
};

// Where a symbolic link points; empty: it is none, or not there.
std::string read_link(const std::string& path);
// The same, with nothing for what is not there.
std::optional<std::string> try_read_link(const std::string& path);

}  // namespace perdure::intercept
