#include "machine/intercept/filter.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <initializer_list>

#include "machine/intercept/syscall_names.h"

namespace perdure::intercept {

namespace {

using Program = std::vector<sock_filter>;

constexpr u32 kX32Bit = 0x40000000;
constexpr u32 kRefuse = SECCOMP_RET_ERRNO | ENOSYS;

constexpr u32 argument(unsigned index) {
  return static_cast<u32>(offsetof(seccomp_data, args) + index * sizeof(u64));
}
constexpr u32 upper_half(unsigned index) {
  return argument(index) + 4;
}

sock_filter load(u32 offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset);
}
sock_filter answer(u32 action) {
  return BPF_STMT(BPF_RET | BPF_K, action);
}
// Goes on after skipping that many instructions.
sock_filter jump(u32 test, u32 value, u8 if_true, u8 if_false) {
  return BPF_JUMP(BPF_JMP | BPF_K | test, value, if_true, if_false);
}

Program always(u32 action) {
  return {answer(action)};
}

// The 32-bit word at `offset` is at least `value`.
Program from(u32 offset, u32 value) {
  return {load(offset), jump(BPF_JGE, value, 0, 1), answer(SECCOMP_RET_USER_NOTIF), answer(SECCOMP_RET_ALLOW)};
}

// Every number of the two types, also with a size or a direction in it and in their gaps: what the files answer to
// those is theirs to say. (The command is 32 bits wide, whatever is above it.)
Program ioctls() {
  return {load(argument(1)),
          jump(BPF_JEQ, kKvmSetDeviceAttr, 3, 0),
          BPF_STMT(BPF_ALU | BPF_AND | BPF_K, kTypeMask),
          jump(BPF_JEQ, kIommuType, 1, 0),
          jump(BPF_JEQ, kLiveUpdateType, 0, 1),
          answer(SECCOMP_RET_USER_NOTIF),
          answer(SECCOMP_RET_ALLOW)};
}

// A position of one of our files, or a descriptor where files stand that take orders.
Program write_at(u32 high_fd) {
  return {load(upper_half(3)),
          jump(BPF_JGE, static_cast<u32>(kOurPositions >> 32), 2, 0),
          load(argument(0)),
          jump(BPF_JGE, high_fd, 0, 1),
          answer(SECCOMP_RET_USER_NOTIF),
          answer(SECCOMP_RET_ALLOW)};
}

}  // namespace

std::vector<sock_filter> build_filter(const FilterOptions& options) {
  Program program = {
      load(offsetof(seccomp_data, arch)),
      jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0),
      answer(kRefuse),  // an entry with other numbers would be a way around all of this
      load(offsetof(seccomp_data, nr)),
      jump(BPF_JGE, kX32Bit, 0, 1),
      answer(kRefuse),
  };
  const auto on = [&](u32 number, const Program& body) {
    program.push_back(jump(BPF_JEQ, number, 0, static_cast<u8>(body.size())));
    program.insert(program.end(), body.begin(), body.end());
  };
  const Program notify = always(SECCOMP_RET_USER_NOTIF);
  const Program position = from(upper_half(3), static_cast<u32>(kOurPositions >> 32));
  const Program high_fd = from(argument(0), options.high_fd);

  on(__NR_ioctl, ioctls());
  on(__NR_pread64, position);
  on(__NR_pwrite64, write_at(options.high_fd));
  on(__NR_write, high_fd);
  on(__NR_writev, high_fd);
  on(__NR_mmap, from(upper_half(5), static_cast<u32>(kOurPositions >> 32)));
  for (const u32 number : std::initializer_list<u32>{__NR_open, __NR_openat, __NR_openat2, __NR_creat})
    on(number, notify);
  for (const u32 number : std::initializer_list<u32>{__NR_preadv, __NR_pwritev, __NR_preadv2, __NR_pwritev2})
    on(number, position);
  for (const u32 number : std::initializer_list<u32>{__NR_kexec_file_load, __NR_kexec_load, __NR_reboot})
    on(number, notify);
  if (options.eventfds) {
    for (const u32 number : std::initializer_list<u32>{__NR_eventfd, __NR_eventfd2}) on(number, notify);
  }
  if (options.files) {
    for (const u32 number :
         std::initializer_list<u32>{__NR_readlink, __NR_readlinkat, __NR_access, __NR_faccessat, kFaccessat2, __NR_stat,
                                    __NR_lstat, __NR_fstat, __NR_newfstatat, __NR_statx}) {
      on(number, notify);
    }
  }
  // Its operations are no system calls and would go past the filter.
  on(__NR_io_uring_setup, always(kRefuse));
  program.push_back(answer(SECCOMP_RET_ALLOW));
  return program;
}

}  // namespace perdure::intercept
