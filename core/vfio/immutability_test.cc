// What is preserved cannot be changed until it is unpreserved (R46, T8): every ioctl that changes something, then the
// same in flight while preserving begins, then threads.
#include <atomic>
#include <thread>

#include "core/vfio/testing/vfio_update.h"

namespace perdure::testing {
namespace {

constexpr SourceId b0 = IommufdWorld::b0;

class ImmutabilityTest : public VfioUpdate {
 protected:
  // Beside the preserved device and page table: a page table of the same IOAS that is not marked; a device that is not
  // preserved, but uses the marked one; and another IOAS.
  void preserve_some() {
    set_up();
    plain = *w.hwpt(iommufd, dev_id, ioas);
    other_fd = w.open_device(1);
    ASSERT_TRUE(w.bind_device(other_fd, iommufd));
    ASSERT_TRUE(w.attach(other_fd, hwpt));
    elsewhere = w.ioas(iommufd);
    preserve_all();
  }
  void unpreserve() {
    w.unpreserve_device(fd, kDevice);
    w.unpreserve(iommufd, kContext);
    w.session->files.erase(kContext);
  }

  // Everything that a change could show in: tables, entries, DIDs, what both devices reach, which objects there are.
  struct State {
    std::map<u64, std::vector<std::byte>> tables;
    std::map<SourceId, FakeHardware::Entry> a, b;
    std::set<u64> dids_a, dids_b;
    std::vector<Errno> objects;
    u64 writes = 0;
    bool operator==(const State&) const = default;
  };
  State state() {
    State s{.tables = {},
            .a = w.iommu.hw_a.entries,
            .b = w.iommu.hw_b.entries,
            .dids_a = w.iommu.hw_a.dids,
            .dids_b = w.iommu.hw_b.dids,
            .objects = {},
            .writes = w.iommu.hw_a.entry_writes + w.iommu.hw_b.entry_writes};
    EXPECT_TRUE(w.iommu.group(a0).domain()->table().each_table([&](Phys page, unsigned) -> Result<void> {
      const std::byte* at = w.machine().virt(page);
      s.tables[page.value] = {at, at + kPageSize};
      return {};
    }));
    // Asking for the addresses of an IOAS finds it; of anything else it finds nothing.
    for (u32 id = 1; id < 12; ++id) {
      uapi::IommuIoasIovaRanges cmd{};
      cmd.size = sizeof(cmd);
      cmd.ioas_id = id;
      s.objects.push_back(error_of(w.call(iommufd, uapi::kIommuIoasIovaRanges, cmd)));
    }
    return s;
  }
  template <class T>
  Errno run(u32 command, T cmd) {
    cmd.size = sizeof(cmd);
    return error_of(w.call(iommufd, command, cmd));
  }

