// Updates in a row on one machine, stepped: three programs do things at random between the jumps, allowed and refused,
// each comes back in its own way or not at all, kernels alternate. What the devices do is judged at every jump; what is
// left of everything that ended is compared with a kernel in which it never was.
#include <cstdlib>
#include <random>

#include "tests/guest.h"

namespace perdure::tool {
namespace {

using board::Phase;
using scenarios::Take;

u64 number_from(const char* variable, u64 otherwise) {
  const char* wanted = std::getenv(variable);
  return wanted ? std::strtoull(wanted, nullptr, 0) : otherwise;
}

constexpr u64 kHops =
#if defined(__SANITIZE_ADDRESS__)
    50;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
    50;
#else
    1000;
#endif
#else
    1000;
#endif

#define ASSERT_DONE_IN(expression)                                                                         \
  do {                                                                                                     \
    const auto done = (expression);                                                                        \
    ASSERT_TRUE(done.has_value()) << #expression << ": " << errno_name(done.error()) << problems_of(rig_); \
  } while (false)

class RandomChain : public testing::TestWithParam<Tables> {
 protected:
  static constexpr u64 kStretch = 200'000;
  // After so many jumps everything but the first guest ends, and nothing may be left of it.
  static constexpr u64 kRest = 10;

  static RigConfig machine(u64 seed, Tables tables) {
    RigConfig config = small_machine({.seed = seed, .caches = board::CachePolicy::Random, .devices = 4});
    config.board.devices.resize(3);
    set_tables(config, tables);
    add_unit_for(config, 0);
    config.board.step_ns = 20'000;
    return config;
  }

  // As another generator for every hop, so that a hop does the same whatever is added to the ones before.
  u64 pick(u64 n) { return random_() % n; }
  Take any_take() { return static_cast<Take>(pick(3)); }

  void do_something() {
    Guest& guest = guests_[1 + pick(2)];
    const u64 what = pick(18);
    if (verbose_) std::printf("  %s: action %llu\n", guest.name().c_str(), static_cast<unsigned long long>(what));
    if (guest.state() == Guest::State::Absent) {
      if (what < 8) guest.set_up();
      return;
    }
    if (guest.state() != Guest::State::Up) return;
    switch (what) {
      case 0:
      case 1:
      case 2:
      case 3: return guest.map(pick(256), 1 + pick(64), pick(1024));
      case 4:
      case 5:
      case 6: return guest.unmap(pick(64));
      case 7: return guest.detach_and_attach();
      case 8: return guest.change_page_tables();
      case 9: return guest.mark();
      case 10: return guest.preserve_wrongly();
      case 11: return guest.restart();
      case 12:
      case 13: return guest.preserved() ? guest.unpreserve() : guest.preserve();
      case 14: return guest.close();
      case 15:
      case 16: return guest.watch_writes(pick(4));
      default: return refuse_a_jump();
    }
  }

  void refuse_a_jump() {
    switch (pick(3)) {
      case 0: EXPECT_EQ(rig_.kernel().kexec_load("missing").error(), Errno::Enoent); return;
      case 1: EXPECT_EQ(rig_.kernel().kexec_load("future").error(), Errno::Enoexec); return;
      default: return fail_a_jump();
    }
  }
  void fail_a_jump() {
    ASSERT_DONE_IN(rig_.kernel().kexec_load("b"));
    // What is not preserved is stopped for a jump, and goes on when there is none.
    for (Guest& g : guests_) g.give_up();
    rig_.machine().fail_jump(Errno::Enoexec);
    EXPECT_EQ(rig_.kernel().kexec().error(), Errno::Enoexec) << problems_of(rig_);
    for (Guest& g : guests_) g.carry_on();
  }

  void hop(u64 number, bool rest) {
    // Who is not preserved by now and does not want to be dies with this kernel.
    for (Guest& g : guests_) {
      if (g.state() != Guest::State::Up) continue;
      if (!g.preserved() && (&g == &guests_[0] || pick(4) != 0)) g.preserve();
      g.give_up();
    }
    rig_.take_problems();
    ASSERT_DONE_IN(rig_.leave(number % 2 == 1 ? "b" : "a"));
    for (Guest& g : guests_) g.jumped();
    ASSERT_DONE_IN(rig_.arrive());
    EXPECT_EQ(rig_.poison().image_problem, "");
    rig_.new_program();
    for (Guest& g : guests_) {
      if (g.state() != Guest::State::Held) continue;
      // Left alone it stays held and is handed on by the next jump.
      if (!rest && pick(4) == 0) continue;
      const Take take = rest && &g == &guests_[0] ? Take::Replace : any_take();
      if (verbose_) std::printf("  %s: comes back, take %u\n", g.name().c_str(), static_cast<unsigned>(take));
      g.come_back(take);
    }
  }

