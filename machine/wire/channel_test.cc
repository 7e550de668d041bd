// What crosses a connection, with a shared page and without; and sides that break its rules.
#include "machine/wire/channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstring>
#include <thread>

namespace perdure::wire {
namespace {

constexpr u32 kAnswer = static_cast<u32>(Question::Answer);
constexpr u32 kResult = static_cast<u32>(Question::Result);

std::vector<std::byte> pattern(usize bytes) {
  std::vector<std::byte> all(bytes);
  for (usize i = 0; i < bytes; ++i) all[i] = static_cast<std::byte>(i * 7 + 3);
  return all;
}

class ChannelPair : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto sockets = *socket_pair();
    front_.emplace(std::move(sockets.first));
    kernel_.emplace(std::move(sockets.second));
    if (GetParam()) {
      ASSERT_TRUE(front_->share().has_value());
    }
  }
  // Answers every call with what it was: a question of the same payload, then the result.
  void echo(int calls) {
    for (int i = 0; i < calls; ++i) {
      auto call = kernel_->receive();
      ASSERT_TRUE(call);
      ASSERT_TRUE(kernel_->send({.op = static_cast<u32>(Question::CopyOut), .a = call->head.a}, call->payload));
      auto answer = kernel_->receive();
      ASSERT_TRUE(answer);
      EXPECT_EQ(answer->head.op, kAnswer);
      ASSERT_TRUE(kernel_->send({.op = kResult, .a = answer->head.a + 1}, answer->payload, answer->fd.get()));
    }
  }
  std::optional<Channel> front_, kernel_;
};
INSTANTIATE_TEST_SUITE_P(WithAndWithout, ChannelPair, testing::Bool(),
                         [](const auto& param) { return std::string(param.param ? "Page" : "Socket"); });

// Who is at the limit gets the rest of the message.
TEST_P(ChannelPair, ADescriptorThatCannotBeOpenedIsLostAndNothingElse) {
  const host::Descriptor file(memfd_create("passed", MFD_CLOEXEC));
  ASSERT_TRUE(kernel_->send({.op = kResult, .a = 5}, {}, file.get()));
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = 3, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto cut = front_->receive();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_TRUE(cut);
  EXPECT_EQ(cut->head.a, 5U);
  EXPECT_FALSE(cut->fd);
  EXPECT_TRUE(cut->fd_lost);
  ASSERT_TRUE(kernel_->send({.op = kResult, .a = 6}, {}, file.get()));
  const auto whole = front_->receive();
  ASSERT_TRUE(whole);
  EXPECT_TRUE(whole->fd);
  EXPECT_FALSE(whole->fd_lost);
}

TEST_P(ChannelPair, CallsQuestionsAndResultsOfAllSizes) {
  const std::vector<usize> sizes = {0, 1, 100, 3000, 3840, 4096, 5000, kMaxPayload, 10, 0};
  std::thread kernel([&] { echo(static_cast<int>(sizes.size())); });
  const host::Descriptor file(memfd_create("passed", MFD_CLOEXEC));
  for (const usize bytes : sizes) {
    SCOPED_TRACE(bytes);
    const auto data = pattern(bytes);
    const bool with_fd = bytes % 2 == 0;
    auto result = front_->call({.op = 3, .a = bytes}, data, [&](Message& q) -> Result<Reply> {
      EXPECT_EQ(q.payload, data);
      Reply reply;
      reply.a = q.head.a;
      reply.payload = q.payload;
      if (with_fd) reply.fd = file.get();
      return reply;
    });
    ASSERT_TRUE(result);
    EXPECT_EQ(result->head.a, bytes + 1);
    EXPECT_EQ(result->payload, data);
    EXPECT_EQ(static_cast<bool>(result->fd), with_fd);
  }
  kernel.join();
}

// Each side is sometimes quicker and sometimes slower than the other is patient.
TEST_P(ChannelPair, NobodyIsLeftAsleep) {
  constexpr int kCalls = 3000;
  std::thread kernel([&] {
    for (int i = 0; i < kCalls; ++i) {
      auto call = kernel_->receive();
      ASSERT_TRUE(call);
      if (i % 100 == 0) usleep(static_cast<useconds_t>(i % 300));
      ASSERT_TRUE(kernel_->send({.op = kResult, .a = call->head.a}));
    }
  });
  for (int i = 0; i < kCalls; ++i) {
    if (i % 97 == 0) usleep(static_cast<useconds_t>(i % 200));
    auto result =
        front_->call({.op = 3, .a = static_cast<u64>(i)}, {}, [](Message&) -> Result<Reply> { return Reply{}; });
    ASSERT_TRUE(result);
    ASSERT_EQ(result->head.a, static_cast<u64>(i));
  }
  kernel.join();
}

TEST_P(ChannelPair, TheEndIsSeenByWhoWaits) {
  std::thread kernel([&] {
    ASSERT_TRUE(kernel_->receive());
    kernel_.reset();
  });
  EXPECT_EQ(front_->call({.op = 3}, {}, [](Message&) -> Result<Reply> { return Reply{}; }).error(), Errno::Ekilled);
  kernel.join();
}

