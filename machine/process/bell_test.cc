#include "machine/process/bell.h"

#include <gtest/gtest.h>

#include "machine/wire/message.h"

namespace perdure::process {
namespace {

// A device that interrupts without a pause leaves no time in which nothing rings: what the kernel sees to from time to
// time (a storm of faults that is over) must not wait for one.
TEST(Bell, RingingWithoutAPauseLeavesTimeForService) {
  auto sockets = wire::socket_pair();
  ASSERT_TRUE(sockets);
  constexpr u64 kRings = 100;
  constexpr u64 kStep = BellWatch::kServiceNs / 10;
  u64 now = 0, delivered = 0, serviced = 0;
  const auto ring = [&] { ASSERT_TRUE(wire::send(sockets->second.get(), {.op = 1})); };
  ring();
  BellWatch{.socket = sockets->first.get(),
            .now_ns = [&] { return now; },
            .deliver =
                [&] {
                  now += kStep;
                  // The next one is there before anybody could wait for it.
                  if (++delivered < kRings) {
                    ring();
                  } else {
                    sockets->second.reset();
                  }
                },
            .service = [&] { ++serviced; }}
      .run();
  EXPECT_GE(delivered, kRings);
  EXPECT_GE(serviced, kRings * kStep / BellWatch::kServiceNs - 2);
  EXPECT_LE(serviced, kRings * kStep / BellWatch::kServiceNs);
}

}  // namespace
}  // namespace perdure::process