  // Once at their largest, since containers keep their capacity.
  void end_all_but_the_first() {
    for (Guest& g : guests_) {
      if (g.state() == Guest::State::Absent) g.set_up();
      if (!g.preserved()) g.preserve();
    }
    guests_[0].unpreserve();
    guests_[1].unpreserve();
    fail_a_jump();
    guests_[2].unpreserve();
    for (Guest& g : guests_) {
      if (&g != &guests_[0]) g.close();
    }
  }

  void judge() {
    rig_.run_for(kStretch);
    const board::AuditReport report = rig_.board().audit();
    for (usize i = 0; i < report.devices.size(); ++i) {
      const board::PhaseResult& p = report.devices[i].in(Phase::During);
      EXPECT_EQ(p.lost + p.corrupted + p.duplicated + p.misdirected + p.undeclared + p.read_errors + p.refused(), 0U)
          << report.devices[i].name << ": lost " << p.lost << ", corrupted " << p.corrupted << ", duplicated "
          << p.duplicated << ", misdirected " << p.misdirected << ", undeclared " << p.undeclared << ", read errors "
          << p.read_errors << ", refused " << p.refused();
    }
    for (const board::Finding& f : report.findings) ADD_FAILURE() << f.to_string();
    EXPECT_EQ(rig_.board().violation_count(), 0U) << problems_of(rig_);
  }

  // What a kernel has in use when only the first guest is there and the next kernel is loaded. Nodes of the handover's
  // tree are kept for good, as many as there were places, and slabs as long as an object is left in them.
  struct InUse {
    u64 free = 0;
    u64 kept = 0;
    u64 heap = 0;
    bool operator==(const InUse&) const = default;
  };
  InUse in_use() {
    EXPECT_TRUE(rig_.kernel().kexec_load("a"));
    rig_.kernel().heap().trim();
    const FrameAllocator::Totals frames = rig_.kernel().frames().totals();
    const u64 nodes =
        board::read_handover(rig_.board().memory(), rig_.kernel().kho().outgoing_fdt().value).nodes.size();
    return {frames.free + nodes + rig_.kernel().heap().slab_frames(), frames.kept, rig_.kernel().heap().bytes_in_use()};
  }

  const bool verbose_ = std::getenv("PERDURE_VERBOSE") != nullptr;
  const u64 seed_ = number_from("PERDURE_SEED", 1);
  InProcessRig rig_{machine(seed_, GetParam())};
  Guest guests_[3] = {Guest(rig_, 0), Guest(rig_, 1), Guest(rig_, 2)};
  std::mt19937_64 random_;
};

TEST_P(RandomChain, NothingIsLostAndNothingLeaks) {
  // In scalable mode, where there is dirty tracking besides, a sample.
  const u64 hops = number_from("PERDURE_HOPS", GetParam() == Tables::Legacy ? kHops : kHops / 5);
  ASSERT_DONE_IN(rig_.power_on("a"));
  rig_.new_program();
  guests_[0].set_up();
  rig_.board().enter_phase(Phase::During);
  std::optional<InUse> alone;
  u64 compared = 0;
  for (u64 number = 1; number <= hops && !HasFailure(); ++number) {
    SCOPED_TRACE("hop " + std::to_string(number) + "; again: PERDURE_SEED=" + std::to_string(seed_) +
                 " PERDURE_HOPS=" + std::to_string(number));
    if (verbose_) std::printf("hop %llu\n", static_cast<unsigned long long>(number));
    random_.seed(seed_ * 1'000'003 + number);
    const bool rest = number % kRest == 0;
    for (u64 n = pick(8); n > 0; --n) do_something();
    judge();
    hop(number, rest);
    if (HasFailure()) break;
    judge();
    if (!rest) continue;
    for (u64 n = pick(8); n > 0; --n) do_something();
    end_all_but_the_first();
    const InUse now = in_use();
    if (alone) {
      EXPECT_EQ(now.free, alone->free) << "frames are left of what ended";
      EXPECT_EQ(now.kept, alone->kept) << "frames are still preserved of what ended";
      EXPECT_EQ(now.heap, alone->heap) << "memory is left of what ended";
      ++compared;
    }
    alone = now;
  }
  EXPECT_GE(compared + 1, hops / kRest);
  for (Guest& g : guests_) g.close();
}

INSTANTIATE_TEST_SUITE_P(, RandomChain, testing::Values(Tables::Legacy, Tables::SecondStage), [](const auto& tested) {
  return std::string(tested.param == Tables::Legacy ? "Legacy" : "Scalable");
});

}  // namespace
}  // namespace perdure::tool
