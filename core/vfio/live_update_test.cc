// A device across live updates: what is refused, and that nothing is written to it on the way (design §7).
#include "core/vfio/testing/vfio_update.h"

namespace perdure::testing {
namespace {

class VfioLiveUpdateTest : public VfioUpdate {};

INSTANTIATE_TEST_SUITE_P(Versions, VfioLiveUpdateTest, ::testing::Values(1u, 2u));

TEST_P(VfioLiveUpdateTest, IsPreservedAfterItsIommufd) {
  set_up();
  const s32 idle = w.open_device(1);
  EXPECT_EQ(error_of(w.preserve_device(idle, 77)), Errno::Einval) << "not bound";
  ASSERT_TRUE(w.bind_device(idle, iommufd));
  EXPECT_EQ(error_of(w.preserve_device(idle, 77)), Errno::Enoent) << "not attached";
  EXPECT_EQ(error_of(w.preserve_device(fd, kDevice)), Errno::Enoent) << "context first";
  w.preserve_memfd(m, kMemfd);
  ASSERT_TRUE(w.preserve(iommufd, kContext));
  ASSERT_TRUE(w.attach(idle, w.ioas(iommufd)));
  EXPECT_EQ(error_of(w.preserve_device(idle, 77)), Errno::Einval) << "HWPT not preserved";
  // A device with a cache of translations: after the jump nobody could tell it to forget them.
  w.hw_a.set<u32>(0x190, 0x0001000f);
  EXPECT_EQ(error_of(w.preserve_device(fd, kDevice)), Errno::Eopnotsupp);
  w.hw_a.set<u32>(0x190, 0x0001000b);
  const u64 before = (w.heap().trim(), w.iommu.frames().totals().free);
  w.hw_a.writes.clear();
  ASSERT_TRUE(w.preserve_device(fd, kDevice));
  EXPECT_EQ(error_of(w.preserve_device(fd, kDevice)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.detach(fd)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.attach(fd, ioas)), Errno::Ebusy);
  EXPECT_EQ(record().iommufd_token, kContext);
  EXPECT_EQ(record().generation, IommufdWorld::kGeneration);
  w.unpreserve_device(fd, kDevice);
  EXPECT_TRUE(w.hw_a.writes.empty());
  w.heap().trim();
  EXPECT_GE(w.iommu.frames().totals().free + 8, before);
  w.unpreserve(iommufd, kContext);
  EXPECT_TRUE(w.detach(fd));
}

TEST_P(VfioLiveUpdateTest, EveryFailingAllocationOfPreserveIsUndone) {
  set_up();
  w.preserve_memfd(m, kMemfd);
  ASSERT_TRUE(w.preserve(iommufd, kContext));
  ASSERT_TRUE(w.preserve_device(fd, kDevice));
  w.unpreserve_device(fd, kDevice);
  for (u64 n = 1;; ++n) {
    const Result<void> preserved = w.machine().counting.failing(n, [&] { return w.preserve_device(fd, kDevice); });
    if (preserved) break;
    ASSERT_EQ(preserved.error(), Errno::Enomem);
    ASSERT_FALSE(w.iommu.device(a0).preserved()) << n;
    ASSERT_LT(n, 100u);
  }
  w.unpreserve_device(fd, kDevice);
  w.unpreserve(iommufd, kContext);
}

TEST_P(VfioLiveUpdateTest, TheRecordSaysHowItWasWhenItFroze) {
  set_up();
  w.config_write<u16>(fd, 4, 2);
  preserve_all();
  EXPECT_EQ(record().command, 2u);
  EXPECT_EQ(record().irq_vectors, 2u);
  w.config_write<u16>(fd, 4, 6);
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 3, 1, {-1}));
  w.freeze_device(kDevice);
  EXPECT_EQ(record().command, 6u);
  EXPECT_EQ(record().irq_mode, static_cast<u32>(abi::VfioPciIrqMode::Msix));
  EXPECT_EQ(record().irq_vectors, 1u);
  // Nobody reads it again before the jump: another thread of the program comes too late.
  const Errno late = error_of(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 3, 1, {event.fd}));
  EXPECT_EQ(late, Errno::Ebusy);
  EXPECT_EQ(error_of(w.write<u16>(fd, uapi::vfio_region::kConfig, 4, u16{2})), Errno::Ebusy);
  EXPECT_EQ(w.config_read<u16>(fd, 4) & 6u, 6u);
  // Unless there is none.
  luo::FileState state = w.vfio_state(kDevice, w.task.files.at(fd).get());
  w.vfio_handler->unfreeze(state);
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 3, 1, {event.fd}));
  w.config_write<u16>(fd, 4, 2);
  ASSERT_TRUE(w.vfio_handler->freeze(state));
  EXPECT_EQ(record().command, 2u);
  EXPECT_EQ(record().irq_vectors, 2u);
  w.vfio_handler->unfreeze(state);
  w.unpreserve_device(fd, kDevice);
  w.unpreserve(iommufd, kContext);
}

