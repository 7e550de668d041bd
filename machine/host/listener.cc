#include "machine/host/listener.h"

#include <fcntl.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "machine/host/host_files.h"

// Newer than some headers.
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

namespace perdure::host {

namespace {
// A kernel's structure may have grown beyond what the headers know.
constexpr usize kRoom = 256;
static_assert(sizeof(seccomp_notif) <= kRoom && sizeof(seccomp_notif_resp) <= kRoom);
}  // namespace

Listener::Listener(Descriptor fd) : fd_(std::move(fd)) {
  // The answerer runs on the caller's processor (Linux 6.6): without it a round trip wakes another one. Older: slower.
  ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
}

Result<int> Listener::install(std::span<const sock_filter> filter) {
  sock_fprog program = {static_cast<unsigned short>(filter.size()), const_cast<sock_filter*>(filter.data())};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail(last_error());
  // Killable: signals wait until a call that was taken up is answered, so that nothing is done twice (Linux 5.19).
  for (const unsigned long killable : {SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 0UL}) {
    const long fd =
        syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | killable, &program);
    if (fd >= 0) return static_cast<int>(fd);
    if (errno != EINVAL) break;
  }
  return fail(last_error());
}

Result<SystemCall> Listener::receive() {
  alignas(seccomp_notif) std::byte room[kRoom];
  for (;;) {
    std::memset(room, 0, sizeof room);
    if (ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_RECV, room) != 0) return fail(last_error());
    seccomp_notif notification;
    std::memcpy(&notification, room, sizeof notification);
    SystemCall call{.id = notification.id,
                    .tid = static_cast<s32>(notification.pid),
                    .number = static_cast<u32>(notification.data.nr)};
    std::memcpy(call.args.data(), notification.data.args, sizeof call.args);
    return call;
  }
}

bool Listener::waits(const SystemCall& call) const {
  u64 id = call.id;
  return ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

void Listener::respond(const SystemCall& call, s64 value, s32 error, u32 flags) {
  alignas(seccomp_notif_resp) std::byte room[kRoom] = {};
  const seccomp_notif_resp response = {.id = call.id, .val = value, .error = error, .flags = flags};
  std::memcpy(room, &response, sizeof response);
  // Enoent: it was killed meanwhile.
  ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_SEND, room);
}

void Listener::resume(const SystemCall& call) {
  respond(call, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
}

void Listener::answer(const SystemCall& call, s64 value) {
  respond(call, value, 0, 0);
}

void Listener::refuse(const SystemCall& call, Errno error) {
  respond(call, 0, -static_cast<s32>(error), 0);
}

Result<s32> Listener::add_fd(const SystemCall& call, int fd, bool cloexec, s32 at) {
  seccomp_notif_addfd add = {.id = call.id,
                             .flags = at >= 0 ? static_cast<u32>(SECCOMP_ADDFD_FLAG_SETFD) : 0,
                             .srcfd = static_cast<u32>(fd),
                             .newfd = at >= 0 ? static_cast<u32>(at) : 0,
                             .newfd_flags = cloexec ? static_cast<u32>(O_CLOEXEC) : 0};
  for (;;) {
    const int number = ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_ADDFD, &add);
    if (number >= 0) return number;
    if (errno == EINTR) continue;
    return fail(errno == ENOENT || errno == EINPROGRESS ? Errno::Ekilled : last_error());
  }
}

}  // namespace perdure::host
