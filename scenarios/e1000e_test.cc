#include "scenarios/drivers/e1000e.h"

#include <gtest/gtest.h>

#include <optional>

#include "scenarios/testing/fake_device.h"

namespace perdure::scenarios {
namespace {

constexpr u32 kRing = 16;

// What the host puts on the wire, written by hand from the description: no word of the driver's.
std::vector<u8> frame_of(u64 sequence, u32 seed = 7) {
  const auto mix = [](u64 x) {
    x += 0x9E3779B97F4A7C15;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
  };
  std::vector<u8> f(64 + 8 * (sequence % 21));
  const auto put = [&](usize at, u64 value, usize bytes) {
    for (usize i = 0; i < bytes; ++i) f[at + i] = static_cast<u8>(value >> 8 * i);
  };
  for (usize i = 0; i < 6; ++i) f[i] = 0xFF;
  f[6] = 2;
  f[11] = 1;
  f[12] = 0x88;
  f[13] = 0xB5;
  put(14, f.size(), 2);
  put(16, sequence, 8);
  put(24, seed, 4);
  for (u64 i = 0; 32 + 8 * i < f.size(); ++i) put(32 + 8 * i, mix(seed ^ sequence) + i * 0x9E3779B97F4A7C15, 8);
  return f;
}

// As much of the adapter as receives into legacy descriptors.
class FakeAdapter final : public testing::FakeDevice {
 public:
  FakeAdapter() : FakeDevice(64 << 10) {}

  u32 read_register(u64 offset) override {
    const u32 value = registers[offset];
    if (offset == 0x4074 || offset == 0x4010 || offset == 0x40A0) registers[offset] = 0;
    return value;
  }
  void write_register(u64 offset, u32 value) override {
    if (offset == 0 && (value & 1u << 26) != 0) {
      registers.clear();
      registers[8] = 2;
      return;
    }
    // One that is off drops what waits for it when the ring is offered.
    if (offset == 0x2818 && (registers[0x100] & 2) == 0) dropped = true;
    registers[offset] = value;
  }
  // False: there is no room. Each part can be left out.
  bool receive(const std::vector<u8>& frame, bool write = true, bool write_back = true, u32 length = 0) {
    u32& head = registers[0x2810];
    if ((registers[0x100] & 2) == 0 || !bus_master() || head == registers[0x2818]) return false;
    auto* const descriptor = reinterpret_cast<u64*>(at(registers[0x2800] + u64{head} * 16));
    if (write) std::memcpy(at(descriptor[0]), frame.data(), frame.size());
    if (write_back) descriptor[1] = (length != 0 ? length : frame.size()) | u64{3} << 32;
    head = (head + 1) % (registers[0x2808] / 16);
    ++registers[0x4074];
    return true;
  }

  std::map<u64, u32> registers;
  bool dropped = false;
};

class E1000eTest : public ::testing::Test {
 protected:
  void SetUp() override {
    driver.emplace(context, vfio, adapter.area(0, kPageSize), adapter.area(kPageSize, kRing * 256), state);
    driver->set_size(kRing);
    ASSERT_TRUE(driver->start().has_value()) << driver->what();
    EXPECT_FALSE(adapter.dropped);
  }
  void receive(u64 frames) {
    for (u64 i = 0; i < frames; ++i) ASSERT_TRUE(adapter.receive(frame_of(sent++)));
  }
  // A new program, after a jump.
  void come_back() {
    driver.emplace(context, vfio, adapter.area(0, kPageSize), adapter.area(kPageSize, kRing * 256), state);
  }
  void expect_wrong(std::string_view what) {
    EXPECT_FALSE(driver->check(false).has_value());
    EXPECT_EQ(driver->what(), what);
  }
  u64 number(std::string_view name) {
    Evidence e;
    driver->report(e);
    return e.number(name);
  }