TEST_P(VfioLiveUpdateTest, NothingIsWrittenToADeviceAtWork) {
  set_up();
  w.config_write<u32>(fd, 0x18, 0x77000000);
  w.config_write<u8>(fd, 0x3c, 0x55);
  w.config_write<u16>(fd, 0x04, 0x0406);
  preserve_all();
  const auto config = w.hw_a.config;
  const auto bar2 = w.hw_a.bar2_memory;
  const unsigned resets = w.hw_a.resets;
  w.hw_a.writes.clear();
  w.hw_a.accesses.clear();
  const std::string reached = w.reached(a0, kBase);
  w.freeze_device(kDevice);
  EXPECT_TRUE(w.hw_a.writes.empty());
  m.memory.release();
  w.jump_vfio(kContext);

  EXPECT_EQ(error_of(w.vfio->open(0)), Errno::Ebusy) << "it waits for its session";
  EXPECT_EQ(error_of(w.vfio->open_group(w.group_id(a0))), Errno::Ebusy) << "nor is it for whoever has its group";
  EXPECT_TRUE(w.vfio->open(1));
  EXPECT_FALSE(w.can_finish_device(-1, kDevice, 0));
  fd = *w.retrieve_device(kDevice);
  EXPECT_EQ(error_of(w.vfio->open(0)), Errno::Ebusy);
  EXPECT_FALSE(w.can_finish_device(fd, kDevice, 1)) << "not bound";

  // To the one iommufd that it was preserved with, and to no other.
  const s32 stranger = w.open();
  EXPECT_EQ(error_of(w.bind_device(fd, stranger)), Errno::Eperm);
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::HeldForSession);
  iommufd = *w.retrieve(kContext);
  uapi::VfioBindIommufd cmd{};
  cmd.argsz = sizeof(cmd);
  cmd.iommufd = iommufd;
  const UserAddr unwritable = w.task.put(cmd);
  w.task.set_writable(unwritable, false);
  EXPECT_EQ(error_of(w.task.files.at(fd)->ioctl(w.task, uapi::kVfioDeviceBindIommufd, unwritable)), Errno::Efault);
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::HeldForSession) << "a failed bind leaves it held";
  dev_id = *w.bind_device(fd, iommufd);
  EXPECT_TRUE(w.can_finish_device(fd, kDevice, 1));
  EXPECT_EQ(error_of(w.vfio->open(0)), Errno::Ebusy) << "not before the session is finished";
  EXPECT_EQ(error_of(w.vfio->open_group(w.group_id(a0))), Errno::Ebusy);
  EXPECT_EQ(w.reached(a0, kBase), reached);
  EXPECT_TRUE(w.hw_a.writes.empty()) << std::hex << w.hw_a.writes.front().offset;
  EXPECT_TRUE(w.hw_a.accesses.empty()) << w.hw_a.accesses.front();
  EXPECT_EQ(w.hw_a.config, config);
  EXPECT_EQ(w.hw_a.bar2_memory, bar2);
  EXPECT_EQ(w.hw_a.resets, resets);

  // The program finds what it had: the sizes nobody asked the device for, and (version 2) its own view.
  uapi::VfioRegionInfo info{};
  info.argsz = 32;
  info.index = 0;
  ASSERT_TRUE(w.call(fd, uapi::kVfioDeviceGetRegionInfo, info));
  EXPECT_EQ(info.size, FakeFunction::kBar0Bytes);
  EXPECT_EQ(w.config_read<u32>(fd, 0x18), GetParam() >= 2 ? 0x77000000u : 0xd0000000u);
  EXPECT_EQ(w.config_read<u8>(fd, 0x3c), GetParam() >= 2 ? 0x55 : 0x0b);
  EXPECT_EQ(w.config_read<u16>(fd, 0x04) & 0x0406, GetParam() >= 2 ? 0x0406 : 0x0006);
  EXPECT_TRUE(w.write<u32>(fd, 0, 0x10, 1));

  // Interrupts are the program's to connect again; what came before is signalled once, and still nothing is written.
  w.hw_a.accesses.clear();
  w.hw_a.writes.clear();
  w.send_msix(w.hw_a, 0);
  w.send_msix(w.hw_a, 0);
  const auto again = w.event();
  const auto other = w.event();
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsi, 0, 1, {again.fd})), Errno::Einval);
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 0, 1, {again.fd}));
  EXPECT_EQ(again.host->count, 1u);
  w.send_msix(w.hw_a, 0);
  EXPECT_EQ(again.host->count, 2u);
  w.send_msix(w.hw_a, 3);
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 3, 1, {other.fd}));
  EXPECT_EQ(other.host->count, 1u);
  EXPECT_EQ(again.host->count, 2u);
  EXPECT_TRUE(w.hw_a.writes.empty());
  EXPECT_TRUE(w.hw_a.accesses.empty()) << w.hw_a.accesses.front();
  // One that was masked is programmed like any other.
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 5, 1, {other.fd}));
  w.send_msix(w.hw_a, 5);
  EXPECT_EQ(other.host->count, 2u);
  EXPECT_EQ(w.blocked, 0u);

  ASSERT_TRUE(w.restore(iommufd, kHwpt));
  ASSERT_TRUE(w.can_finish(iommufd, kContext));
  w.finish_device(fd, kDevice);
  w.finish(iommufd, kContext);
  w.iommu.live->finish(0);
  EXPECT_TRUE(w.vfio->open(0)) << "like any other device now";
  // And is put to rest like any other.
  w.session->files.clear();
  w.task.close(fd);
  EXPECT_EQ(w.hw_a.resets, resets + 1);
  EXPECT_EQ(w.reached(a0, kBase), "blocked");
}

