// One device at work with its context, and the steps of an update: what tests of updates begin with.
#pragma once
#include "core/vfio/testing/vfio_world.h"

namespace perdure::testing {

using namespace uapi::vfio_irq;
inline constexpr u64 kMiB = u64{1} << 20;
inline constexpr u64 kMemfd = 11, kContext = 21, kDevice = 41, kHwpt = 31;
inline constexpr u64 kBase = u64{1} << 30;
inline constexpr SourceId a0 = IommufdWorld::a0;

class VfioUpdate : public ::testing::TestWithParam<u32> {
 protected:
  void set_up(bool remapping = true) {
    w.iommu.hw_a.interrupts.there = remapping;
    w.iommu.begin();
    iommufd = w.open();
    fd = w.open_device();
    m = w.memfd(4 * kMiB);
    dev_id = *w.bind_device(fd, iommufd);
    ioas = w.ioas(iommufd);
    ASSERT_TRUE(w.map_file(iommufd, ioas, m.fd, 0, 4 * kMiB, kBase));
    hwpt = *w.hwpt(iommufd, dev_id, ioas);
    ASSERT_TRUE(w.attach(fd, hwpt));
    ASSERT_TRUE(w.mark(iommufd, hwpt, kHwpt));
    // At work: masters the bus, interrupts through vectors 0 and 3.
    w.config_write<u16>(fd, 4, 6);
    event = w.event();
    ASSERT_TRUE(w.set_irqs(fd, kDataEventfd | kActionTrigger, kMsix, 0, 4, {event.fd, -1, -1, event.fd}));
  }
  void preserve_all() {
    w.preserve_memfd(m, kMemfd);
    ASSERT_TRUE(w.preserve(iommufd, kContext));
    ASSERT_TRUE(w.preserve_device(fd, kDevice));
  }
  void jump() {
    w.freeze_device(kDevice);
    m.memory.release();
    w.jump_vfio(kContext);
  }
  // The image page of the device's record.
  abi::VfioPciRecord& record() { return *w.machine().virt<abi::VfioPciRecord>(Phys(w.vfio_record)); }
  void reseal() { vfio::seal_record(w.machine(), Phys(w.vfio_record)); }

  VfioWorld w{GetParam()};
  s32 iommufd = -1, fd = -1;
  u32 dev_id = 0, ioas = 0, hwpt = 0;
  IommufdWorld::Memfd m;
  VfioWorld::Event event;
};

}  // namespace perdure::testing
