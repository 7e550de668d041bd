// One context, one device, one HWPT with two areas, and the steps of an update: what tests of updates begin with.
#pragma once
#include "core/iommufd/testing/iommufd_world.h"

namespace perdure::testing {

inline constexpr u64 kMiB = u64{1} << 20;
inline constexpr u64 kMemfd = 11, kMemfd2 = 12, kContext = 21, kHwpt = 31, kHwpt2 = 32;

inline constexpr SourceId a0 = IommufdWorld::a0, a1 = IommufdWorld::a1;

class IommufdUpdate : public ::testing::TestWithParam<u32> {
 protected:
  IommufdUpdate() { w.config.write_version = GetParam(); }

  // A context with one IOAS, a device attached through a marked HWPT, and 4 MiB mapped at 1 GiB.
  void set_up() {
    w.handler.destroy();
    w.module.destroy();
    w.module.make(w.iommu.kho(), *w.iommu.iommu, *w.iommu.live, w.config);
    w.handler.make(*w.module);
    w.iommu.begin();
    fd = w.open();
    ioas = w.ioas(fd);
    m = w.memfd(4 * kMiB);
    device = w.bind(fd, a0);
    hwpt = *w.hwpt(fd, device->id(), ioas);
    ASSERT_TRUE(w.file(fd).attach(w.task, *device, hwpt));
    ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 0, 3 * kMiB, kBase));
    ASSERT_TRUE(w.map_file(fd, ioas, m.fd, 3 * kMiB, kMiB, kBase + 16 * kMiB, uapi::iommu_map::kReadable | 1));
    ASSERT_TRUE(w.mark(fd, hwpt, kHwpt));
  }
  void preserve_all() {
    w.preserve_memfd(m, kMemfd);
    ASSERT_TRUE(w.preserve(fd, kContext));
    ASSERT_EQ(*w.file(fd).preserve_device(*device, *w.session), kContext);
  }
  void jump() {
    static_cast<void>(device.release());
    m.memory.release();
    w.jump(kContext);
  }
  // After the jump: the context, with the device bound.
  void come_back() {
    const Result<s32> retrieved = w.retrieve(kContext);
    ASSERT_TRUE(retrieved) << w.machine().lines.back();
    fd = *retrieved;
    Result<Ref<iommufd::Device>> bound = w.file(fd).bind_held(w.iommu.device(a0), IommufdWorld::kGeneration, kContext);
    ASSERT_TRUE(bound);
    device = *bound;
  }
  void unbind() {
    w.file(fd).unbind(*device);
    device = nullptr;
  }
  // The new HWPT on a new IOAS with the same areas.
  u32 rebuild() {
    m.memory = Ref<SharedMemory>(file_cast<SharedMemory>(w.session->files.at(kMemfd).get()));
    m.fd = w.task.add(m.memory);
    ioas = w.ioas(fd);
    EXPECT_TRUE(w.map_file(fd, ioas, m.fd, 0, 3 * kMiB, kBase));
    EXPECT_TRUE(w.map_file(fd, ioas, m.fd, 3 * kMiB, kMiB, kBase + 16 * kMiB, uapi::iommu_map::kReadable | 1));
    return *w.hwpt(fd, device->id(), ioas);
  }

  static constexpr u64 kBase = u64{1} << 30;
  IommufdWorld w{GetParam()};
  s32 fd = -1;
  u32 ioas = 0, hwpt = 0;
  IommufdWorld::Memfd m;
  Ref<iommufd::Device> device;
};

}  // namespace perdure::testing
