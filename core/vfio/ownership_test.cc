// Who may do what with a device that came from a former kernel, from the jump until its program lets it go
// (iommu-liveupdate §4.6, §5.4; R07, R09), in whichever order its program comes back.
#include <algorithm>

#include "core/vfio/testing/vfio_update.h"

namespace perdure::testing {
namespace {

constexpr u64 kStranger = 22;  // another context of the same session

class OwnershipTest : public VfioUpdate {
 protected:
  static constexpr u64 kGeneration = IommufdWorld::kGeneration;
  Group& group() { return w.iommu.group(a0); }
  IommuDevice& device() { return w.iommu.device(a0); }
  void there() {
    set_up();
    preserve_all();
    jump();
  }
};

INSTANTIATE_TEST_SUITE_P(Versions, OwnershipTest, ::testing::Values(1u, 2u));

enum State { kHeld, kRetrieved, kTransferred, kFinished, kLetGo, kStates };
constexpr const char* kStateNames[] = {"held", "retrieved", "transferred", "finished", "let go"};

TEST_P(OwnershipTest, OnlyTheHeirAndOnlyOnce) {
  there();
  const s32 stranger = w.open();
  s32 sibling = -1;
  const Errno done{};
  struct Attempt {
    const char* what;
    std::function<Errno()> run;
    Errno expected[kStates];
  };
  const auto bind_to = [&](s32 context) {
    if (fd < 0) return Errno::Ebadf;
    return error_of(w.bind_device(fd, context));
  };
  const Attempt attempts[] = {
      {"claim by a stranger",
       [&] {
         auto who = w.iommu.owner();
         const Errno error = error_of(group().claim(who));
         group().release(*who);
         return error;
       },
       {Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm, done}},
      {"transfer under another token",
       [&] { return error_of(group().claim_held(w.iommu.owner(), kGeneration, kContext + 1)); },
       {Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm}},
      {"transfer of another session",
       [&] { return error_of(group().claim_held(w.iommu.owner(), kGeneration + 1, kContext)); },
       {Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm}},
      {"transfer to a context that nobody retrieved",
       [&] { return error_of(w.file(stranger).bind_held(device(), kGeneration, kContext)); },
       {Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm}},
      {"transfer to another context of the session",
       [&] {
         return sibling < 0 ? Errno::Eperm : error_of(w.file(sibling).bind_held(device(), kGeneration, kContext));
       },
       {Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm}},
      {"a second transfer to the heir",
       [&] {
         if (group().ownership() == Ownership::HeldForSession) return Errno::Eperm;  // that is the first one
         return error_of(w.file(iommufd).bind_held(device(), kGeneration, kContext));
       },
       {Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm}},
      {"bind by a stranger",
       [&] {
         Result<Ref<iommufd::Device>> bound = w.file(stranger).bind(device());
         if (bound) w.file(stranger).unbind(**bound);
         return error_of(bound);
       },
       {Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm, done}},
      {"opening the device",
       [&] { return error_of(w.vfio->open(0)); },
       {Errno::Ebusy, Errno::Ebusy, Errno::Ebusy, done, done}},
      {"binding the retrieved device to a stranger",
       [&] { return bind_to(stranger); },
       {Errno::Ebadf, Errno::Eperm, Errno::Einval, Errno::Einval, Errno::Ebadf}},
      {"preserving it for a stranger",
       [&] { return error_of(w.iommu.live->preserve_device(device(), *w.iommu.owner(), kGeneration, kContext)); },
       {Errno::Einval, Errno::Einval, Errno::Einval, Errno::Einval, Errno::Einval}},
      {"handing it on for a stranger",
       [&] { return error_of(w.iommu.live->preserve_held_device(device(), kGeneration, kContext + 1, 9, 9)); },
       {Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm, Errno::Eperm}},
      // R33: what goes away and comes back is still what it was.
      {"removal",
       [&] {
         const Result<void> removed = w.iommu.iommu->remove_device(device());
         if (removed) {
           EXPECT_TRUE(w.iommu.iommu->add_device(a0, w.iommu.unit(IommuWorld::kUnitA), {}));
         }
         return error_of(removed);
       },
       {done, done, Errno::Ebusy, Errno::Ebusy, done}},
  };
  const auto try_all = [&](State state) {
    const Ownership before = group().ownership();
    const auto entries = w.iommu.hw_a.entries;
    const u64 writes = w.iommu.hw_a.entry_writes;
    for (const Attempt& attempt : attempts) {
      EXPECT_EQ(attempt.run(), attempt.expected[state]) << attempt.what << ", " << kStateNames[state];
      EXPECT_EQ(group().ownership(), before) << attempt.what << ", " << kStateNames[state];
      EXPECT_EQ(w.iommu.hw_a.entries, entries) << attempt.what << ", " << kStateNames[state];
      EXPECT_EQ(w.iommu.hw_a.entry_writes, writes) << attempt.what << ", " << kStateNames[state];
    }
  };
  fd = -1;
  EXPECT_EQ(group().ownership(), Ownership::HeldForSession);
  try_all(kHeld);

  iommufd = *w.retrieve(kContext);
  sibling = *w.retrieve(kStranger);
  fd = *w.retrieve_device(kDevice);
  EXPECT_EQ(group().ownership(), Ownership::HeldForSession);
  try_all(kRetrieved);

  ASSERT_TRUE(w.bind_device(fd, iommufd));
  EXPECT_EQ(group().ownership(), Ownership::Owned);
  try_all(kTransferred);
  EXPECT_EQ(error_of(w.bind_device(fd, iommufd)), Errno::Einval) << "once";

  ASSERT_TRUE(w.restore(iommufd, kHwpt));
  w.finish_device(fd, kDevice);
  w.finish(iommufd, kContext);
  w.iommu.live->finish(0);
  try_all(kFinished);
  EXPECT_EQ(w.reached(a0, kBase).empty(), false);

  w.session->files.clear();
  w.task.close(fd);
  fd = -1;
  EXPECT_EQ(group().ownership(), Ownership::Unowned);
  EXPECT_EQ(w.reached(a0, kBase), "blocked");
  try_all(kLetGo);
}

// R09, §5.4: a BIND that fails leaves the device to be bound again, as often as it takes, and DMA has not noticed.
TEST_P(OwnershipTest, AFailedBindReturnsToHeldEveryTime) {
  there();
  const std::string reached = w.reached(a0, kBase);
  const auto entry = w.iommu.hw_a.entries.at(a0);
  iommufd = *w.retrieve(kContext);
  fd = *w.retrieve_device(kDevice);
  ASSERT_TRUE(w.restore(iommufd, kHwpt)) << "reclaimed before its device is bound";
  for (u64 n = 1;; ++n) {
    const Result<u32> bound = w.machine().counting.failing(n, [&] { return w.bind_device(fd, iommufd); });
    if (bound) break;
    ASSERT_EQ(group().ownership(), Ownership::HeldForSession) << n;
    ASSERT_FALSE(w.can_finish_device(fd, kDevice, 1)) << n;
    ASSERT_EQ(w.iommu.hw_a.entries.at(a0), entry) << n;
    ASSERT_LT(n, 50u);
  }
  EXPECT_EQ(group().ownership(), Ownership::Owned);
  EXPECT_EQ(w.reached(a0, kBase), reached);
  EXPECT_TRUE(w.can_finish_device(fd, kDevice, 1));
}

// Whatever order its program comes back in, as long as a thing is there before it is used.
TEST_P(OwnershipTest, RetrievedInAnyLegalOrder) {
  enum Step { kGetMemory, kGetContext, kGetDevice, kBind, kReclaim, kSteps };
  std::vector<int> order{kGetMemory, kGetContext, kGetDevice, kBind, kReclaim};
  int orders = 0;
  do {
    const auto place = [&](int step) { return std::find(order.begin(), order.end(), step) - order.begin(); };
    if (place(kBind) < place(kGetContext) || place(kBind) < place(kGetDevice) || place(kReclaim) < place(kGetContext)) {
      continue;
    }
    std::string name;
    for (const int step : order) name += std::to_string(step);
    for (const bool with_ioas : {false, true}) {
      SCOPED_TRACE(name + (with_ioas ? " adopted" : " kept"));
      ++orders;
      VfioWorld world(GetParam());
      world.iommu.begin();
      s32 context = world.open(), opened = world.open_device();
      IommufdWorld::Memfd memory = world.memfd(4 * kMiB);
      const u32 id = *world.bind_device(opened, context), space = world.ioas(context);
      ASSERT_TRUE(world.map_file(context, space, memory.fd, 0, 4 * kMiB, kBase));
      u32 table = *world.hwpt(context, id, space);
      ASSERT_TRUE(world.attach(opened, table));
      ASSERT_TRUE(world.mark(context, table, kHwpt));
      world.preserve_memfd(memory, kMemfd);
      ASSERT_TRUE(world.preserve(context, kContext));
      ASSERT_TRUE(world.preserve_device(opened, kDevice));
      world.freeze_device(kDevice);
      static_cast<void>(memory.memory.release());
      const std::string reached = world.reached(a0, kBase);
      world.jump_vfio(kContext);
      for (const int step : order) {
        EXPECT_FALSE(context >= 0 && place(kGetContext) < place(step) && step <= kReclaim &&
                     place(kReclaim) >= place(step) && world.can_finish(context, kContext))
            << "not before the page table was reclaimed";
        switch (step) {
          case kGetMemory: ASSERT_TRUE(world.session->file_of(kMemfd)); break;
          case kGetContext: context = *world.retrieve(kContext); break;
          case kGetDevice: opened = *world.retrieve_device(kDevice); break;
          case kBind: ASSERT_TRUE(world.bind_device(opened, context)); break;
          case kReclaim: {
            table = with_ioas ? world.adopt(context, kHwpt)->hwpt : *world.restore(context, kHwpt);
            break;
          }
        }
        EXPECT_EQ(world.reached(a0, kBase), reached);
      }
      EXPECT_EQ(*world.attach(opened, table), table) << "attached as an object, too";
      EXPECT_TRUE(world.can_finish(context, kContext));
      EXPECT_TRUE(world.can_finish_device(opened, kDevice, 1));
      world.finish_device(opened, kDevice);
      world.finish(context, kContext);
      world.iommu.live->finish(0);
      ASSERT_TRUE(world.detach(opened));
      EXPECT_TRUE(world.destroy(context, table));
    }
  } while (std::next_permutation(order.begin(), order.end()));
  EXPECT_GT(orders, 20);
}

// §5.7: not before the device is bound and every page table reclaimed; then nothing names the former kernel any more.
TEST_P(OwnershipTest, FinishedOnlyWhenAllOfItIsTakenOver) {
  there();
  EXPECT_FALSE(w.can_finish(-1, kContext, 0));
  EXPECT_FALSE(w.can_finish_device(-1, kDevice, 0));
  iommufd = *w.retrieve(kContext);
  fd = *w.retrieve_device(kDevice);
  EXPECT_FALSE(w.can_finish(iommufd, kContext));
  EXPECT_FALSE(w.can_finish_device(fd, kDevice, 1));
  const u32 restored = *w.restore(iommufd, kHwpt);
  EXPECT_TRUE(w.can_finish(iommufd, kContext)) << "kept";
  EXPECT_FALSE(w.can_finish_device(fd, kDevice, 1)) << "its device is nobody's yet";
  EXPECT_EQ(error_of(w.destroy(iommufd, restored)), Errno::Ebusy) << "and runs on it";
  // Asking leaves nothing behind (row 14).
  const u32 references = w.task.files.at(iommufd)->ref_count();
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(w.can_finish(iommufd, kContext));
  EXPECT_EQ(w.task.files.at(iommufd)->ref_count(), references);
  ASSERT_TRUE(w.bind_device(fd, iommufd));
  EXPECT_TRUE(w.can_finish_device(fd, kDevice, 1));
  const u32 did = w.iommu.hw_a.entries.at(a0).did;
  w.finish_device(fd, kDevice);
  w.finish(iommufd, kContext);
  w.iommu.live->finish(0);
  EXPECT_TRUE(w.iommu.hw_a.dids.contains(did));
  ASSERT_TRUE(w.detach(fd));
  EXPECT_FALSE(w.iommu.hw_a.dids.contains(did)) << "with the last device";
  EXPECT_TRUE(w.destroy(iommufd, restored));
}

// R33 while its program is in the middle of coming back: unplugged, plugged in again, and on.
TEST_P(OwnershipTest, AHeldDeviceCanGoAndComeBack) {
  there();
  const auto entry = w.iommu.hw_a.entries.at(a0);
  iommufd = *w.retrieve(kContext);
  ASSERT_TRUE(w.adopt(iommufd, kHwpt));
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(w.iommu.iommu->remove_device(device()));
    EXPECT_EQ(w.iommu.iommu->find(a0), nullptr);
    EXPECT_TRUE(w.iommu.hw_a.dids.contains(entry.did)) << "the id stays reserved";
    ASSERT_TRUE(w.iommu.iommu->add_device(a0, w.iommu.unit(IommuWorld::kUnitA), {}));
    EXPECT_EQ(group().ownership(), Ownership::HeldForSession);
    EXPECT_EQ(w.iommu.hw_a.entries.at(a0), entry);
  }
  fd = *w.retrieve_device(kDevice);
  ASSERT_TRUE(w.bind_device(fd, iommufd));
  EXPECT_EQ(w.iommu.hw_a.entries.at(a0), entry);
}

}  // namespace
}  // namespace perdure::testing