TEST_P(ChannelPair, WhatIsTooLongIsRefused) {
  EXPECT_EQ(front_->send({.op = 3}, pattern(kMaxPayload + 1)).error(), Errno::Emsgsize);
}

// Whether there is something is known without taking it.
TEST_P(ChannelPair, ReadySaysWhetherThereIsAMessage) {
  ASSERT_TRUE(front_->send({.op = 3}));
  ASSERT_TRUE(kernel_->receive());
  EXPECT_FALSE(front_->ready(1'000'000)) << "nobody said anything";
  ASSERT_TRUE(kernel_->send({.op = kResult, .a = 1}));
  EXPECT_TRUE(front_->ready(1'000'000'000));
  EXPECT_TRUE(front_->ready(0)) << "and it is still there";
  ASSERT_TRUE(front_->receive());
  // The word for a sleeper that came too late is no message.
  EXPECT_FALSE(front_->ready(1'000'000));
  ASSERT_TRUE(front_->send({.op = 3}));
  ASSERT_TRUE(kernel_->receive());
  ASSERT_TRUE(kernel_->send({.op = kResult, .a = 2}, pattern(kMaxPayload)));
  EXPECT_TRUE(front_->ready(1'000'000'000));
  EXPECT_EQ(front_->receive()->head.a, 2U);
  kernel_.reset();
  EXPECT_TRUE(front_->ready(1'000'000'000)) << "its end is one, too";
}

// Who waits for events and who sends them do not take turns.
TEST_P(ChannelPair, EventsComeThroughTheSocket) {
  std::thread kernel([&] {
    ASSERT_TRUE(kernel_->receive());
    ASSERT_TRUE(kernel_->send({.op = kResult}));
    kernel_->stop_sharing();
    for (u64 i = 0; i < 3; ++i) ASSERT_TRUE(kernel_->send({.op = static_cast<u32>(Event::Reboot), .a = i}));
  });
  ASSERT_TRUE(
      front_->call({.op = static_cast<u32>(Call::Events)}, {}, [](Message&) -> Result<Reply> { return Reply{}; }));
  for (u64 i = 0; i < 3; ++i) EXPECT_EQ(front_->receive()->head.a, i);
  kernel.join();
  ASSERT_TRUE(front_->reply(Reply{}));
  ASSERT_TRUE(kernel_->ready(1'000'000'000)) << "the answer goes the same way";
  EXPECT_EQ(kernel_->receive()->head.op, kAnswer);
}

// --- a page that is none ---------------------------------------------------------------------------------------------

TEST(SharedPage, OnlyAPageThatCannotBeCutShortIsTaken) {
  const auto memfd = [](u64 bytes, int seals) {
    host::Descriptor fd(memfd_create("page", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
    if (seals != 0) {
      EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), 0);
    }
    return fd;
  };
  EXPECT_TRUE(SharedPage::open(memfd(kPageSize, F_SEAL_SHRINK)));
  EXPECT_EQ(SharedPage::open(memfd(kPageSize, 0)).error(), Errno::Eproto);
  EXPECT_EQ(SharedPage::open(memfd(0, F_SEAL_SHRINK)).error(), Errno::Eproto);
  EXPECT_EQ(SharedPage::open(memfd(kPageSize - 1, F_SEAL_SHRINK)).error(), Errno::Eproto);
  EXPECT_EQ(SharedPage::open(host::Descriptor()).error(), Errno::Eproto);
  EXPECT_EQ(SharedPage::open(host::Descriptor(open("/dev/null", O_RDWR))).error(), Errno::Eproto);
}

// The other side writes what it likes: whatever it is, it is a message that is malformed, or one that is not.
TEST(SharedPage, AnythingInThePageIsSurvived) {
  for (u32 seed = 1; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    auto sockets = *socket_pair();
    SharedPage front = *SharedPage::create();
    SharedPage kernel = *SharedPage::open(host::Descriptor(dup(front.fd())));
    auto* const raw = static_cast<u32*>(mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, front.fd(), 0));
    ASSERT_NE(raw, MAP_FAILED);
    u32 state = seed;
    for (usize i = 0; i < kPageSize / sizeof(u32); ++i) raw[i] = state = state * 1664525 + 1013904223;
    if (seed % 2 == 0) raw[32] = 0;      // in the page
    if (seed % 4 == 0) raw[47] = 0;      // without a descriptor
    if (seed % 8 == 0) raw[46] %= 8192;  // bytes of it
    sockets.first.reset();               // what is not in the page is nowhere
    const auto said = kernel.receive(sockets.second.get());
    if (said) {
      EXPECT_LE(said->payload.size(), kPageSize);
    } else {
      EXPECT_TRUE(said.error() == Errno::Eproto || said.error() == Errno::Ekilled);
    }
    munmap(raw, kPageSize);
  }
}

}  // namespace
}  // namespace perdure::wire
