// What is mapped at an address of a process.
#pragma once
#include <sys/types.h>

#include "core/base/result.h"
#include "core/base/types.h"
#include "machine/host/descriptor.h"

namespace perdure::intercept {

struct Mapping {
  u64 start = 0;
  u64 end = 0;
  u64 offset = 0;  // of `start` in the file
  u64 device = 0;  // of the file, as stat() tells them; inode 0: no file
  u64 inode = 0;
  bool readable = false;
  bool writable = false;
  bool shared = false;
};

// Of the address space that the thread has now: another one comes with exec. Asked each time, since nothing tells of
// munmap: one system call where the host has PROCMAP_QUERY (Linux 6.11), else by reading the list.
class Mappings {
 public:
  explicit Mappings(pid_t thread, bool can_query = true);
  // Efault: nothing is mapped there. Others: the process is gone.
  Result<Mapping> at(u64 address);

 private:
  Result<Mapping> query(u64 address) const;
  Result<Mapping> search(u64 address) const;

  host::Descriptor maps_;
  bool can_query_;
};

}  // namespace perdure::intercept
