#include "tests/uapi/process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

namespace perdure::uapi_test {

Child::Child(Case& t, const std::function<void(Child&)>& body) {
  REQUIRE(pipe2(to_parent_, O_CLOEXEC) == 0 && pipe2(to_child_, O_CLOEXEC) == 0);
  const pid_t parent = getpid();
  pid_ = fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    // A test that ends early leaves nobody behind.
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(3);
    ::close(to_parent_[0]);
    ::close(to_child_[1]);
    std::string why;
    try {
      body(*this);
    } catch (const Skip& skip) {
      why = "cannot: " + skip.reason;
    } catch (const Stop&) {
      why = "stopped";
    }
    for (const std::string& failure : t.failures()) why += "\n" + failure;
    if (!why.empty() && write(to_parent_[1], why.data(), why.size()) < 0) _exit(3);
    _exit(why.empty() ? 0 : 1);
  }
  ::close(std::exchange(to_parent_[1], -1));
  ::close(std::exchange(to_child_[0], -1));
}

Child::~Child() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  for (const int fd : {to_parent_[0], to_parent_[1], to_child_[0], to_child_[1]}) {
    if (fd >= 0) ::close(fd);
  }
}

void Child::ready() const {
  if (write(to_parent_[1], "", 1) != 1) _exit(3);
}

void Child::wait_for_ever() {
  for (;;) ::pause();
}

void Child::wait_for_parent() const {
  char byte = 0;
  if (read(to_child_[0], &byte, 1) != 1) _exit(3);
}

void Child::wait_until_ready(Case& t) const {
  char byte = 1;
  const bool alive = read(to_parent_[0], &byte, 1) == 1;
  if (alive && byte == '\0') return;
  t.fail(__FILE__, __LINE__, "the child ended: " + (alive ? byte + what_it_says() : std::string("without a word")));
  throw Stop{};
}

std::string Child::what_it_says() const {
  std::string said;
  char buffer[512];
  for (ssize_t n = 0; (n = read(to_parent_[0], buffer, sizeof buffer)) > 0;) said.append(buffer, static_cast<usize>(n));
  return said;
}

void Child::go_on() const {
  [[maybe_unused]] const ssize_t n = write(to_child_[1], "", 1);
}

void Child::kill(Case& t) {
  REQUIRE(::kill(pid_, SIGKILL) == 0);
  REQUIRE(waitpid(std::exchange(pid_, -1), nullptr, 0) > 0);
}

void Child::expect_success(Case& t) {
  int status = -1;
  const std::string said = what_it_says();
  REQUIRE(waitpid(std::exchange(pid_, -1), &status, 0) > 0);
  if (status != 0) t.fail(__FILE__, __LINE__, "the child ended with status " + std::to_string(status) + ": " + said);
}

Channel::Channel(Case& t) {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  one_ = Fd(t.sys, ends[0]);
  two_ = Fd(t.sys, ends[1]);
}

namespace {
struct Message {
  Message() {
    head.msg_iov = &part;
    head.msg_iovlen = 1;
    head.msg_control = control;
    head.msg_controllen = sizeof control;
  }
  char byte = 0;
  iovec part = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr head = {};
};
}  // namespace

void Channel::send(Case& t, s32 fd) const {
  Message message;
  cmsghdr* const c = CMSG_FIRSTHDR(&message.head);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  REQUIRE(sendmsg(one_.number(), &message.head, 0) == 1);
}

Fd Channel::receive(Case& t) const {
  Message message;
  REQUIRE(recvmsg(two_.number(), &message.head, MSG_CMSG_CLOEXEC) == 1);
  const cmsghdr* const c = CMSG_FIRSTHDR(&message.head);
  REQUIRE(c != nullptr && c->cmsg_type == SCM_RIGHTS);
  s32 fd = -1;
  std::memcpy(&fd, CMSG_DATA(c), sizeof fd);
  return {t.sys, fd};
}

}  // namespace perdure::uapi_test
