// The system calls that programs make, in the form that they take wherever a program runs: libc (a real Linux, or
// interception), the wire to a kernel process, in process, bare metal. Errors are Errno values, never -1.
#pragma once
#include <string_view>

#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::client {

class Syscalls {
 public:
  virtual Result<s32> open(std::string_view path) = 0;
  virtual Result<void> close(s32 fd) = 0;
  virtual Result<u64> ioctl(s32 fd, u32 cmd, void* arg) = 0;
  virtual Result<usize> pread(s32 fd, void* to, usize bytes, u64 pos) = 0;
  virtual Result<usize> pwrite(s32 fd, const void* from, usize bytes, u64 pos) = 0;

  // Shared memory: a new sealable memfd, its size, its seals, its place in this program (shared, read and write).
  virtual Result<s32> memfd_create(std::string_view name) = 0;
  virtual Result<void> ftruncate(s32 fd, u64 bytes) = 0;
  virtual Result<u64> file_size(s32 fd) = 0;
  virtual Result<void> add_seals(s32 fd, u32 seals) = 0;
  virtual Result<u32> seals(s32 fd) = 0;
  // Same underlying memory, same number: what a ledger knows it by.
  virtual Result<u64> memory_id(s32 fd) = 0;
  virtual Result<std::byte*> mmap(s32 fd, u64 offset, u64 length) = 0;
  virtual Result<void> munmap(std::byte* at, u64 length) = 0;

  virtual Result<s32> eventfd() = 0;
  // The count since the last call, 0 if nothing happened; never blocks.
  virtual Result<u64> eventfd_read(s32 fd) = 0;

  virtual u64 now_ns() = 0;
  // Lets time pass while the program waits for a device.
  virtual void pause() = 0;

  // kexec_file_load and reboot: the second does not return unless it fails.
  virtual Result<void> kexec_load(std::string_view kernel) = 0;
  virtual Result<void> kexec() = 0;

 protected:
  ~Syscalls() = default;
};

}  // namespace perdure::client