  FakeAdapter adapter;
  testing::Deaf deaf;
  Context context{adapter, deaf};
  client::VfioDevice vfio{client::Fd(adapter, 3)};
  E1000e::State state{};
  std::optional<E1000e> driver;
  u64 sent = 0;
};

TEST_F(E1000eTest, TakesEveryFrameOnceRoundTheRingAndOverJumps) {
  for (u32 hop = 0; hop < 10; ++hop) {
    receive(hop);
    ASSERT_TRUE(driver->leave().has_value()) << driver->what();
    receive(kRing - 1);
    EXPECT_FALSE(adapter.receive(frame_of(sent))) << "the ring is full";
    come_back();
    ASSERT_TRUE(driver->resume().has_value()) << driver->what();
    ASSERT_TRUE(driver->check(false).has_value()) << driver->what();
    EXPECT_EQ(number("here"), kRing - 1);
  }
  EXPECT_EQ(number("frames"), sent);
  EXPECT_EQ(number("counted"), sent);
  EXPECT_EQ(number("next"), sent);
  EXPECT_EQ(number("missing"), 0U);
}

TEST_F(E1000eTest, SeesWhatIsMissingAndWhatCameTwice) {
  receive(3);
  ++sent;
  receive(2);
  expect_wrong("frames are missing");
  EXPECT_EQ(number("missing"), 1U);
  EXPECT_EQ(number("frames"), 5U);
  expect_wrong("frames are missing");  // it does not pass
  SetUp();
  sent = 0;
  receive(3);
  --sent;
  receive(1);
  expect_wrong("a frame came twice");
}

TEST_F(E1000eTest, SeesFramesThatAreNotTheHosts) {
  std::vector<u8> wrong = frame_of(0);
  wrong.back() ^= 1;
  adapter.receive(wrong);
  expect_wrong("a frame whose contents are not its own");
  SetUp();
  wrong = frame_of(0);
  wrong[13] = 0xB6;
  adapter.receive(wrong);
  expect_wrong("a frame that is none of the host's");
  SetUp();
  adapter.receive(frame_of(0), true, true, 65);
  expect_wrong("a descriptor with another length than its frame");
  SetUp();
  wrong = frame_of(0);
  wrong.resize(wrong.size() + 8);
  adapter.receive(wrong, true, true, 64);
  expect_wrong("more was written to a buffer than its frame");
  SetUp();
  adapter.receive(frame_of(0));
  adapter.receive(frame_of(1, 8));
  expect_wrong("a frame of another seed");
}

TEST_F(E1000eTest, SeesRequestsThatWentNowhere) {
  receive(1);
  adapter.receive(frame_of(1), false);
  expect_wrong("a descriptor says done, and nothing was written to its buffer");
  SetUp();
  adapter.receive(frame_of(0), true, false);
  expect_wrong("the adapter passed a descriptor and did not write it");
  SetUp();
  // The ring itself could not be read: nothing moves but the counter.
  ++adapter.registers[0x4074];
  expect_wrong("the adapter counted frames that are not in memory");
}

TEST_F(E1000eTest, BelievesTheAdaptersOwnSigns) {
  adapter.pci_status = 0x2000;
  expect_wrong("the function has recorded bus errors");
  adapter.pci_status = 0;
  adapter.registers[0x4010] = 1;
  expect_wrong("the adapter missed frames (MPC)");
  SetUp();
  adapter.write_register(0, 1u << 26);
  come_back();
  EXPECT_FALSE(driver->resume().has_value());
  EXPECT_EQ(driver->what(), "the adapter's ring is another: it was reset");
  SetUp();
  adapter.registers[0x100] = 0;
  expect_wrong("the adapter does not receive any more: it was reset");
}

TEST_F(E1000eTest, SilenceIsNotSuccess) {
  EXPECT_TRUE(driver->check(false).has_value());
  EXPECT_FALSE(driver->check(true).has_value());
  EXPECT_EQ(driver->what(), "no frame for ten seconds; is the host sending?");
  receive(1);
  EXPECT_TRUE(driver->check(false).has_value()) << driver->what();
}

TEST_F(E1000eTest, RingsOfNoSizeAreRefused) {
  for (u32 descriptors : {0u, 8u, 17u, 65536u}) {
    driver->set_size(descriptors);
    EXPECT_FALSE(driver->start().has_value()) << descriptors;
  }
}

}  // namespace
}  // namespace perdure::scenarios