// Linux's rule, where nobody could tell the vectors in the next kernel's early boot.
TEST_P(VfioLiveUpdateTest, InterruptsThatAreNotRemappedMustBeOff) {
  set_up(false);
  preserve_all();
  luo::FileState state = w.vfio_state(kDevice, w.task.files.at(fd).get());
  EXPECT_EQ(error_of(w.vfio_handler->freeze(state)), Errno::Einval);
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionTrigger, kMsix, 0, 0));
  EXPECT_TRUE(w.vfio_handler->freeze(state));
  EXPECT_EQ(record().irq_mode, static_cast<u32>(abi::VfioPciIrqMode::None));
  w.unpreserve_device(fd, kDevice);
  w.unpreserve(iommufd, kContext);
}

TEST_P(VfioLiveUpdateTest, SeveralMsiVectorsAreCarried) {
  set_up();
  ASSERT_TRUE(w.set_irqs(fd, kDataNone | kActionTrigger, kMsix, 0, 0));
  const auto three = w.event();
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsi, 0, 3, {event.fd, event.fd, three.fd}));
  preserve_all();
  const u16 control = w.hw_a.get<u16>(0x52);
  EXPECT_EQ(control & 0x71, 0x21) << "on, four vectors";
  w.hw_a.writes.clear();
  jump();
  EXPECT_EQ(record().irq_vectors, 3u);
  EXPECT_EQ(record().irq_usable, 3u);
  EXPECT_EQ(record().irte_count, 4u);
  fd = *w.retrieve_device(kDevice);
  iommufd = *w.retrieve(kContext);
  ASSERT_TRUE(w.bind_device(fd, iommufd));
  EXPECT_EQ(w.config_read<u16>(fd, 0x52) & 1, 1) << "the program sees that it is on";
  w.send_msi(w.hw_a, 2);
  const auto again = w.event();
  EXPECT_EQ(error_of(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsi, 0, 4, {-1, -1, -1, again.fd})), Errno::Einval)
      << "three were asked for";
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsi, 0, 3, {-1, -1, again.fd}));
  EXPECT_EQ(again.host->count, 1u);
  w.send_msi(w.hw_a, 2);
  EXPECT_EQ(again.host->count, 2u);
  EXPECT_TRUE(w.hw_a.writes.empty());
  EXPECT_EQ(w.hw_a.get<u16>(0x52), control);
}

