// A device that does DMA while a test looks at something else: the streamer of docs/devices.md, with one ring.
#pragma once
#include "client/iommufd.h"
#include "client/vfio_device.h"
#include "tests/uapi/case.h"

namespace perdure::uapi_test {

class DmaDevice {
 public:
  // Bound to a context of its own and attached to an address space with nothing in it. Skips the test where the first
  // device is another one.
  explicit DmaDevice(Case& t) : t_(t) {
    const std::string path = t.devices()[0];
    t.open("/dev/iommu").reset();
    context = MUST(client::Iommufd::open(t.sys));
    device = client::VfioDevice(t.open(path));
    id = MUST(device.bind(context));
    if (MUST(device.ids()) != kIds) Case::skip(path + " is no streamer");
    bar_ = MUST(device.region(0));
    ioas = MUST(context.ioas_alloc());
    hwpt = MUST(device.attach(ioas));
    MUST(device.set_bus_master(true));
  }

  // Writes records all over [iova, iova + bytes) from now on.
  void start(u64 iova, u64 bytes) {
    Case& t = t_;
    for (const auto& [at, value] :
         {std::pair{kBase, iova}, {kLength, bytes}, {kSlots, bytes / 64}, {kRate, u64{50'000}}})
      MUST(device.write(bar_, kRing + at, 8, value));
    MUST(device.write(bar_, kRing + kControl, 8, 1));
  }
  void stop() {
    Case& t = t_;
    MUST(device.write(bar_, kRing + kControl, 8, 0));
  }
  u64 done() { return counter(kDone); }
  u64 refused() { return counter(kFaulted) + counter(kBlocked) + counter(kNoMemory); }
  // Transfers that are made from now on all arrive.
  void expect_running(u64 transfers = 100) {
    Case& t = t_;
    const u64 refused_before = refused(), until = done() + transfers;
    constexpr u64 kPatience = u64{10} * 1'000'000'000;
    for (const u64 give_up = t.sys.now_ns() + kPatience; done() < until && t.sys.now_ns() < give_up;) t.sys.pause();
    CHECK(done() >= until);
    CHECK_EQ(refused(), refused_before);
  }

  client::Iommufd context;
  client::VfioDevice device;
  u32 id = 0, ioas = 0, hwpt = 0;

 private:
  static constexpr u32 kIds = 0x5354'1234;
  static constexpr u64 kDone = 0x40, kFaulted = 0x50, kBlocked = 0x58, kNoMemory = 0x68, kRing = 0x1000;
  static constexpr u64 kControl = 0x00, kBase = 0x10, kLength = 0x18, kSlots = 0x20, kRate = 0x30;
  u64 counter(u64 at) {
    Case& t = t_;
    return MUST(device.read(bar_, at, 8));
  }

  Case& t_;
  client::Region bar_;
};

}  // namespace perdure::uapi_test
