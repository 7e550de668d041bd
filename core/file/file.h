// Open files as programs see them. A File is what Linux calls an open file description: descriptors, and
// kernel objects that hold it open, each hold one reference; on_last_ref() is the last close.
#pragma once
#include <span>
#include <string_view>

#include "core/base/machine.h"
#include "core/base/ref.h"
#include "core/base/result.h"

namespace perdure {

class Task;

// Identity of a File's class, compared by address (there is no RTTI).
struct FileType {
  std::string_view name;  // as /proc shows it: "/dev/iommu", "anon_inode:[luo_session]"
};

enum class Access : u8 { Read = 1, Write = 2, ReadWrite = 3 };
constexpr bool includes(Access have, Access wanted) {
  return (static_cast<u8>(have) & static_cast<u8>(wanted)) == static_cast<u8>(wanted);
}

// What an mmap of a file reaches: memory at a physical address, or registers that must be trapped.
struct MapTarget {
  enum class Kind : u8 { Memory, Registers };
  Kind kind = Kind::Memory;
  Phys base;
  u64 length = 0;
};

// All of it is inline: code built with run-time types (tests, front ends) may derive from it, and an out-of-line
// function would put the class's type information where there is none.
class File : public RefCounted {
 public:
  virtual const FileType& type() const = 0;

  // `cmd` and `arg` as the program passed them. Returns the ioctl's non-negative result.
  virtual Result<u64> ioctl(Task&, [[maybe_unused]] u32 cmd, [[maybe_unused]] UserAddr arg) {
    return fail(Errno::Enotty);
  }
  // `pos` is the absolute position (pread/pwrite). Einval where Linux's file has no such operation.
  virtual Result<usize> read(Task&, [[maybe_unused]] UserAddr to, [[maybe_unused]] usize bytes,
                             [[maybe_unused]] u64 pos) {
    return fail(Errno::Einval);
  }
  virtual Result<usize> write(Task&, [[maybe_unused]] UserAddr from, [[maybe_unused]] usize bytes,
                              [[maybe_unused]] u64 pos) {
    return fail(Errno::Einval);
  }
  virtual Result<MapTarget> mmap(Task&, [[maybe_unused]] u64 offset, [[maybe_unused]] u64 length,
                                 [[maybe_unused]] Access access) {
    return fail(Errno::Enodev);
  }
  // Poll events pending now (POLLIN 1, POLLOUT 4).
  virtual u32 poll() { return 0; }

 protected:
  // The last close. Called once, with no core lock held.
  virtual void last_close() {}

 private:
  void on_last_ref() final { last_close(); }
};

// `file` as a T, or null when it is something else. T::kType is its FileType.
template <class T>
T* file_cast(File* file) {
  return file && &file->type() == &T::kType ? static_cast<T*>(file) : nullptr;
}

}  // namespace perdure