TEST_P(VfioLiveUpdateTest, AFailedBindLeavesItsInterruptsToTheNext) {
  set_up();
  preserve_all();
  jump();
  fd = *w.retrieve_device(kDevice);
  iommufd = *w.retrieve(kContext);
  uapi::VfioBindIommufd cmd{};
  cmd.argsz = sizeof(cmd);
  cmd.iommufd = iommufd;
  const UserAddr unwritable = w.task.put(cmd);
  w.task.set_writable(unwritable, false);
  EXPECT_EQ(error_of(w.task.files.at(fd)->ioctl(w.task, uapi::kVfioDeviceBindIommufd, unwritable)), Errno::Efault);
  EXPECT_EQ(w.iommu.hw_a.interrupts.calls["give back"], 8u);
  w.send_msix(w.hw_a, 3);
  ASSERT_TRUE(w.bind_device(fd, iommufd));
  const auto again = w.event();
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 3, 1, {again.fd}));
  EXPECT_EQ(again.host->count, 1u);
}

TEST_P(VfioLiveUpdateTest, InterruptsNobodyAskedForWaitUntilTheDeviceIsClosed) {
  set_up();
  preserve_all();
  jump();
  fd = *w.retrieve_device(kDevice);
  iommufd = *w.retrieve(kContext);
  ASSERT_TRUE(w.bind_device(fd, iommufd));
  ASSERT_TRUE(w.restore(iommufd, kHwpt));
  w.hw_a.writes.clear();
  w.finish_device(fd, kDevice);
  w.finish(iommufd, kContext);
  w.iommu.live->finish(0);
  EXPECT_TRUE(w.hw_a.writes.empty()) << "the session's end changes nothing at the device";
  w.send_msix(w.hw_a, 3);
  const auto late = w.event();
  ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 3, 1, {late.fd}));
  EXPECT_EQ(late.host->count, 1u);
  // Off at the device, then its entries, then the vectors.
  w.session->files.clear();
  w.task.close(fd);
  EXPECT_EQ(w.hw_a.get<u16>(0x72) & 0x8000, 0);
  EXPECT_TRUE(w.iommu.hw_a.interrupts.entries.empty());
  EXPECT_TRUE(w.irqs.empty());
}

TEST_P(VfioLiveUpdateTest, RefusedEntriesCostTheInterruptsAlone) {
  set_up();
  preserve_all();
  w.freeze_device(kDevice);
  m.memory.release();
  w.iommu.hw_a.interrupts.entries.clear();
  w.jump_vfio(kContext);
  fd = *w.retrieve_device(kDevice);
  iommufd = *w.retrieve(kContext);
  w.hw_a.writes.clear();
  ASSERT_TRUE(w.bind_device(fd, iommufd));
  EXPECT_TRUE(w.hw_a.writes.empty());
  w.send_msix(w.hw_a, 3);
  EXPECT_EQ(w.blocked, 1u);
}

