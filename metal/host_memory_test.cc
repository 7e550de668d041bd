#include "metal/host_memory.h"

#include "core/file/shared_memory.h"
#include "tests/support/test_machine.h"

namespace perdure::metal {
namespace {

constexpr Phys kBase{16 << 20};
constexpr u64 kBytes = 32 << 20;
constexpr u64 kMiB = 1 << 20;

class HostShareTest : public testing::Test {
 protected:
  HostShareTest() { share.init(machine, kBase, kBytes, {}); }
  static abi::MemoryMapEntry bank(u64 base, u64 length, u64 id, u64 offset) {
    return {.base = base,
            .length = length,
            .type = static_cast<u32>(abi::MemoryType::Bank),
            .reserved = 0,
            .host_id = id,
            .host_offset = offset};
  }

  test::TestMachine machine;
  HostShare share;
};

TEST_F(HostShareTest, BanksAreZeroAlignedDisjointAndInside) {
  std::memset(machine.virt(kBase), 0x77, kBytes);
  for (u64 n = 1; n <= 6; ++n) {
    const auto bank = share.attach(n, 0, n * kMiB);
    ASSERT_TRUE(bank);
    u64 alignment = kMiB;
    while (alignment < n * kMiB) alignment *= 2;
    EXPECT_TRUE(bank->base.aligned(alignment)) << n;
    EXPECT_GE(bank->base, kBase);
    EXPECT_LE(bank->base.value + bank->length, kBase.value + kBytes);
    const auto* bytes = machine.virt<const u8>(bank->base);
    EXPECT_TRUE(std::all_of(bytes, bytes + bank->length, [](u8 b) { return b == 0; })) << "of a former owner";
  }
  u64 end = 0;
  for (const Bank& bank : share.banks()) {
    EXPECT_GE(bank.base.value, end);
    end = bank.base.value + bank.length;
  }
  EXPECT_EQ(share.bytes_in_use(), 21 * kMiB);
}

TEST_F(HostShareTest, WhatIsDetachedIsUsedAgain) {
  const Bank a = *share.attach(1, 0, 16 * kMiB);
  const Bank b = *share.attach(2, 0, 16 * kMiB);
  EXPECT_EQ(share.attach(3, 0, kPageSize).error(), Errno::Enomem);
  share.detach(a);
  EXPECT_EQ(share.bytes_in_use(), 16 * kMiB);
  EXPECT_EQ(share.attach(3, 0, 16 * kMiB)->base, a.base);
  share.detach(b);
  // Nothing is as aligned as it would like to be in what is left; it is had all the same.
  EXPECT_TRUE(share.attach(4, 0, 8 * kMiB));
  EXPECT_TRUE(share.attach(5, 0, 5 * kMiB));
  EXPECT_TRUE(share.attach(6, 0, 3 * kMiB));
}

TEST_F(HostShareTest, RefusesWhatIsNoWholePage) {
  EXPECT_EQ(share.attach(1, 1, kPageSize).error(), Errno::Einval);
  EXPECT_EQ(share.attach(1, 0, kPageSize + 1).error(), Errno::Einval);
  EXPECT_EQ(share.attach(1, 0, 0).error(), Errno::Einval);
  EXPECT_EQ(share.attach(1, 0, kBytes + kPageSize).error(), Errno::Enomem);
}

TEST_F(HostShareTest, FormerBanksAreKnownFromTheMapAlone) {
  const u64 at = kBase.value + 4 * kMiB;
  const abi::MemoryMapEntry map[] = {
      {.base = 0, .length = kMiB, .type = static_cast<u32>(abi::MemoryType::Ram)},
      bank(kBase.value - kPageSize, 2 * kPageSize, 3, 0),          // reaches in from below: not ours
      bank(at, kMiB, 7, 0),                                        //
      bank(at + 2 * kMiB, kMiB, 7, kMiB),                          // grown later
      bank(kBase.value + kBytes - kPageSize, 2 * kPageSize, 9, 0)  // and out at the top
  };
  HostShare next;
  next.init(machine, kBase, kBytes, map);
  EXPECT_EQ(next.bytes_in_use(), 2 * kMiB);
  const auto memory = next.find(7);
  ASSERT_TRUE(memory);
  EXPECT_EQ((*memory)->size(), 2 * kMiB);
  EXPECT_EQ(next.find(7)->get(), memory->get()) << "one object for one memory";
  EXPECT_EQ(next.find(9).error(), Errno::Enoent);
  const auto fresh = next.create(0);
  EXPECT_GT((*fresh)->id(), 7u) << "a number that nobody has";
  for (u64 n = 0; n < 3; ++n) {
    const Bank b = *next.attach((*fresh)->id(), n * kMiB, kMiB);
    EXPECT_FALSE(ranges_overlap(b.base.value, b.length, at, kMiB));
    EXPECT_FALSE(ranges_overlap(b.base.value, b.length, at + 2 * kMiB, kMiB));
  }
}

TEST_F(HostShareTest, MemoryEndsWithItsLastReference) {
  for (usize n = 0; n < 3 * HostShare::kMostMemories; ++n) ASSERT_TRUE(share.create(kPageSize));
  std::vector<Ref<HostMemory>> held;
  for (usize n = 0; n < HostShare::kMostMemories; ++n) held.push_back(*share.create(kPageSize));
  EXPECT_EQ(share.create(kPageSize).error(), Errno::Enfile);
  held.pop_back();
  EXPECT_TRUE(share.create(kPageSize));
}

// As fcntl(2) and memfd_create(2) have it.
TEST_F(HostShareTest, SealsHold) {
  const Ref<HostMemory> memory = *share.create(2 * kPageSize);
  EXPECT_EQ(memory->add_seals(0x1000).error(), Errno::Einval);
  EXPECT_TRUE(memory->add_seals(seal::kShrink));
  EXPECT_EQ(memory->resize(kPageSize).error(), Errno::Eperm);
  EXPECT_TRUE(memory->resize(3 * kPageSize));
  EXPECT_TRUE(memory->add_seals(seal::kGrow | seal::kSeal));
  EXPECT_EQ(memory->resize(4 * kPageSize).error(), Errno::Eperm);
  EXPECT_TRUE(memory->resize(3 * kPageSize));
  EXPECT_EQ(memory->add_seals(seal::kWrite).error(), Errno::Eperm);
  EXPECT_EQ(memory->seals(), seal::kPreservable);
}

TEST_F(HostShareTest, EventsCount) {
  const Ref<HostEvent> event = *share.create_event();
  event->signal(1);
  event->signal(2);
  EXPECT_EQ(static_cast<ShareEvent&>(*event).take(), 3u);
  EXPECT_EQ(static_cast<ShareEvent&>(*event).take(), 0u);
}

}  // namespace
}  // namespace perdure::metal
