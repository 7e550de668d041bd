// What a VMM does with dirty tracking, under real DMA: pages that a device wrote are told of, exactly and once, and
// copying what is told of, again and again, ends with a copy: also when the kernel was replaced meanwhile.
#include <cstring>
#include <set>

#include "client/iommufd.h"
#include "client/live_update.h"
#include "client/memfd.h"
#include "client/vfio_device.h"
#include "scenarios/drivers/streamer.h"
#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

using board::CachePolicy;
using scenarios::Take;

// A program with a streamer, whose memory it watches and copies.
class Migration {
 public:
  static constexpr u64 kBase = u64{4} << 30;
  using Pages = std::set<u64>;

  Migration(InProcessRig& on, u64 bytes) : rig_(on), bytes_(bytes), copy(bytes) {}

  template <class T>
  T must(const char* what, Result<T> result) {
    if (!result)
      throw std::runtime_error(std::string(what) + ": " + std::string(errno_name(result.error())) + problems_of(rig_));
    if constexpr (!std::is_void_v<T>) return std::move(*result);
  }
  client::Syscalls& sys() { return rig_.sys(); }

  void set_up() {
    memory = must("memory", client::Memfd::create(sys(), "guest", bytes_));
    view = must("view", memory.map(0, bytes_));
    context = must("context", client::Iommufd::open(sys()));
    device = must("device", client::VfioDevice::open(sys(), "/dev/vfio/devices/vfio0"));
    device_id = must("bind", device.bind(context));
    ioas = must("IOAS", context.ioas_alloc());
    must("map", context.map_file(ioas, memory.number(), 0, bytes_, kBase));
    hwpt = must("HWPT", context.hwpt_alloc_tracking(device_id, ioas));
    must("attach", device.attach(hwpt));
    must("mark", context.mark_preserve(hwpt, kHwpt));
    must("bus master", device.set_bus_master(true));
    // What the board's ledger compares each transfer with.
    const board::Bdf bdf = rig_.board().config().devices[0].bdf;
    EXPECT_TRUE(rig_.board().declare(bdf, {.iova = kBase,
                                           .length = bytes_,
                                           .host_id = must("identity of memory", memory.id()),
                                           .offset = 0,
                                           .access = board::IntentAccess::ReadWrite}));
  }
  void start(u64 offset, u64 length, u64 slots, u64 seed, unsigned ring = 0) {
    must("start", streamer().start(
                      ring, {.base = kBase + offset, .length = length, .slots = slots, .seed = seed, .rate = 500'000}));
  }
  void stop(unsigned ring = 0) { must("stop", streamer().stop(ring)); }
  scenarios::Streamer streamer() { return must("streamer", scenarios::Streamer::open(device)); }

  // What the kernel says was written since it was asked last.
  Pages told(bool clear = true) {
    std::vector<u64> bits(bytes_ / kPageSize / 64);
    must("bitmap", context.dirty_bitmap(hwpt, kBase, bytes_, kPageSize, bits.data(), clear));
    Pages pages;
    for (u64 page = 0; page < bytes_ / kPageSize; ++page) {
      if ((bits[page / 64] >> (page % 64) & 1) != 0) pages.insert(page);
    }
    return pages;
  }
  // One round of a migration's pre-copy; how many pages it was.
  usize copy_dirty() {
    const Pages pages = told();
    for (u64 page : pages) std::memcpy(copy.data() + page * kPageSize, view.at(page * kPageSize), kPageSize);
    return pages.size();
  }
  void copy_all() { std::memcpy(copy.data(), view.at(), bytes_); }
  bool copied() { return std::memcmp(copy.data(), view.at(), bytes_) == 0; }

  void preserve() {
    const client::LiveUpdate lu = must("/dev/liveupdate", client::LiveUpdate::open(sys()));
    session = must("session", lu.create_session("guest"));
    must("preserve memory", session.preserve(memory.number(), kMemory));
    must("preserve context", session.preserve(context.number(), kContext));
    must("preserve device", session.preserve(device.number(), kDevice));
  }
  void jumped() {
    view.release();
    for (client::Fd* fd : {&session.fd(), &device.fd(), &context.fd(), &memory.fd()}) fd->release();
  }
  void come_back(Take take) {
    const client::LiveUpdate lu = must("/dev/liveupdate", client::LiveUpdate::open(sys()));
    session = must("retrieve session", lu.retrieve_session("guest"));
    memory = client::Memfd(must("retrieve memory", session.retrieve(kMemory)));
    view = must("view", memory.map(0, bytes_));
    context = client::Iommufd(must("retrieve context", session.retrieve(kContext)));
    device = client::VfioDevice(must("retrieve device", session.retrieve(kDevice)));
    device_id = must("bind", device.bind(context));
    if (take == Take::Adopt) {
      hwpt = must("adopt", context.hwpt_adopt(kHwpt)).hwpt;
    } else {
      must("restore", context.hwpt_restore(kHwpt));
      ioas = must("IOAS", context.ioas_alloc());
      must("map", context.map_file(ioas, memory.number(), 0, bytes_, kBase));
      hwpt = must("HWPT", context.hwpt_alloc_tracking(device_id, ioas));
      must("track", context.track_dirty(hwpt, true));
      must("replace", device.attach(hwpt));
    }
    must("mark", context.mark_preserve(hwpt, kHwpt));
    must("finish", session.finish());
    session = {};
  }

  static constexpr u64 kMemory = 0x10, kContext = 0x20, kDevice = 0x30, kHwpt = 0x40;

 private:
  InProcessRig& rig_;
  const u64 bytes_;

 public:
  std::vector<std::byte> copy;
  client::Memfd memory;
  client::Mapping view;
  client::Iommufd context;
  client::VfioDevice device;
  client::Session session;
  u32 device_id = 0, ioas = 0, hwpt = 0;
};

constexpr u64 kMiB = u64{1} << 20;
constexpr u64 kShort = 40'000;  // some twenty transfers

RigConfig machine(CachePolicy caches, u64 seed = 1) {
  RigConfig config = small_machine({.seed = seed, .caches = caches});
  set_tables(config, Tables::SecondStage);
  return config;
}

class DirtyTracking : public testing::TestWithParam<CachePolicy> {};

TEST_P(DirtyTracking, ThePagesThatADeviceWroteAndNoOthers) {
  InProcessRig rig(machine(GetParam()));
  ASSERT_DONE(rig.power_on("a"));
  rig.new_program();
  Migration guest(rig, kMiB);
  guest.set_up();
  guest.start(0, kMiB, 64, 1);
  rig.run_for(kShort);
  EXPECT_EQ(guest.told(), Migration::Pages()) << "before anybody wants to know";
  guest.stop();
  guest.must("track", guest.context.track_dirty(guest.hwpt, true));
  constexpr std::byte kUntouched{0xee};
  for (u64 seed = 2; seed < 8; ++seed) {
    SCOPED_TRACE("ring seed " + std::to_string(seed));
    std::memset(guest.view.at(), static_cast<int>(kUntouched), kMiB);
    guest.start(seed * 8 * kPageSize, 128 * kPageSize, 64, seed);
    rig.run_for(kShort);
    guest.stop();
    Migration::Pages written;
    for (u64 i = 0; i < kMiB; ++i) {
      if (*guest.view.at(i) != kUntouched) written.insert(i / kPageSize);
    }
    EXPECT_GT(written.size(), 5u);
    EXPECT_LT(written.size(), 64u);
    EXPECT_EQ(guest.told(false), written);
    EXPECT_EQ(guest.told(), written);
    EXPECT_EQ(guest.told(), Migration::Pages());
  }
  guest.must("track", guest.context.track_dirty(guest.hwpt, false));
  guest.start(0, kMiB, 64, 9);
  rig.run_for(kShort);
  guest.stop();
  EXPECT_EQ(guest.told(), Migration::Pages());
  EXPECT_EQ(problems_of(rig), "");
}

// Every store of the kernel's is a moment for the device to write: while an entry changes, between a mark that is taken
// back and its flush, while the bitmap is copied.
TEST_P(DirtyTracking, CopyingWhatIsToldOfEndsWithACopy) {
  for (const u64 bytes : {kMiB, 8 * kMiB}) {  // small leaves, large leaves
    SCOPED_TRACE(std::to_string(bytes) + " bytes");
    InProcessRig rig(machine(GetParam(), bytes));
    ASSERT_DONE(rig.power_on("a"));
    rig.new_program();
    Migration guest(rig, bytes);
    guest.set_up();
    rig.board().enter_phase(board::Phase::During);  // behind the reset of a device that is opened
    guest.start(0, bytes, 64, 1, 0);
    guest.start(bytes / 2, bytes / 2, 64, 2, 1);
    rig.run_for(kShort);
    guest.must("track", guest.context.track_dirty(guest.hwpt, true));
    guest.copy_all();
    for (int round = 0; round < 20; ++round) {
      rig.run_for(kShort);
      EXPECT_GT(guest.copy_dirty(), 0u);
    }
    rig.run_for(kShort);
    EXPECT_FALSE(guest.copied()) << "it goes on";
    guest.stop(0);
    guest.stop(1);
    guest.copy_dirty();
    EXPECT_TRUE(guest.copied());
    expect_clean(rig, board::Phase::During);
    EXPECT_EQ(problems_of(rig), "");
  }
}

class MigrationAcrossAnUpdate : public testing::TestWithParam<std::pair<CachePolicy, Take>> {};

// Small leaves, one record in each, so that none is written twice on the way round: what an update forgot, no later
// write makes good.
TEST_P(MigrationAcrossAnUpdate, EndsWithACopy) {
  InProcessRig rig(machine(GetParam().first, 5));
  ASSERT_DONE(rig.power_on("a"));
  rig.new_program();
  Migration guest(rig, kMiB);
  guest.set_up();
  rig.board().enter_phase(board::Phase::During);
  guest.start(0, kMiB, kMiB / kPageSize, 1);
  guest.must("track", guest.context.track_dirty(guest.hwpt, true));
  guest.copy_all();
  for (u32 hop = 1; hop <= 3; ++hop) {
    SCOPED_TRACE("hop " + std::to_string(hop));
    rig.run_for(kShort);
    guest.copy_dirty();
    guest.preserve();
    // Nobody can ask now, and nothing is forgotten.
    std::vector<u64> bits(guest.copy.size() / kPageSize / 64);
    EXPECT_EQ(
        guest.context.dirty_bitmap(guest.hwpt, Migration::kBase, guest.copy.size(), kPageSize, bits.data()).error(),
        Errno::Ebusy);
    EXPECT_EQ(guest.context.track_dirty(guest.hwpt, false).error(), Errno::Ebusy);
    rig.run_for(kShort);
    ASSERT_DONE(rig.leave(hop % 2 == 1 ? "b" : "a"));
    guest.jumped();
    rig.board().step_for(kShort);
    ASSERT_DONE(rig.arrive());
    rig.new_program();
    guest.come_back(GetParam().second);
    EXPECT_FALSE(guest.copied());
  }
  guest.stop();
  EXPECT_GT(guest.copy_dirty(), 0u);
  EXPECT_TRUE(guest.copied());
  expect_clean(rig, board::Phase::During);
  EXPECT_EQ(problems_of(rig), "");
}

std::string name_of(CachePolicy caches) {
  return caches == CachePolicy::Sticky ? "Sticky" : caches == CachePolicy::EvictAlways ? "EvictAlways" : "Random";
}
INSTANTIATE_TEST_SUITE_P(Caches, DirtyTracking,
                         testing::Values(CachePolicy::Sticky, CachePolicy::EvictAlways, CachePolicy::Random),
                         [](const auto& tested) { return name_of(tested.param); });
INSTANTIATE_TEST_SUITE_P(
    Caches, MigrationAcrossAnUpdate,
    testing::Values(std::pair{CachePolicy::Sticky, Take::Adopt}, std::pair{CachePolicy::EvictAlways, Take::Adopt},
                    std::pair{CachePolicy::Sticky, Take::Replace}, std::pair{CachePolicy::Random, Take::Replace}),
    [](const auto& tested) {
      return name_of(tested.param.first) + (tested.param.second == Take::Adopt ? "Adopted" : "Replaced");
    });

}  // namespace
}  // namespace perdure::tool
