// System calls of a real program under a filter, received by the kernel itself.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cstddef>
#include <cstring>

#include "core/uapi/vfio.h"
#include "machine/host/listener.h"
#include "machine/process/front_fixture.h"
#include "machine/wire/lent_turn.h"

namespace perdure::process {
namespace {

using uapi::IommuIoasAlloc;
using wire::Lent;

constexpr u32 kGetRegionInfo = 0x3b6c;
constexpr s64 kBySupervisor = 77;  // what a call returns that the kernel left to us

class LentCallsTest : public FrontFixture {
 protected:
  void SetUp() override {
    FrontFixture::SetUp();
    supervisor_ = connect();
    ASSERT_TRUE(supervisor_->front());
    handle_ = *supervisor_->open("/dev/iommu");
    file_ = host::Descriptor(memfd_create("stands for /dev/iommu", MFD_CLOEXEC));
    closes_ = host::Descriptor(eventfd(0, EFD_CLOEXEC));
    turn_ = std::make_unique<wire::LentTurn>(*wire::LentTurn::create());
  }

  // A program that does this under a filter that shows ioctls of iommufd.
  void start(int (*program)(int file)) {
    auto pair = *wire::socket_pair();
    child_ = fork();
    ASSERT_GE(child_, 0);
    if (child_ == 0) {
      const sock_filter filter[] = {
          BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pread64, 4, 0),
          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 4),
          BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args) + sizeof(u64)),
          BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff00),
          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x3b00, 0, 1),
          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      };
      const auto installed = host::Listener::install(filter);
      if (!installed || !wire::send(pair.second.get(), {}, {}, *installed)) _exit(99);
      ::close(*installed);
      _exit(program(file_.get()));
    }
    auto sent = wire::receive(pair.first.get());
    ASSERT_TRUE(sent && sent->fd);
    listener_.emplace(std::move(sent->fd));
    lend(Lent::Listener, listener_->fd());
    lend(Lent::Closes, closes_.get());
    lend(Lent::Turn, turn_->fd());
  }
  void lend(Lent what, int fd) {
    ASSERT_TRUE(supervisor_->channel().send({.op = static_cast<u32>(Call::Lend), .a = static_cast<u64>(what)}, {}, fd));
    const auto said = supervisor_->channel().receive();
    ASSERT_TRUE(said && said->head.result == 0);
  }

  // Lends the turn until it is back.
  Result<Message> serve(bool with_file = true, bool with_thread = true) {
    struct stat st = {};
    fstat(file_.get(), &st);
    const wire::LentFile file{.device = st.st_dev, .inode = st.st_ino, .handle = handle_, .positions = positions_};
    const wire::LentThread thread{.process = static_cast<u32>(child_), .thread = static_cast<u32>(child_)};
    std::vector<std::byte> payload;
    const auto add = [&payload](const auto& one) {
      const auto bytes = std::as_bytes(std::span(&one, 1));
      payload.insert(payload.end(), bytes.begin(), bytes.end());
    };
    if (with_file) add(file);
    if (with_thread) add(thread);
    return supervisor_->call(
        {.op = static_cast<u32>(Call::Serve), .b = with_file ? 1U : 0U, .c = with_thread ? 1U : 0U}, payload);
  }
  // What the kernel left is answered here. Its command.
  u64 answer_left(const Message& back) {
    wire::LeftCall left;
    if (back.payload.size() != sizeof left) {
      ADD_FAILURE() << "nothing was left";
      return 0;
    }
    std::memcpy(&left, back.payload.data(), sizeof left);
    host::SystemCall call{.id = left.id, .tid = left.thread, .number = left.number};
    listener_->answer(call, kBySupervisor);
    return left.args[1];
  }
  int status() {
    int status = 0;
    EXPECT_EQ(waitpid(child_, &status, 0), child_);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  std::unique_ptr<Supervisor> supervisor_;
  u64 handle_ = 0;
  u64 positions_ = 0;
  host::Descriptor file_;
  host::Descriptor closes_;
  std::unique_ptr<wire::LentTurn> turn_;
  std::optional<host::Listener> listener_;
  pid_t child_ = -1;
};

bool allocates(int fd) {
  IommuIoasAlloc alloc{.size = sizeof alloc, .flags = 0, .out_ioas_id = 0};
  return ioctl(fd, uapi::kIommuIoasAlloc, &alloc) == 0 && alloc.out_ioas_id != 0;
}

TEST_F(LentCallsTest, IoctlsOfKnownFilesAreAnsweredUntilOneIsNotForTheKernel) {
  start([](int file) {
    for (int i = 0; i < 20; ++i) {
      if (!allocates(file)) return 1;
    }
    IommuIoasAlloc small{.size = 4, .flags = 0, .out_ioas_id = 0};
    if (ioctl(file, uapi::kIommuIoasAlloc, &small) != -1 || errno != EINVAL) return 2;
    const int copy = dup(file);
    if (!allocates(copy)) return 3;
    // Another file takes the number.
    const int nothing = open("/dev/null", O_RDWR);
    if (dup2(nothing, copy) != copy || ioctl(copy, uapi::kIommuIoasAlloc, &small) != kBySupervisor) return 4;
    if (ioctl(file, kGetRegionInfo, &small) != kBySupervisor) return 5;
    return allocates(file) ? 0 : 6;
  });
  auto back = serve();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->head.a, 22U);
  EXPECT_EQ(answer_left(*back), uapi::kIommuIoasAlloc);
  back = serve();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->head.a, 0U);
  EXPECT_EQ(answer_left(*back), kGetRegionInfo) << "the supervisor adds to it what programs may map";
  back = serve();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->head.a, 1U);
  EXPECT_TRUE(back->payload.empty()) << "the program ended";
  EXPECT_EQ(status(), 0);
}

