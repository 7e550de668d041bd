#include "machine/process/accept.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <future>
#include <system_error>
#include <thread>

namespace perdure::process {
namespace {

class Accept : public ::testing::Test {
 protected:
  void SetUp() override {
    // A name of the kernel's choice.
    sockaddr_un any = {.sun_family = AF_UNIX, .sun_path = {}};
    ASSERT_EQ(bind(listener.get(), as_sockaddr(any), sizeof any.sun_family), 0);
    length = sizeof address;
    ASSERT_EQ(getsockname(listener.get(), as_sockaddr(address), &length), 0);
    ASSERT_EQ(listen(listener.get(), 4), 0);
  }
  static host::Descriptor socket() { return host::Descriptor(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)); }
  static sockaddr* as_sockaddr(sockaddr_un& a) { return reinterpret_cast<sockaddr*>(&a); }
  void connect(const host::Descriptor& s) { ASSERT_EQ(::connect(s.get(), as_sockaddr(address), length), 0); }
  void hang_up() const { shutdown(listener.get(), SHUT_RDWR); }

  host::Descriptor listener = socket();
  sockaddr_un address = {};
  socklen_t length = 0;
};

// A program that opens connections until there are no descriptors left must not end the kernel.
TEST_F(Accept, DescriptorsThatAreShortAreWaitedFor) {
  const host::Descriptor program = socket();
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none = {.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  std::promise<void> accepted;
  std::promise<void> returned;
  std::jthread server([&] {
    accept_all(listener.get(), [&](const host::Descriptor&) { accepted.set_value(); });
    returned.set_value();
  });
  connect(program);
  auto done = returned.get_future();
  EXPECT_EQ(done.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(accepted.get_future().wait_for(std::chrono::seconds(10)), std::future_status::ready);
  hang_up();
}

TEST_F(Accept, WithoutAThreadForAProgramTheNextOneIsServed) {
  const host::Descriptor first = socket(), second = socket();
  connect(first);
  connect(second);
  int served = 0;
  accept_all(listener.get(), [&](const host::Descriptor&) {
    if (++served == 1) throw std::system_error(EAGAIN, std::generic_category());
    hang_up();
  });
  EXPECT_EQ(served, 2);
}

}  // namespace
}  // namespace perdure::process