TEST_P(VfioLiveUpdateTest, ReplacedThroughTheUserApi) {
  set_up();
  preserve_all();
  const auto entry = w.iommu.hw_a.entries.at(a0);
  const std::string reached = w.reached(a0, kBase + kMiB);
  jump();
  iommufd = *w.retrieve(kContext);
  fd = *w.retrieve_device(kDevice);
  dev_id = *w.bind_device(fd, iommufd);
  const u32 restored = *w.restore(iommufd, kHwpt);
  const Ref<File> memory = w.session->files.at(kMemfd);
  const s32 memfd = w.task.add(memory);
  ioas = w.ioas(iommufd);
  EXPECT_EQ(error_of(w.attach(fd, ioas)), Errno::Einval) << "nothing is mapped there yet";
  ASSERT_TRUE(w.map_file(iommufd, ioas, memfd, 0, 4 * kMiB, kBase));
  hwpt = *w.attach(fd, ioas);
  EXPECT_EQ(w.reached(a0, kBase + kMiB), reached);
  EXPECT_EQ(w.iommu.hw_a.entries.at(a0), entry);
  EXPECT_TRUE(w.destroy(iommufd, restored));
  EXPECT_TRUE(w.can_finish(iommufd, kContext));
  EXPECT_TRUE(w.can_finish_device(fd, kDevice, 1));
}

TEST_P(VfioLiveUpdateTest, EveryBitOfTheRecordMatters) {
  set_up();
  preserve_all();
  jump();
  const u32 bytes = abi::vfio_pci_schema(GetParam()).size;
  luo::FileState state = w.vfio_state(kDevice);
  for (u64 bit = 0; bit < u64{bytes} * 8; ++bit) {
    std::byte& at = *w.machine().virt(Phys(w.vfio_record + bit / 8));
    at ^= std::byte(1 << bit % 8);
    ASSERT_EQ(error_of(w.vfio_handler->retrieve(state)), Errno::Eproto) << bit;
    at ^= std::byte(1 << bit % 8);
  }
  for (const u64 elsewhere : {u64{0}, w.vfio_record + 8, u64{64} << 20, ~u64{0xfff}}) {
    luo::FileState lost = state;
    lost.data = elsewhere;
    EXPECT_EQ(error_of(w.vfio_handler->retrieve(lost)), Errno::Eproto) << elsewhere;
    lost.retrieve_status = -static_cast<int>(Errno::Eproto);
    EXPECT_TRUE(w.vfio_handler->can_finish(lost)) << "the device is stopped when its iommufd is finished";
    EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::HeldForSession) << "and not before";
  }
  EXPECT_TRUE(w.hw_a.writes.empty());
  EXPECT_TRUE(w.retrieve_device(kDevice));
}

