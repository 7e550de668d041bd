// A supervisor that has lent its turn, and a kernel that a test plays.
#include <gtest/gtest.h>
#include <poll.h>

#include <functional>
#include <thread>

#include "machine/intercept/kernel_link.h"

namespace perdure::intercept {
namespace {

using wire::Call;
using wire::Header;
using wire::Question;

constexpr int kPatience = 200;

class Lend : public testing::Test {
 protected:
  class NoQuestions final : public Questions {
   public:
    Result<wire::Reply> answer(wire::Message&) override {
      ++asked;
      return wire::Reply{};
    }
    unsigned asked = 0;
  };

  // Lends; what the kernel does between Serve and its result. What comes of it.
  Result<wire::Message> lend(const std::function<void(wire::Channel&)>& kernel) {
    auto pair = *wire::socket_pair();
    std::thread served([&kernel, socket = std::move(pair.second)]() mutable {
      wire::Channel channel(std::move(socket));
      (void)channel.receive();  // Front
      (void)channel.send({.op = static_cast<u32>(Question::Result), .a = 1});
      const auto serve = channel.receive();
      EXPECT_TRUE(serve && serve->head.op == static_cast<u32>(Call::Serve));
      kernel(channel);
      (void)channel.send({.op = static_cast<u32>(Question::Result), .a = 5});
    });
    wire::Channel ours(std::move(pair.first));
    EXPECT_TRUE(ours.share());
    auto link = KernelLink::join(std::move(ours), 0);
    EXPECT_TRUE(link);
    auto back = (*link)->lend(Header{}, {}, questions_, turn_, [this] { ++stalled_; });
    served.join();
    return back;
  }

  const wire::LentTurn turn_ = *wire::LentTurn::create();
  NoQuestions questions_;
  unsigned stalled_ = 0;
};

TEST_F(Lend, WhoIsStuckInACallLosesTheTurn) {
  const auto back = lend([this](wire::Channel&) {
    EXPECT_FALSE(turn_.begin());
    int waited = 0;
    for (; waited < kPatience && !turn_.revoked(); ++waited) poll(nullptr, 0, 10);
    EXPECT_LT(waited, kPatience);
    turn_.end();
  });
  ASSERT_TRUE(back);
  EXPECT_EQ(back->head.a, 5U);
  EXPECT_EQ(stalled_, 1U);
}

// However long nothing is called.
TEST_F(Lend, WhoWaitsForCallsKeepsTheTurnAndNobodyLooks) {
  const auto back = lend([this](wire::Channel& channel) {
    int waited = 0;
    for (; waited < kPatience && !turn_.begin(); ++waited) {
      turn_.end();
      poll(nullptr, 0, 50);
    }
    EXPECT_LT(waited, kPatience) << "it is looked at all the time";
    turn_.end();
    EXPECT_TRUE(channel.send({.op = static_cast<u32>(Question::Watch)}));
    const auto seen = channel.receive();
    EXPECT_TRUE(seen && seen->head.op == static_cast<u32>(Question::Answer));
    EXPECT_FALSE(turn_.revoked());
  });
  ASSERT_TRUE(back);
  EXPECT_EQ(stalled_, 0U);
  EXPECT_EQ(questions_.asked, 0U);
}

TEST_F(Lend, QuestionsAreAnswered) {
  const auto back = lend([](wire::Channel& channel) {
    EXPECT_TRUE(channel.send({.op = static_cast<u32>(Question::Descriptor), .d = 9}));
    const auto answer = channel.receive();
    EXPECT_TRUE(answer && answer->head.op == static_cast<u32>(Question::Answer) && answer->head.result == 0);
  });
  ASSERT_TRUE(back);
  EXPECT_EQ(questions_.asked, 1U);
}

}  // namespace
}  // namespace perdure::intercept
