// A small VMM: a guest's memory in a memfd, one device assigned to it, and a live update underneath. The device goes on
// writing into the guest's memory while the kernel is replaced.
//
//   vmm DEVICE          runs the guest; takes it over from the former kernel when it is there
//   vmm DEVICE --stay   the same, then hands the guest over and waits for the update
//
// The same binary runs on a Linux 7.3 with such a device, or under `perdure run`. The guest is a driver for the
// streamer (docs/devices.md), a device that does DMA for ever without help from a CPU.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "client/iommufd.h"
#include "client/libc/libc_syscalls.h"
#include "client/live_update.h"
#include "client/memfd.h"
#include "client/vfio_device.h"

using namespace perdure;
using client::Iommufd;
using client::LiveUpdate;
using client::Mapping;
using client::Memfd;
using client::Region;
using client::Session;
using client::VfioDevice;

namespace {

constexpr u64 kMemory = u64{16} << 20;
// Where the device finds the guest's memory.
constexpr u64 kDma = u64{1} << 32;
// The first page of it is the guest's own, the device has the rest.
constexpr u64 kRing = kPageSize;
constexpr const char* kSession = "vmm-guest";
// What we know things by across the update.
constexpr u64 kMemoryToken = 1, kIommuToken = 2, kDeviceToken = 3, kTableToken = 4;

// What the guest keeps in its first page.
struct GuestState {
  u64 boots;
  u64 kernels;    // that it has lived under
  u64 transfers;  // that it last saw
};

template <class T>
T must(const char* what, Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "vmm: %s: %s\n", what, std::string(errno_name(result.error())).c_str());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// --- the guest's driver
// -------------------------------------------------------------------------------------------------

class Guest {
 public:
  static constexpr u32 kIds = 0x5354'1234;

  Guest(const VfioDevice& device, const Mapping& memory)
      : device_(device), bar_(must("find the registers", device.region(0))), state_(*memory.at<GuestState>()) {}

  void boot() {
    ++state_.boots;
    state_.kernels = 1;
    must("bus master", device_.set_bus_master(true));
    set(kRing0 + kBase, kDma + kRing);
    set(kRing0 + kLength, kMemory - kRing);
    set(kRing0 + kSlots, 1024);
    set(kRing0 + kRate, 100'000);
    set(kRing0 + kControl, 1);
  }
  // Nothing to set up: neither the guest nor its device knows that the kernel is another one.
  void wake() { ++state_.kernels; }

  void look(client::Syscalls& sys) {
    const u64 before = get(kDone);
    for (const u64 until = sys.now_ns() + 100'000'000; sys.now_ns() < until;) sys.pause();
    const u64 done = get(kDone), refused = get(kFaulted) + get(kBlocked);
    std::printf("guest: %llu transfers (%llu since it last looked), %llu refused; kernels so far: %llu\n", number(done),
                number(done - state_.transfers), number(refused), number(state_.kernels));
    if (done == before || refused != 0) {
      std::fprintf(stderr, "vmm: the device is stuck\n");
      std::exit(1);
    }
    state_.transfers = done;
  }
  void shut_down() { set(kRing0 + kControl, 0); }

 private:
  static constexpr u64 kDone = 0x40, kFaulted = 0x50, kBlocked = 0x58, kRing0 = 0x1000;
  static constexpr u64 kControl = 0x00, kBase = 0x10, kLength = 0x18, kSlots = 0x20, kRate = 0x30;
  static unsigned long long number(u64 n) { return n; }

  u64 get(u64 at) const { return must("read a register", device_.read(bar_, at, 8)); }
  void set(u64 at, u64 value) const { must("write a register", device_.write(bar_, at, 8, value)); }

  const VfioDevice& device_;
  Region bar_;
  GuestState& state_;
};

// --- the VMM
// ------------------------------------------------------------------------------------------------------------

class Vmm {
 public:
  Vmm(client::Syscalls& sys, std::string device) : sys_(sys), path_(std::move(device)) {}

  // A guest that is not there yet.
  void start() {
    // Sealed against changes of its size, or it could not be preserved with a device that uses it.
    memory_ = must("create memory", Memfd::create(sys_, "guest-memory", kMemory));
    iommu_ = must("open /dev/iommu", Iommufd::open(sys_));
    device_ = must("open the device", VfioDevice::open(sys_, path_));
    const u32 id = must("bind", device_.bind(iommu_));
    if (must("read the device's ids", device_.ids()) != Guest::kIds) {
      std::fprintf(stderr, "vmm: %s is no streamer, which is all that this guest has a driver for\n", path_.c_str());
      std::exit(1);
    }
    const u32 ioas = must("allocate an address space", iommu_.ioas_alloc());
    must("map the guest's memory", iommu_.map_file(ioas, memory_.number(), 0, kMemory, kDma));
    table_ = must("allocate a page table", iommu_.hwpt_alloc(id, ioas));
    must("attach", device_.attach(table_));
    map();
    guest().boot();
    std::printf("vmm: the guest has booted\n");
  }

  // A guest that a former kernel handed over, running device and all.
  void take_over(Session session) {
    memory_ = Memfd(must("retrieve memory", session.retrieve(kMemoryToken)));
    iommu_ = Iommufd(must("retrieve the iommu context", session.retrieve(kIommuToken)));
    device_ = VfioDevice(must("retrieve the device", session.retrieve(kDeviceToken)));
    must("bind", device_.bind(iommu_));
    // The page table that the device has been using all the time, with the address space that it was made of.
    table_ = must("adopt the page table", iommu_.hwpt_adopt(kTableToken)).hwpt;
    must("finish", session.finish());
    map();
    guest().wake();
    std::printf("vmm: the guest goes on\n");
  }

  void run() { guest().look(sys_); }

  // Everything that must survive goes into a session: first what others refer to.
  Session hand_over() {
    must("mark the page table", iommu_.mark_preserve(table_, kTableToken));
    const LiveUpdate updates = must("open /dev/liveupdate", LiveUpdate::open(sys_));
    Session session = must("create a session", updates.create_session(kSession));
    must("preserve memory", session.preserve(memory_.number(), kMemoryToken));
    must("preserve the iommu context", session.preserve(iommu_.number(), kIommuToken));
    must("preserve the device", session.preserve(device_.number(), kDeviceToken));
    return session;
  }

  void stop() { guest().shut_down(); }

 private:
  void map() { ram_ = must("map the guest's memory here", memory_.map(0, kMemory)); }
  Guest guest() const { return {device_, ram_}; }

  client::Syscalls& sys_;
  std::string path_;
  Memfd memory_;
  Mapping ram_;
  Iommufd iommu_;
  VfioDevice device_;
  u32 table_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const bool stay = argc == 3 && std::strcmp(argv[2], "--stay") == 0;
  if (argc != 2 && !stay) {
    std::fprintf(stderr, "usage: vmm DEVICE [--stay]   (a DEVICE: /dev/vfio/devices/vfio0)\n");
    return 2;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  client::LibcSyscalls sys;
  Vmm vmm(sys, argv[1]);
  {
    const LiveUpdate updates = must("open /dev/liveupdate", LiveUpdate::open(sys));
    auto held = updates.retrieve_session(kSession);
    if (held) {
      vmm.take_over(std::move(*held));
    } else if (held.error() == Errno::Enoent) {
      vmm.start();
    } else {
      must("retrieve the session", std::move(held));
    }
  }
  vmm.run();
  if (!stay) {
    vmm.stop();
    return 0;
  }
  const Session session = vmm.hand_over();
  std::printf("vmm: ready for the update\n");
  for (;;) pause();  // until the kernel goes; closing the session would take everything back
}