TEST_P(VfioLiveUpdateTest, TheDeviceMustBeTheOneThatWasRecorded) {
  set_up();
  preserve_all();
  jump();
  luo::FileState state = w.vfio_state(kDevice);
  const auto with = [&](auto change) {
    const abi::VfioPciRecord good = record();
    change(record());
    reseal();
    const Errno error = error_of(w.vfio_handler->retrieve(state));
    record() = good;
    return error;
  };
  EXPECT_EQ(with([](auto& r) { r.bdf = 0x0300; }), Errno::Enodev);
  EXPECT_EQ(with([](auto& r) { r.segment = 1; }), Errno::Enodev);
  EXPECT_EQ(with([](auto& r) { r.ids ^= 1; }), Errno::Eproto);
  EXPECT_EQ(with([](auto& r) { r.bar_address[2] += 0x1000; }), Errno::Eproto);
  EXPECT_EQ(with([](auto& r) { r.bar_size[2] = 0x1800; }), Errno::Eproto);
  EXPECT_EQ(with([](auto& r) { r.generation++; }), Errno::Eproto);
  EXPECT_EQ(with([](auto& r) { r.irte_count = 0; }), Errno::Eproto);
  EXPECT_EQ(with([](auto& r) { r.irq_mode = 0; }), Errno::Eproto);
  EXPECT_EQ(with([](auto& r) { r.irte_first = 65529; }), Errno::Eproto);
  EXPECT_EQ(with([](auto& r) { r.irq_vectors = 9; }), Errno::Eproto);
  EXPECT_EQ(with([](auto& r) { r.irq_usable = 1; }), Errno::Eproto) << "of MSI";
  EXPECT_EQ(with([](auto& r) { r.irq_mode = 1; }), Errno::Eproto) << "nobody asked for a vector";
  EXPECT_EQ(with([](auto& r) { r.bdf = IommufdWorld::b0.bdf; }), Errno::Eio) << "not held: nobody preserved it";
  EXPECT_EQ(with([](auto& r) { r.iommufd_token++; }), Errno{}) << "shows when it is bound";
  record().iommufd_token++;
  reseal();
  fd = *w.retrieve_device(kDevice);
  iommufd = *w.retrieve(kContext);
  EXPECT_EQ(error_of(w.bind_device(fd, iommufd)), Errno::Eperm);
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::HeldForSession);
}

TEST_P(VfioLiveUpdateTest, AQuarantinedDeviceCanBeFinishedWithoutIt) {
  set_up();
  preserve_all();
  jump();
  w.iommu.iommu->quarantine(w.iommu.device(a0), "test");
  luo::FileState state = w.vfio_state(kDevice);
  EXPECT_EQ(error_of(w.vfio_handler->retrieve(state)), Errno::Eio);
  EXPECT_TRUE(w.can_finish_device(-1, kDevice, -static_cast<int>(Errno::Eio)));
  w.finish_device(-1, kDevice);
  EXPECT_EQ(error_of(w.vfio_handler->retrieve(state)), Errno::Eproto) << "the record is gone";
  iommufd = *w.retrieve(kContext);
  // Its translation is whole, only nobody runs on it any more.
  EXPECT_FALSE(w.can_finish(iommufd, kContext));
  const u32 restored = *w.restore(iommufd, kHwpt);
  EXPECT_TRUE(w.can_finish(iommufd, kContext));
  EXPECT_TRUE(w.destroy(iommufd, restored));
  // The way out is a reset, which binding it again makes, with nothing attached all the time.
  const unsigned resets = w.hw_a.resets;
  fd = w.open_device();
  EXPECT_EQ(w.reached(a0, kBase), "blocked");
  ASSERT_TRUE(w.bind_device(fd, iommufd));
  EXPECT_GT(w.hw_a.resets, resets);
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::Owned);
  EXPECT_EQ(w.reached(a0, kBase), "blocked");
  // What cannot be reset stays where it is.
  w.task.close(fd);
  w.iommu.iommu->quarantine(w.iommu.device(a0), "test");
  w.hw_a.set<u32>(0x84, 0x8000);
  fd = w.open_device();
  EXPECT_EQ(error_of(w.bind_device(fd, iommufd)), Errno::Eio);
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::Quarantined);
}

// Somebody may use it again before its former session was asked for.
TEST_P(VfioLiveUpdateTest, ADeviceThatLeftQuarantineDoesNotKeepItsFormerSessionOpen) {
  set_up();
  preserve_all();
  jump();
  w.iommu.iommu->quarantine(w.iommu.device(a0), "test");
  fd = w.open_device();
  const s32 stranger = w.open();
  ASSERT_TRUE(w.bind_device(fd, stranger));
  EXPECT_EQ(w.reached(a0, kBase), "blocked") << "of its former tables it has nothing";
  EXPECT_TRUE(w.iommu.hw_a.interrupts.entries.empty()) << "nor of its interrupt entries and their vectors";
  luo::FileState state = w.vfio_state(kDevice);
  const Errno refused = error_of(w.vfio_handler->retrieve(state));
  EXPECT_EQ(refused, Errno::Ebusy);
  EXPECT_TRUE(w.can_finish_device(-1, kDevice, -static_cast<int>(refused)));
  w.finish_device(-1, kDevice);
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::Owned) << "and its new owner keeps it";
}

