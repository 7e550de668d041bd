#include "machine/agent/link.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <span>

#include "machine/agent/filter_run.h"
#include "machine/agent/protocol.h"
#include "machine/agent/raw.h"

namespace perdure::agent {

namespace {

// What a descriptor number stood for when it was ours. A program may close what it did not open, and get the number
// again for something else.
struct Connection {
  int fd = -1;
  u64 device = 0;
  u64 inode = 0;

  bool is_ours() const {
    struct stat st = {};
    return fd >= 0 && raw(SYS_fstat, static_cast<u64>(fd), address(&st)) == 0 && st.st_dev == device &&
           st.st_ino == inode;
  }
  void close() {
    if (is_ours()) raw(SYS_close, static_cast<u64>(fd));
    fd = -1;
  }
};

// Connections of this process that wait for a call. A thread that finds none makes one more.
struct Place {
  std::atomic<bool> taken{false};
  Connection connection;
};
constexpr usize kPlaces = 32;

struct State {
  std::atomic<bool> known{false};  // what follows is there
  std::atomic<bool> learning{false};
  sockaddr_un address = {};
  std::array<sock_filter, kMostInstructions> filter = {};
  usize instructions = 0;
  std::atomic<s32> process{0};  // whose places these are: a child has a copy of them, or even shares them
  std::array<Place, kPlaces> places;
};
constinit State state;

// No signal handler comes between question and answer.
class NoSignals {
 public:
  NoSignals() {
    const u64 all = ~u64{0};
    raw(SYS_rt_sigprocmask, SIG_SETMASK, address(&all), address(&before_), sizeof before_);
  }
  ~NoSignals() { raw(SYS_rt_sigprocmask, SIG_SETMASK, address(&before_), 0, sizeof before_); }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;

