// The next kernel, loaded and started by programs.
#include <linux/reboot.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/intercept/probe.h"

namespace probe {
namespace {

constexpr char kText[] = "over the jump";

int preserve(int device) {
  const int s = session(device, kCreateSession, "probe");
  EXPECT(s >= 0);
  const int memory = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EXPECT(memory >= 0 && write(memory, kText, sizeof kText) == sizeof kText);
  PreserveFd preserve{.fd = memory, .token = 7};
  EXPECT(ioctl(s, kPreserveFd, &preserve) == 0);
  return 0;
}

int retrieve(int s) {
  PreserveFd retrieve{.token = 7};
  EXPECT(ioctl(s, kRetrieveFd, &retrieve) == 0);
  char text[sizeof kText] = {};
  EXPECT(pread(retrieve.fd, text, sizeof text, 0) == sizeof text && strcmp(text, kText) == 0);
  uint32_t finish[2] = {8, 0};
  EXPECT(ioctl(s, kFinish, finish) == 0);
  return 0;
}

// Whatever a distribution would load.
int load_next() {
  const int kernel = open("/proc/self/exe", O_RDONLY);
  EXPECT(kernel >= 0);
  EXPECT(syscall(SYS_kexec_file_load, kernel, -1, 1UL, "", 4UL /* KEXEC_FILE_NO_INITRAMFS */) == 0);
  EXPECT(close(kernel) == 0);
  return 0;
}

long reboot_to(unsigned command) {
  return syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, command, nullptr);
}

// Stage one preserves and jumps, stage two, started again, finds what was preserved.
PROBE_CASE(jump) {
  const int device = open("/dev/liveupdate", O_RDWR);
  EXPECT(device >= 0);
  if (const int s = session(device, kRetrieveSession, "probe"); s >= 0) return retrieve(s);
  FAILS(ENOENT, session(device, kRetrieveSession, "probe"));
  if (preserve(device) != 0 || load_next() != 0) return 1;
  // A child of its own session and a grandchild that nobody waits for: none of them outlives the kernel.
  if (fork() == 0) {
    setsid();
    if (fork() == 0) {
      for (;;) pause();
    }
    _exit(0);
  }
  EXPECT(wait(nullptr) > 0);
  reboot_to(LINUX_REBOOT_CMD_KEXEC);
  return 1;  // it does not come back
}

// As many as a shell lets a program have, twice over.
PROBE_CASE(many_files) {
  constexpr uint64_t kFiles = 600;
  const int device = open("/dev/liveupdate", O_RDWR);
  EXPECT(device >= 0);
  rlimit limit = {};
  EXPECT(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur <= 1024);
  if (const int s = session(device, kRetrieveSession, "probe"); s >= 0) {
    for (uint64_t i = 0; i < kFiles; ++i) {
      PreserveFd retrieve{.token = i};
      uint64_t found = 0;
      EXPECT(ioctl(s, kRetrieveFd, &retrieve) == 0 && pread(retrieve.fd, &found, sizeof found, 0) == sizeof found);
      EXPECT(found == i);
    }
    return 0;
  }
  const int s = session(device, kCreateSession, "probe");
  EXPECT(s >= 0);
  for (uint64_t i = 0; i < kFiles; ++i) {
    PreserveFd preserve{.fd = memfd_create("one", MFD_CLOEXEC), .token = i};
    EXPECT(preserve.fd >= 0 && write(preserve.fd, &i, sizeof i) == sizeof i);
    EXPECT(ioctl(s, kPreserveFd, &preserve) == 0);
    EXPECT(close(preserve.fd) == 0);
  }
  if (load_next() != 0) return 1;
  reboot_to(LINUX_REBOOT_CMD_KEXEC);
  return 1;
}

// What is no jump is refused, and nothing is lost by it.
PROBE_CASE(no_jump) {
  FAILS(EPERM, reboot_to(LINUX_REBOOT_CMD_RESTART));
  FAILS(EPERM, reboot_to(LINUX_REBOOT_CMD_POWER_OFF));
  FAILS(EINVAL, syscall(SYS_reboot, 1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, nullptr));
  FAILS(EINVAL, reboot_to(LINUX_REBOOT_CMD_KEXEC));
  FAILS(EBADF, syscall(SYS_kexec_file_load, -1, -1, 1UL, "", 4UL));
  const int device = open("/dev/liveupdate", O_RDWR);
  EXPECT(device >= 0);
  EXPECT(session(device, kCreateSession, "probe") >= 0);
  return 0;
}

// A daemon keeps the session of its parent, which is gone: for who updates later.
PROBE_CASE(daemon) {
  const int device = open("/dev/liveupdate", O_RDWR);
  EXPECT(device >= 0);
  if (preserve(device) != 0) return 1;
  int ready[2];
  EXPECT(pipe(ready) == 0);
  const pid_t daemon_pid = fork();
  if (daemon_pid == 0) {
    setsid();
    const int nothing = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; ++fd) dup2(nothing, fd);
    char one = 1;
    if (write(ready[1], &one, 1) != 1) _exit(1);
    for (;;) pause();
  }
  char one = 0;
  EXPECT(read(ready[0], &one, 1) == 1);
  std::printf("daemon is %d\n", daemon_pid);
  return 0;
}

PROBE_CASE(after) {
  const int device = open("/dev/liveupdate", O_RDWR);
  EXPECT(device >= 0);
  const int s = session(device, kRetrieveSession, "probe");
  EXPECT(s >= 0);
  return retrieve(s);
}

}  // namespace
}  // namespace probe