  struct Change {
    const char* what;
    std::function<Errno()> run;
    Errno after;  // unpreserve
    std::function<void()> undo = [] {};
  };
  std::vector<Change> changes() {
    using namespace uapi;
    constexpr Errno kDone{};
    const Errno none = Errno::Eopnotsupp;  // this kernel has it for nobody
    return {
        {"MAP", [&] { return error_of(w.map(iommufd, ioas, 0x100000, kPageSize, 0x10000)); }, Errno::Efault},
        {"MAP_FILE", [&] { return error_of(w.map_file(iommufd, ioas, m.fd, 0, kPageSize, 0x10000)); }, kDone},
        {"UNMAP of one", [&] { return error_of(w.unmap(iommufd, ioas, 0x10000, kPageSize)); }, kDone},
        {"UNMAP of all", [&] { return error_of(w.unmap(iommufd, ioas, 0, ~u64{0})); }, kDone,
         [&] { ASSERT_TRUE(w.map_file(iommufd, ioas, m.fd, 0, 4 * kMiB, kBase)); }},
        {"COPY", [&] { return run(kIommuIoasCopy, IommuIoasCopy{.dst_ioas_id = ioas, .src_ioas_id = elsewhere}); },
         Errno::Einval},
        {"ALLOW_IOVAS", [&] { return run(kIommuIoasAllowIovas, IommuIoasAllowIovas{.ioas_id = ioas}); }, kDone},
        {"OPTION of an IOAS", [&] { return run(kIommuOption, IommuOption{.option_id = 1, .object_id = ioas}); },
         Errno::Einval},
        // Refused for another reason afterwards: the context has objects.
        {"OPTION of the context", [&] { return run(kIommuOption, IommuOption{}); }, Errno::Ebusy},
        {"CHANGE_PROCESS", [&] { return run(kIommuIoasChangeProcess, IommuIoasChangeProcess{}); }, kDone},
        {"SET_DIRTY_TRACKING",
         [&] { return run(kIommuHwptSetDirtyTracking, IommuHwptSetDirtyTracking{.flags = 1, .hwpt_id = hwpt}); }, none},
        {"GET_DIRTY_BITMAP", [&] { return run(kIommuHwptGetDirtyBitmap, IommuHwptGetDirtyBitmap{.hwpt_id = hwpt}); },
         Errno::Einval},
        {"MARK of another", [&] { return error_of(w.mark(iommufd, plain, 99)); }, kDone},
        {"ATTACH to another HWPT", [&] { return error_of(w.attach(fd, plain)); }, kDone,
         [&] { ASSERT_TRUE(w.attach(fd, hwpt)); }},
        {"ATTACH to an IOAS", [&] { return error_of(w.attach(fd, elsewhere)); }, kDone,
         [&] { ASSERT_TRUE(w.attach(fd, hwpt)); }},
        // Asked before anything is looked at or prepared.
        {"ATTACH to nothing", [&] { return error_of(w.attach(fd, 77)); }, Errno::Enoent},
        {"DETACH", [&] { return error_of(w.detach(fd)); }, kDone, [&] { ASSERT_TRUE(w.attach(fd, hwpt)); }},
        {"ATTACH elsewhere of a device that shares it", [&] { return error_of(w.attach(other_fd, plain)); }, kDone,
         [&] { ASSERT_TRUE(w.attach(other_fd, hwpt)); }},
        {"DETACH of a device that shares it", [&] { return error_of(w.detach(other_fd)); }, kDone},
        // Whoever takes it over finds it at work.
        {"RESET", [&] { return error_of(w.task.files.at(fd)->ioctl(w.task, uapi::kVfioDeviceReset, UserAddr(0))); },
         kDone},
        {"DESTROY of its IOAS", [&] { return error_of(w.destroy(iommufd, ioas)); }, Errno::Ebusy},
        {"DESTROY while devices are attached", [&] { return error_of(w.destroy(iommufd, hwpt)); }, Errno::Ebusy},
    };
  }