// The record of the device says nothing, so nobody can take it over: its neighbours do not wait for it, and when their
// session ends it is stopped.
TEST_P(VfioLiveUpdateTest, ADeviceWhoseRecordIsLostIsStoppedWhenItsSessionEnds) {
  set_up();
  preserve_all();
  jump();
  record().version = 99;
  luo::FileState state = w.vfio_state(kDevice);
  EXPECT_EQ(error_of(w.vfio_handler->retrieve(state)), Errno::Eproto);
  EXPECT_TRUE(w.can_finish_device(-1, kDevice, -static_cast<int>(Errno::Eproto)));
  iommufd = *w.retrieve(kContext);
  ASSERT_TRUE(w.restore(iommufd, kHwpt));
  EXPECT_TRUE(w.can_finish(iommufd, kContext));
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::HeldForSession) << "it works on until then";
  w.finish_device(-1, kDevice);
  w.finish(iommufd, kContext);
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::Quarantined);
  EXPECT_EQ(w.reached(a0, kBase), "blocked");
}

// Hardware's entry is not what the record says: the next kernel trusts neither.
TEST_P(VfioLiveUpdateTest, ATranslationThatWasNotRestoredDoesNotKeepTheSessionOpen) {
  set_up();
  preserve_all();
  w.iommu.hw_a.entries.at(a0).top += kPageSize;
  jump();
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::Quarantined);
  iommufd = *w.retrieve(kContext);
  EXPECT_EQ(error_of(w.restore(iommufd, kHwpt)), Errno::Eio);
  EXPECT_TRUE(w.can_finish(iommufd, kContext)) << "there is nothing left to take over";
  EXPECT_TRUE(w.can_finish_device(-1, kDevice, -static_cast<int>(Errno::Eio)));
}

TEST_P(VfioLiveUpdateTest, WhatWasNeverRetrievedIsHandedOn) {
  set_up();
  preserve_all();
  jump();
  w.iommu.begin();
  luo::FileState context = w.state(kContext);
  luo::FileState state = w.vfio_state(kDevice);
  const u64 outgoing_context = *w.handler->forward(context);
  for (u64 n = 1;; ++n) {
    const Result<u64> outgoing = w.machine().counting.failing(n, [&] { return w.vfio_handler->forward(state); });
    if (outgoing) {
      w.vfio_handler->unforward(state, *outgoing);
      break;
    }
    ASSERT_FALSE(w.iommu.device(a0).preserved());
    ASSERT_LT(n, 100u);
  }
  const u64 outgoing = *w.vfio_handler->forward(state);
  EXPECT_TRUE(w.iommu.device(a0).preserved());
  // On its way already: it cannot be taken over here any more, nor go away.
  EXPECT_EQ(error_of(w.iommu.group(a0).claim_held(w.iommu.owner(), IommufdWorld::kGeneration, kContext)), Errno::Ebusy);
  EXPECT_EQ(error_of(w.iommu.iommu->remove_device(w.iommu.device(a0))), Errno::Ebusy);
  const auto& handed_on = *w.machine().virt<abi::VfioPciRecord>(Phys(outgoing));
  EXPECT_EQ(handed_on.generation, w.session->next_generation());
  EXPECT_EQ(handed_on.iommufd_token, kContext);
  EXPECT_EQ(handed_on.command, 6u);
  EXPECT_EQ(handed_on.irq_vectors, 2u);
  EXPECT_TRUE(w.hw_a.writes.empty());
  w.vfio_handler->unforward(state, outgoing);
  w.handler->unforward(context, outgoing_context);
  EXPECT_FALSE(w.iommu.device(a0).preserved());
  EXPECT_EQ(w.iommu.group(a0).ownership(), Ownership::HeldForSession);
}

}  // namespace
}  // namespace perdure::testing
