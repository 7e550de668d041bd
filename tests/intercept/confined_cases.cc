// Sandboxes around `perdure run`, as programs that start another one in them.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "tests/intercept/probe.h"

namespace probe {
namespace {

constexpr uint32_t kRefuse = SECCOMP_RET_ERRNO | EPERM;

bool filter(sock_filter* instructions, size_t count, unsigned long flags) {
  sock_fprog program = {static_cast<unsigned short>(count), instructions};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) >= 0;
}

// What docker's default profile refuses of what a supervisor could use.
PROBE_CASE(confined) {
  sock_filter instructions[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_K | BPF_JEQ, 438 /* pidfd_getfd */, 4, 0),
      BPF_JUMP(BPF_JMP | BPF_K | BPF_JEQ, SYS_kcmp, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_K | BPF_JEQ, SYS_userfaultfd, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_K | BPF_JEQ, SYS_mount, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, kRefuse),
  };
  EXPECT(argc > 0 && filter(instructions, sizeof instructions / sizeof *instructions, 0));
  execv(argv[0], argv);
  return 1;
}

// A host that has no filters with a listener.
PROBE_CASE(without_seccomp) {
  sock_filter instructions[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_K | BPF_JEQ, SYS_seccomp, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
  };
  EXPECT(argc > 0 && filter(instructions, sizeof instructions / sizeof *instructions, 0));
  execv(argv[0], argv);
  return 1;
}

}  // namespace
}  // namespace probe