  u32 plain = 0, elsewhere = 0;
  s32 other_fd = -1;
};

INSTANTIATE_TEST_SUITE_P(Versions, ImmutabilityTest, ::testing::Values(2u));

// R46: each of them, nothing changed; and afterwards each of them as ever.
TEST_P(ImmutabilityTest, EveryIoctlThatChangesSomethingIsRefused) {
  preserve_some();
  const State before = state();
  for (const Change& change : changes()) {
    EXPECT_EQ(change.run(), Errno::Ebusy) << change.what;
    EXPECT_TRUE(state() == before) << change.what;
  }
  EXPECT_TRUE(w.iommu.live->audit());
  EXPECT_TRUE(w.handler->audit());
  // What asks, and what concerns something else, goes on.
  EXPECT_EQ(run(uapi::kIommuOption,
                uapi::IommuOption{
                    .option_id = uapi::iommu_option::kHugePages, .op = uapi::iommu_option::kGet, .object_id = ioas}),
            Errno{});
  EXPECT_TRUE(w.map_file(iommufd, elsewhere, m.fd, 0, kPageSize, 0x10000));
  EXPECT_TRUE(w.unmap(iommufd, elsewhere, 0x10000, kPageSize));
  EXPECT_TRUE(w.hwpt(iommufd, dev_id, ioas));
  unpreserve();
  for (const Change& change : changes()) {
    EXPECT_EQ(change.run(), change.after) << change.what;
    change.undo();
  }
  ASSERT_TRUE(w.detach(fd));
  EXPECT_TRUE(w.destroy(iommufd, hwpt));
}

// A page table that is preserved without a device on it: it takes none, and cannot go.
TEST_P(ImmutabilityTest, AnIdlePageTableTakesNobody) {
  set_up();
  const u32 idle = *w.hwpt(iommufd, dev_id, ioas);
  ASSERT_TRUE(w.mark(iommufd, idle, 99));
  other_fd = w.open_device(1);
  ASSERT_TRUE(w.bind_device(other_fd, iommufd));
  preserve_all();
  const State before = state();
  EXPECT_EQ(error_of(w.attach(other_fd, idle)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.destroy(iommufd, idle)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.mark(iommufd, idle, 100)), Errno::Ebusy);
  EXPECT_TRUE(state() == before);
  // The IOMMU core by itself (R46, the second layer).
  auto who = w.iommu.owner();
  ASSERT_EQ(error_of(w.iommu.group(IommuWorld::b1).claim(who)), Errno{});
  EXPECT_EQ(error_of(w.iommu.group(IommuWorld::b1).attach(*who, w.iommu.group(a0).domain())), Errno::Ebusy);
  EXPECT_EQ(error_of(w.iommu.group(a0).domain()->map(Iova(0x10000), Phys(0x10000), kPageSize, Access::Read)),
            Errno::Ebusy);
  EXPECT_EQ(error_of(w.iommu.group(a0).domain()->unmap(Iova(kBase), kPageSize)), Errno::Ebusy);
  EXPECT_TRUE(state() == before);
  w.iommu.group(IommuWorld::b1).release(*who);
  unpreserve();
  EXPECT_TRUE(w.attach(other_fd, idle));
  EXPECT_TRUE(w.detach(other_fd));
  EXPECT_TRUE(w.destroy(iommufd, idle));
}

// Closing is no change that could wait: a device that is not preserved is blocked when its program lets it go, and the
// page table stays as it is.
TEST_P(ImmutabilityTest, ADeviceThatIsNotPreservedCanBeClosed) {
  preserve_some();
  const auto tables = state().tables;
  w.task.close(other_fd);
  EXPECT_EQ(w.reached(b0, kBase), "blocked");
  EXPECT_EQ(state().tables, tables);
  EXPECT_TRUE(w.iommu.live->audit());
  unpreserve();
}

// --- in flight ---------------------------------------------------------------------------------------------------

// A program whose descriptor is looked up at an awkward moment.
class HookedTask final : public test::FakeTask {
 public:
  std::function<void()> when_asked = [] {};
  Result<Ref<File>> file(s32 number) override {
    std::exchange(when_asked, [] {})();
    return FakeTask::file(number);
  }
};

TEST_P(ImmutabilityTest, AMapUnderWayWhenPreservingBeginsIsRefused) {
  set_up();
  HookedTask task;
  const s32 memory = task.add(m.memory);
  uapi::IommuIoasMapFile cmd{.size = sizeof(cmd),
                             .flags = IommufdWorld::kRw | 1,
                             .ioas_id = ioas,
                             .fd = memory,
                             .start = 0,
                             .length = kPageSize,
                             .iova = 0x10000};
  const UserAddr at = task.put(cmd);
  task.when_asked = [&] { preserve_all(); };
  EXPECT_EQ(error_of(w.task.files.at(iommufd)->ioctl(task, uapi::kIommuIoasMapFile, at)), Errno::Ebusy);
  EXPECT_EQ(w.reached(a0, 0x10000), "");
  EXPECT_TRUE(w.iommu.live->audit());
  EXPECT_TRUE(w.handler->audit());
  unpreserve();
  EXPECT_TRUE(w.task.files.at(iommufd)->ioctl(task, uapi::kIommuIoasMapFile, at));
}

// --- threads -------------------------------------------------------------------------------------------------------

// Whatever programs do meanwhile, what was preserved is what the record says: the audit compares every leaf with it.
TEST_P(ImmutabilityTest, WhatProgramsDoMeanwhileIsInTheRecordOrRefused) {
  set_up();
  // The first preserve makes what stays for reuse.
  preserve_all();
  w.machine().steps = nullptr;
  w.unpreserve_device(fd, kDevice);
  w.unpreserve(iommufd, kContext);
  std::atomic<bool> stop{false};
  std::atomic<u64> done{0}, refused{0};
  const Ref<File> context = w.task.files.at(iommufd), device = w.task.files.at(fd);
  const auto worker = [&](auto body) {
    return std::thread([&, body] {
      test::FakeTask task;
      const s32 memory = task.add(m.memory);
      const UserAddr at = task.allocate(256);
      const auto call = [&](const Ref<File>& file, u32 command, auto cmd) {
        task.poke(at, cmd);
        const Result<u64> result = file->ioctl(task, command, at);
        if (result) {
          ++done;
        } else if (result.error() == Errno::Ebusy) {
          ++refused;
        }
        return result.has_value();
      };
      for (u64 round = 0; !stop.load(); ++round) body(task, at, memory, call, round);
    });
  };
  std::vector<std::thread> threads;
  threads.push_back(worker([&](auto&, UserAddr, s32 memory, auto& call, u64 round) {
    const u64 iova = 0x100000 + round % 8 * kPageSize;
    call(context, uapi::kIommuIoasMapFile,
         uapi::IommuIoasMapFile{.size = sizeof(uapi::IommuIoasMapFile),
                                .flags = IommufdWorld::kRw | 1,
                                .ioas_id = ioas,
                                .fd = memory,
                                .start = 0,
                                .length = kPageSize,
                                .iova = iova});
    call(
        context, uapi::kIommuIoasUnmap,
        uapi::IommuIoasUnmap{.size = sizeof(uapi::IommuIoasUnmap), .ioas_id = ioas, .iova = iova, .length = kPageSize});
  }));
  // Page tables come and go, marked ones among them.
  threads.push_back(worker([&](test::FakeTask& task, UserAddr at, s32, auto& call, u64 round) {
    uapi::IommuHwptAlloc alloc{};
    alloc.size = sizeof(alloc);
    alloc.dev_id = dev_id;
    alloc.pt_id = ioas;
    if (!call(context, uapi::kIommuHwptAlloc, alloc)) return;
    const u32 id = task.peek<uapi::IommuHwptAlloc>(at).out_hwpt_id;
    call(
        context, uapi::kIommuHwptMarkPreserve,
        uapi::IommuHwptMarkPreserve{.size = sizeof(uapi::IommuHwptMarkPreserve), .hwpt_id = id, .token = 1000 + round});
    const uapi::IommuDestroy destroy{.size = sizeof(destroy), .id = id};
    while (!call(context, uapi::kIommuDestroy, destroy)) {
    }
  }));
  // The device moves between page tables.
  threads.push_back(worker([&](auto&, UserAddr, s32, auto& call, u64) {
    call(device, uapi::kVfioDeviceDetachIommufdPt,
         uapi::VfioDetachIommufdPt{.argsz = sizeof(uapi::VfioDetachIommufdPt)});
    uapi::VfioAttachIommufdPt attach{};
    attach.argsz = sizeof(attach);
    attach.pt_id = hwpt;
    call(device, uapi::kVfioDeviceAttachIommufdPt, attach);
  }));
  luo::FileState of_context = w.state(kContext, context.get());
  luo::FileState of_device = w.vfio_state(kDevice, device.get());
  int devices = 0;
  for (int round = 0; round < 30 || devices == 0; ++round) {
    ASSERT_TRUE(w.handler->preserve(of_context));
    // Until somebody ran into it.
    for (const u64 before = refused.load(); refused.load() == before;) std::this_thread::yield();
    w.session->files[kContext] = context;
    const Result<void> preserved = w.vfio_handler->preserve(of_device);
    if (!preserved) {
      EXPECT_EQ(preserved.error(), Errno::Enoent) << "just detached";
    }
    EXPECT_TRUE(w.iommu.live->audit()) << w.machine().lines.back();
    EXPECT_TRUE(w.handler->audit()) << w.machine().lines.back();
    if (preserved) {
      ++devices;
      EXPECT_TRUE(w.handler->freeze(of_context));
      w.handler->unfreeze(of_context);
      w.vfio_handler->unpreserve(of_device);
    }
    w.session->files.erase(kContext);
    w.handler->unpreserve(of_context);
  }
  stop = true;
  for (std::thread& t : threads) t.join();
  EXPECT_GT(done.load(), 0u);
  ASSERT_TRUE(w.attach(fd, hwpt));
  EXPECT_EQ(w.reached(a0, kBase), w.place(m, 0));
}

}  // namespace
}  // namespace perdure::testing
