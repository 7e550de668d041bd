// The part of a program's system calls that the host serves natively wherever the program runs: memfds, mappings,
// eventfds, time. Kernel files have numbers from kFirstKernelFd up; below are the host's descriptors.
#pragma once
#include <map>
#include <mutex>

#include "client/syscalls.h"
#include "machine/host/descriptor.h"

namespace perdure::host {

inline constexpr s32 kFirstKernelFd = 1 << 20;

class HostCalls : public client::Syscalls {
 public:
  virtual ~HostCalls();

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

 protected:
  struct Mapped {
    int fd;      // the host's
    u64 offset;  // in the file, of the address asked for
    u64 length;  // from there to the end of the mapping
  };
  // What is mapped at `at`; Efault.
  Result<Mapped> mapped_at(u64 at);
  // The host descriptor behind `fd`: itself, or what the kernel installed under that number. Ebadf.
  Result<int> host_fd(s32 fd);
  void install(s32 fd, Descriptor host);
  void uninstall(s32 fd);

 private:
  struct Mapping {
    u64 length;
    s32 fd;
    u64 offset;
  };
  std::mutex mutex_;
  std::map<s32, Descriptor> installed_;
  std::map<u64, Mapping> mappings_;  // by address
};

}  // namespace perdure::host