TEST_F(LentCallsTest, WhatTheKernelDoesNotKnowIsLeft) {
  start([](int file) {
    IommuIoasAlloc alloc{.size = sizeof alloc, .flags = 0, .out_ioas_id = 0};
    const bool left = ioctl(file, uapi::kIommuIoasAlloc, &alloc) == kBySupervisor &&
                      ioctl(file, uapi::kIommuIoasAlloc, &alloc) == kBySupervisor;
    return left ? 0 : 1;
  });
  auto back = serve(false, true);
  ASSERT_TRUE(back);
  answer_left(*back);
  back = serve(true, false);
  ASSERT_TRUE(back);
  answer_left(*back);
  EXPECT_EQ(status(), 0);
}

constexpr off_t kConfigSpace = (off_t{1} << 61) + (off_t{7} << 40);

// Past the sanitizers, which take the number that comes back for bytes.
long read_at(int file, void* to, size_t bytes, off_t position) {
  return syscall(SYS_pread64, file, to, bytes, position);
}

TEST_F(LentCallsTest, RegionsAreReadWhereTheyAre) {
  const u64 device = *supervisor_->open("/dev/vfio/devices/vfio0");
  uapi::VfioBindIommufd bind{};
  bind.argsz = sizeof bind;
  bind.iommufd = 0;
  supervisor_->answer = [this](Message& q) -> Result<wire::Reply> {
    wire::Reply reply;
    if (q.head.op == static_cast<u32>(Question::Descriptor)) reply.a = handle_;
    return reply;
  };
  ASSERT_TRUE(supervisor_->ioctl(device, uapi::kVfioDeviceBindIommufd, &bind));
  handle_ = device;
  positions_ = 1;
  start([](int file) {
    u32 id = 0;
    for (int i = 0; i < 3; ++i) {
      if (read_at(file, &id, sizeof id, kConfigSpace) != long{sizeof id} || id == 0 || id == ~u32{0}) return 1;
    }
    const volatile u64 nowhere = 8;
    if (read_at(file, reinterpret_cast<void*>(nowhere), sizeof id, kConfigSpace) != -1 || errno != EFAULT) return 2;
    if (read_at(file, &id, sizeof id, 0) != kBySupervisor) return 3;
    return read_at(file, &id, sizeof id, kConfigSpace) == kBySupervisor ? 0 : 4;
  });
  auto back = serve();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->head.a, 4U);
  answer_left(*back);
  positions_ = 0;  // opened for reading only, say: Ebadf is the supervisor's to find out
  back = serve();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->head.a, 0U);
  answer_left(*back);
  EXPECT_EQ(status(), 0);
}

// A device that was closed before the call is free for it.
TEST_F(LentCallsTest, ClosesComeFirst) {
  start([](int file) { return allocates(file) ? 0 : 1; });
  const u64 one = 1;
  ASSERT_EQ(write(closes_.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  auto back = serve();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->head.a, 0U);
  EXPECT_TRUE(back->payload.empty()) << "the call is there for whoever receives next";
  u64 told = 0;
  ASSERT_EQ(read(closes_.get(), &told, sizeof told), static_cast<ssize_t>(sizeof told));
  back = serve();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->head.a, 1U);
  EXPECT_EQ(status(), 0);
}

TEST_F(LentCallsTest, TheTurnCanBeTakenBack) {
  start([](int file) { return allocates(file) ? 0 : 1; });
  turn_->revoke();
  auto back = serve();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->head.a, 0U);
  EXPECT_EQ(turn_->progress(), 0U) << "something was received";
  turn_->lend();
  back = serve();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->head.a, 1U);
  EXPECT_EQ(status(), 0);
}

TEST_F(LentCallsTest, WhoLooksAwayIsTold) {
  start([](int file) { return allocates(file) && allocates(file) ? 0 : 1; });
  EXPECT_TRUE(turn_->look_away(0));
  supervisor_->answer = [](Message&) -> Result<wire::Reply> { return wire::Reply{}; };
  const auto back = serve();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->head.a, 2U);
  ASSERT_EQ(supervisor_->questions.size(), 1U);
  EXPECT_EQ(supervisor_->questions[0].op, static_cast<u32>(Question::Watch));
  EXPECT_FALSE(turn_->look_away(0)) << "it has gone on since";
  EXPECT_EQ(status(), 0);
}

TEST_F(LentCallsTest, QuestionsSayWhichCallTheyAreAbout) {
  start([](int file) {
    uapi::IommuIoasMapFile map{};
    map.size = sizeof map;
    map.flags = 2 | 4;
    map.ioas_id = 1;
    map.fd = file;
    map.length = 4096;
    return ioctl(file, uapi::kIommuIoasMapFile, &map) == -1 && errno == EBADF ? 0 : 1;
  });
  IommuIoasAlloc alloc{.size = sizeof alloc, .flags = 0, .out_ioas_id = 0};
  ASSERT_TRUE(supervisor_->ioctl(handle_, uapi::kIommuIoasAlloc, &alloc));
  const auto back = serve();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->head.a, 1U);
  ASSERT_FALSE(supervisor_->questions.empty());
  for (const Header& question : supervisor_->questions) {
    EXPECT_NE(question.d, 0U);
    EXPECT_EQ(question.task, wire::task_of(static_cast<u32>(child_), static_cast<u32>(child_)));
  }
  EXPECT_EQ(status(), 0);
}

}  // namespace
}  // namespace perdure::process