 private:
  u64 before_ = 0;
};

// Numbers that programs do not get, for as long as there are others: `lowest free` stays what it would be.
int move_up(int fd) {
  rlimit limit = {};
  constexpr u64 kBelow = 96;  // files that take orders stand above
  constexpr u64 kMost = 65536;
  if (raw(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, address(&limit)) != 0) return fd;
  const u64 soft = limit.rlim_cur < kMost ? limit.rlim_cur : kMost;
  if (soft <= 2 * kBelow) return fd;
  const s64 up = raw(SYS_fcntl, static_cast<u64>(fd), F_DUPFD_CLOEXEC, soft - kBelow);
  if (up < 0) return fd;
  raw(SYS_close, static_cast<u64>(fd));
  return static_cast<int>(up);
}

Connection connect_once() {
  Connection made;
  const s64 fd = raw(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return made;
  if (raw(SYS_connect, static_cast<u64>(fd), address(&state.address), sizeof state.address) != 0) {
    raw(SYS_close, static_cast<u64>(fd));
    return made;
  }
  made.fd = move_up(static_cast<int>(fd));
  struct stat st = {};
  raw(SYS_fstat, static_cast<u64>(made.fd), address(&st));
  made.device = st.st_dev;
  made.inode = st.st_ino;
  return made;
}

bool send(const Connection& to, const Word& word) {
  const iovec part = {const_cast<Word*>(&word), sizeof word};
  msghdr message = {};
  message.msg_iov = const_cast<iovec*>(&part);
  message.msg_iovlen = 1;
  return raw(SYS_sendmsg, static_cast<u64>(to.fd), address(&message), MSG_NOSIGNAL) == sizeof word;
}

// The bytes behind the word; negative: there is nobody any more. `fd`: what came along, or -1, or a negative errno.
s64 receive(const Connection& from, Word& word, std::span<sock_filter> rest, s64& fd) {
  iovec parts[2] = {{&word, sizeof word}, {rest.data(), rest.size_bytes()}};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = rest.empty() ? 1 : 2;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const s64 n = raw(SYS_recvmsg, static_cast<u64>(from.fd), address(&message), MSG_CMSG_CLOEXEC);
  fd = -1;
  if (n < static_cast<s64>(sizeof word)) return -1;
  const cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  if (rights != nullptr && rights->cmsg_type == SCM_RIGHTS && rights->cmsg_len == CMSG_LEN(sizeof(int))) {
    int number = -1;
    std::memcpy(&number, CMSG_DATA(rights), sizeof number);
    fd = number;
  } else if ((message.msg_flags & MSG_CTRUNC) != 0) {
    fd = -EMFILE;  // no number was free
  }
  return n - static_cast<s64>(sizeof word);
}

// Where the supervisor wants the descriptor; its number, or a negative errno.
s64 install(s64 fd, const Word& how) {
  if (fd < 0) return fd == -1 ? -EPROTO : fd;
  const u64 from = static_cast<u64>(fd);
  if (how.value >= 0) {
    const s64 there = raw(SYS_dup3, from, static_cast<u64>(how.value), how.number);
    raw(SYS_close, from);
    return there;
  }
  if (how.number == 0) raw(SYS_fcntl, from, F_SETFD, 0);
  return fd;
}

// False: the connection is of no use any more.
bool converse(const Connection& with, const Word& call, Outcome& outcome) {
  if (!send(with, call)) return false;
  for (;;) {
    Word said;
    s64 fd = -1;
    if (receive(with, said, {}, fd) < 0) return false;
    switch (said.say) {
      case Say::Install:
        if (!send(with, {.say = Say::Put, .value = install(fd, said)})) return false;
        continue;
      case Say::Resume: outcome = {}; return true;
      case Say::Value: outcome = {.ours = true, .value = said.value}; return true;
      default: return false;
    }
  }
}

void learn() {
  const char* const path = std::getenv(kSocketVariable);
  if (path == nullptr || std::strlen(path) >= sizeof state.address.sun_path) return;
  state.address.sun_family = AF_UNIX;
  std::memcpy(state.address.sun_path, path, std::strlen(path) + 1);
  Connection first = connect_once();
  Word said;
  s64 fd = -1;
  if (first.fd < 0 || !send(first, {.say = Say::Hello})) return first.close();
  const s64 bytes = receive(first, said, state.filter, fd);
  if (said.say == Say::Filter && bytes >= 0 && said.number * sizeof(sock_filter) == static_cast<u64>(bytes)) {
    state.instructions = said.number;
  }
  state.places[0].connection = first;
  state.process.store(static_cast<s32>(raw(SYS_getpid)));
  // The child of fork() has copies of the connections, which are not for it: its own calls are another process's.
  pthread_atfork(nullptr, nullptr, [] {
    for (Place& place : state.places) {
      place.connection.close();
      place.taken.store(false);
    }
    state.process.store(static_cast<s32>(raw(SYS_getpid)));
  });
  state.known.store(true, std::memory_order_release);
}

// The program's first instructions: before other threads are, and before it changes its environment. What other
// libraries call earlier is looked at for none of ours.
[[gnu::constructor(101)]] void begin() {
  const NoSignals none;
  learn();
}

Outcome ask(const Word& call) {
  const NoSignals none;
  Outcome outcome;
  const bool mine = state.process.load() == static_cast<s32>(raw(SYS_getpid));
  if (mine) {
    for (Place& place : state.places) {
      if (place.taken.exchange(true)) continue;
      if (!place.connection.is_ours()) place.connection = connect_once();
      if (place.connection.fd >= 0 && !converse(place.connection, call, outcome)) place.connection.close();
      place.taken.store(false);
      return outcome;
    }
  }
  // The child of vfork(), or of clone(): it shares the places with its parent, or nobody told that they are copies. Or
  // very many calls at a time.
  Connection other = connect_once();
  if (other.fd >= 0) (void)converse(other, call, outcome);
  other.close();
  return outcome;
}

}  // namespace

Outcome intercept(s64 number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f) {
  if (!state.known.load(std::memory_order_acquire)) return {};
  const seccomp_data data = {
      .nr = static_cast<int>(number), .arch = AUDIT_ARCH_X86_64, .instruction_pointer = 0, .args = {a, b, c, d, e, f}};
  const u32 action = run_filter(std::span(state.filter).first(state.instructions), data);
  switch (action & SECCOMP_RET_ACTION_FULL) {
    case SECCOMP_RET_ERRNO: return {.ours = true, .value = -static_cast<s64>(action & SECCOMP_RET_DATA)};
    case SECCOMP_RET_USER_NOTIF: break;
    default: return {};
  }
  return ask({.say = Say::Call,
              .number = static_cast<u32>(number),
              .args = {a, b, c, d, e, f},
              .thread = static_cast<s32>(raw(SYS_gettid))});
}

}  // namespace perdure::agent
