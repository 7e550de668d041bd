// Names of the system calls that the filter shows.
#pragma once
#include <sys/syscall.h>

#include "core/base/types.h"

namespace perdure::intercept {

inline constexpr u32 kFaccessat2 = 439;  // newer than some headers

constexpr const char* syscall_name(u32 number) {
  switch (number) {
    case __NR_ioctl: return "ioctl";
    case __NR_open: return "open";
    case __NR_creat: return "creat";
    case __NR_openat: return "openat";
    case __NR_openat2: return "openat2";
    case __NR_pread64: return "pread64";
    case __NR_pwrite64: return "pwrite64";
    case __NR_preadv: return "preadv";
    case __NR_preadv2: return "preadv2";
    case __NR_pwritev: return "pwritev";
    case __NR_pwritev2: return "pwritev2";
    case __NR_mmap: return "mmap";
    case __NR_write: return "write";
    case __NR_writev: return "writev";
    case __NR_eventfd: return "eventfd";
    case __NR_eventfd2: return "eventfd2";
    case __NR_stat: return "stat";
    case __NR_lstat: return "lstat";
    case __NR_fstat: return "fstat";
    case __NR_newfstatat: return "newfstatat";
    case __NR_statx: return "statx";
    case __NR_access: return "access";
    case __NR_faccessat: return "faccessat";
    case kFaccessat2: return "faccessat2";
    case __NR_readlink: return "readlink";
    case __NR_readlinkat: return "readlinkat";
    case __NR_kexec_load: return "kexec_load";
    case __NR_kexec_file_load: return "kexec_file_load";
    case __NR_reboot: return "reboot";
    default: return "?";
  }
}

}  // namespace perdure::intercept
