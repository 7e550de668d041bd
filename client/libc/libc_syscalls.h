// The system calls of an ordinary Linux program: on a real kernel with these devices, or under `perdure run`.
#pragma once
#include <string>

#include "client/syscalls.h"

namespace perdure::client {

class LibcSyscalls final : public Syscalls {
 public:
  // What kexec_load() gives the next kernel besides its image.
  struct KexecOptions {
    std::string initrd;        // a path; none when empty
    std::string command_line;  // that of the running kernel when empty
  };
  LibcSyscalls() = default;
  explicit LibcSyscalls(KexecOptions kexec) : kexec_(std::move(kexec)) {}
  virtual ~LibcSyscalls() = default;

  // Read and write, closed at exec.
  Result<s32> open(std::string_view path) override;
  Result<void> close(s32 fd) override;
  Result<u64> ioctl(s32 fd, u32 cmd, void* arg) override;
  Result<usize> pread(s32 fd, void* to, usize bytes, u64 pos) override;
  Result<usize> pwrite(s32 fd, const void* from, usize bytes, u64 pos) override;
  Result<s32> memfd_create(std::string_view name) override;
  Result<void> ftruncate(s32 fd, u64 bytes) override;
  Result<u64> file_size(s32 fd) override;
  Result<void> add_seals(s32 fd, u32 seals) override;
  Result<u32> seals(s32 fd) override;
  Result<u64> memory_id(s32 fd) override;
  Result<std::byte*> mmap(s32 fd, u64 offset, u64 length) override;
  Result<void> munmap(std::byte* at, u64 length) override;
  Result<s32> eventfd() override;
  Result<u64> eventfd_read(s32 fd) override;
  u64 now_ns() override;
  void pause() override;
  // `kernel`: the path of an image. Needs CAP_SYS_BOOT, as kexec() does.
  Result<void> kexec_load(std::string_view kernel) override;
  Result<void> kexec() override;

 private:
  KexecOptions kexec_;
};

// The Errno of the call that failed last.
Errno last_errno();

}  // namespace perdure::client
