// What processes do to descriptors, mappings and memory behind a kernel's back, and what Linux makes of it.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <set>
#include <thread>

#include "client/live_update.h"
#include "client/memfd.h"
#include "core/uapi/iommufd.h"
#include "core/uapi/vfio.h"
#include "tests/uapi/dma_device.h"
#include "tests/uapi/process.h"

namespace perdure::uapi_test {
namespace {

using client::Iommufd;
using client::LiveUpdate;
using client::Mapping;
using client::Memfd;
using client::Region;
using client::Session;
using client::VfioDevice;

constexpr u64 kBytes = u64{1} << 20;
constexpr u64 kIova = u64{1} << 32;

// The first device can be bound to a new context: nobody has it.
void expect_free(Case& t) {
  const Iommufd context = MUST(Iommufd::open(t.sys));
  const VfioDevice device = MUST(VfioDevice::open(t.sys, t.devices()[0]));
  CHECK_OK(device.bind(context));
}
void expect_taken(Case& t) {
  const Iommufd context = MUST(Iommufd::open(t.sys));
  const VfioDevice device = MUST(VfioDevice::open(t.sys, t.devices()[0]));
  CHECK_ERRNO(device.bind(context), Errno::Einval);
}
// Skips where there is nothing to test on, before a child is made for it.
void need_device(Case& t) {
  t.open("/dev/iommu").reset();
  t.open(t.devices()[0]).reset();
}

// --- killed
// -------------------------------------------------------------------------------------------------------------

// Its device is given back and reset, whatever it was doing.
UAPI_PROGRAM_TEST("5 killed", ItsDeviceIsFreeAtOnce) {
  need_device(t);
  Child child(t, [&](Child& self) {
    DmaDevice dma(t);
    const Memfd memory = MUST(Memfd::create(t.sys, "killed", kBytes));
    MUST(dma.context.map_file(dma.ioas, memory.number(), 0, kBytes, kIova));
    dma.start(kIova, kBytes);
    dma.expect_running();
    self.ready();
    Child::wait_for_ever();
  });
  child.wait_until_ready(t);
  expect_taken(t);
  child.kill(t);
  expect_free(t);
  // What it did is not going on.
  DmaDevice after(t);
  CHECK_EQ(after.done(), 0U);
}

UAPI_PROGRAM_TEST("5 killed", WithManyThreadsInCalls) {
  t.open("/dev/iommu").reset();
  Child child(t, [&](Child& self) {
    const Iommufd context = MUST(Iommufd::open(t.sys));
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        for (;;) {
          if (const auto ioas = context.ioas_alloc()) (void)context.destroy(*ioas);
        }
      });
    }
    self.ready();
    Child::wait_for_ever();
  });
  child.wait_until_ready(t);
  for (int i = 0; i < 20; ++i) t.sys.pause();  // in the middle of something
  child.kill(t);
  const Iommufd context = MUST(Iommufd::open(t.sys));
  CHECK_EQ(MUST(context.ioas_alloc()), 1U);
}

// --- fork
// -------------------------------------------------------------------------------------------------------------

UAPI_PROGRAM_TEST("5 fork", AContextIsOneInBothProcesses) {
  t.open("/dev/iommu").reset();
  Iommufd context = MUST(Iommufd::open(t.sys));
  CHECK_EQ(MUST(context.ioas_alloc()), 1U);
  Child child(t, [&](Child& self) {
    CHECK_EQ(MUST(context.ioas_alloc()), 2U);
    self.ready();
    self.wait_for_parent();
    CHECK_OK(context.destroy(3));  // the parent's
    CHECK_OK(context.destroy(2));
  });
  child.wait_until_ready(t);
  CHECK_EQ(MUST(context.ioas_alloc()), 3U);
  child.go_on();
  child.expect_success(t);
  CHECK_ERRNO(context.destroy(2), Errno::Enoent);
  CHECK_OK(context.destroy(1));
}

// The child's close is not the last one, nor is its death.
UAPI_PROGRAM_TEST("5 fork", ADeviceOutlivesTheChild) {
  need_device(t);
  DmaDevice dma(t);
  const Memfd memory = MUST(Memfd::create(t.sys, "forked", kBytes));
  MUST(dma.context.map_file(dma.ioas, memory.number(), 0, kBytes, kIova));
  dma.start(kIova, kBytes);
  for (const bool killed : {false, true}) {
    Child child(t, [&](Child& self) {
      self.ready();
      if (killed) Child::wait_for_ever();
      dma.device = {};
      dma.context = {};
    });
    child.wait_until_ready(t);
    if (killed) {
      child.kill(t);
    } else {
      child.expect_success(t);
    }
    dma.expect_running();
  }
}

// The other way round: the child has the last descriptor.
UAPI_PROGRAM_TEST("5 fork", ADeviceOutlivesTheParentsDescriptors) {
  need_device(t);
  DmaDevice dma(t);
  const Memfd memory = MUST(Memfd::create(t.sys, "forked", kBytes));
  MUST(dma.context.map_file(dma.ioas, memory.number(), 0, kBytes, kIova));
  dma.start(kIova, kBytes);
  Child child(t, [&](Child& self) {
    self.ready();
    self.wait_for_parent();
    dma.expect_running();
  });
  child.wait_until_ready(t);
  dma.device = {};
  dma.context = {};
  expect_taken(t);
  child.go_on();
  child.expect_success(t);
  expect_free(t);
}

// Memory is the mapper's: what the parent's addresses mean in the parent does not matter to a child's call.
UAPI_PROGRAM_TEST("5 fork", AMappingIsOfTheCallersMemory) {
  need_device(t);
  DmaDevice dma(t);
  const Fd file(t.sys, MUST(t.sys.memfd_create("everybody's")));
  REQUIRE(ftruncate(file.number(), kBytes) == 0);
  auto* const memory = static_cast<u64*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.number(), 0));
  REQUIRE(memory != MAP_FAILED);
  Child child(t, [&](Child&) {
    // At this address only the child has memory.
    void* const own = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(own != MAP_FAILED);
    MUST(dma.context.map(dma.ioas, own, kBytes, kIova));
    MUST(dma.context.unmap(dma.ioas, kIova, kBytes));
    REQUIRE(munmap(own, kBytes) == 0);
    CHECK_ERRNO(dma.context.map(dma.ioas, own, kBytes, kIova), Errno::Efault);
    // This is everybody's; it stays mapped when the child is gone.
    MUST(dma.context.map(dma.ioas, memory, kBytes, kIova));
  });
  child.expect_success(t);
  dma.start(kIova, kBytes);
  dma.expect_running(2 * kBytes / 64);
  CHECK(memory[0] != 0);
  munmap(memory, kBytes);
}

// --- descriptors over sockets
// ---------------------------------------------------------------------------------------------

UAPI_PROGRAM_TEST("5 socket", AContextArrivesWithEverythingInIt) {
  t.open("/dev/iommu").reset();
  const Channel channel(t);
  Child child(t, [&](Child&) {
    const Iommufd context(channel.receive(t));
    CHECK_OK(context.destroy(1));
    CHECK_EQ(MUST(context.ioas_alloc()), 1U);
  });
  {
    // Made after the fork: the socket is the only way.
    const Iommufd context = MUST(Iommufd::open(t.sys));
    CHECK_EQ(MUST(context.ioas_alloc()), 1U);
    channel.send(t, context.number());
  }
  child.expect_success(t);
}

UAPI_PROGRAM_TEST("5 socket", ADeviceOnItsWayIsHeld) {
  need_device(t);
  const Channel channel(t);
  {
    DmaDevice dma(t);
    channel.send(t, dma.device.number());
  }
  expect_taken(t);
  {
    const VfioDevice device(channel.receive(t));
    CHECK_EQ(MUST(device.ids()) & 0xFFFF, 0x1234U);
    expect_taken(t);
  }
  expect_free(t);
}

// --- a mapped BAR
// -----------------------------------------------------------------------------------------------------------

std::optional<Region> mappable(Case& t, const VfioDevice& device) {
  for (u32 i = 0; i < uapi::vfio_region::kRom; ++i) {
    const Region region = MUST(device.region(i));
    if ((region.flags & uapi::vfio_region::kMmap) != 0) return region;
  }
  return std::nullopt;
}

// A mapping holds its file: the device is bound until it goes.
UAPI_PROGRAM_TEST("5 BAR", AMappingOutlivesItsDescriptor) {
  need_device(t);
  Iommufd context = MUST(Iommufd::open(t.sys));
  for (const std::string& path : t.devices()) {
    VfioDevice device = MUST(VfioDevice::open(t.sys, path));
    MUST(device.bind(context));
    const auto region = mappable(t, device);
    if (!region) continue;
    MUST(device.set_bus_master(true));  // memory decode, too
    {
      const Mapping bar = MUST(device.map(*region));
      const u32 before = *bar.at<volatile u32>();
      device = {};
      CHECK_EQ(*bar.at<volatile u32>(), before);
      const Iommufd other = MUST(Iommufd::open(t.sys));
      const VfioDevice again = MUST(VfioDevice::open(t.sys, path));
      CHECK_ERRNO(again.bind(other), Errno::Einval);
    }
    const Iommufd other = MUST(Iommufd::open(t.sys));
    const VfioDevice again = MUST(VfioDevice::open(t.sys, path));
    CHECK_OK(again.bind(other));
    return;
  }
  Case::skip("no device has a BAR that can be mapped");
}

// --- many threads
// -------------------------------------------------------------------------------------------------------------

UAPI_PROGRAM_TEST("5 threads", AllAtWorkInOneContext) {
  t.open("/dev/iommu").reset();
  const Iommufd context = MUST(Iommufd::open(t.sys));
  constexpr unsigned kThreads = 8, kRounds = 200;
  std::atomic<unsigned> failures = 0;
  std::vector<std::set<u32>> kept(kThreads);
  {
    std::vector<std::jthread> threads;
    for (unsigned n = 0; n < kThreads; ++n) {
      threads.emplace_back([&, n] {
        for (unsigned i = 0; i < kRounds; ++i) {
          const auto a = context.ioas_alloc(), b = context.ioas_alloc();
          if (!a || !b || !context.destroy(*a)) ++failures;
          if (b && (i % 10 == 0)) {
            kept[n].insert(*b);
          } else if (b && !context.destroy(*b)) {
            ++failures;
          }
        }
      });
    }
  }
  CHECK_EQ(failures.load(), 0U);
  std::set<u32> all;
  for (const auto& some : kept) all.insert(some.begin(), some.end());
  CHECK_EQ(all.size(), usize{kThreads * kRounds / 10});  // no number twice
  for (const u32 id : all) CHECK_OK(context.destroy(id));
}

UAPI_PROGRAM_TEST("5 threads", SessionsOfManyThreads) {
  t.open("/dev/liveupdate").reset();
  const LiveUpdate updates = MUST(LiveUpdate::open(t.sys));
  constexpr unsigned kThreads = 8, kRounds = 100;
  std::atomic<unsigned> failures = 0, refused = 0;
  {
    std::vector<std::jthread> threads;
    for (unsigned n = 0; n < kThreads; ++n) {
      threads.emplace_back([&, n] {
        for (unsigned i = 0; i < kRounds; ++i) {
          const auto memory = Memfd::create(t.sys, "thread", 4096);
          const auto session = updates.create_session(t.name(std::to_string(n)));
          if (!memory || !session || !session->preserve(memory->number(), i)) ++failures;
          if (auto twice = updates.create_session(t.name(std::to_string(n))); !twice && twice.error() == Errno::Eexist)
            ++refused;
        }
      });
    }
  }
  CHECK_EQ(failures.load(), 0U);
  CHECK_EQ(refused.load(), kThreads * kRounds);
}

// Close in one thread, calls in others: either the call was in time or the descriptor is bad, and nothing else.
UAPI_PROGRAM_TEST("5 threads", CallsOnADescriptorThatGoes) {
  t.open("/dev/iommu").reset();
  for (unsigned round = 0; round < 20; ++round) {
    Iommufd context = MUST(Iommufd::open(t.sys));
    const s32 number = context.number();
    std::atomic<unsigned> wrong = 0;
    std::atomic<bool> go = false;
    std::vector<std::jthread> threads;
    for (unsigned n = 0; n < 4; ++n) {
      threads.emplace_back([&] {
        go.wait(false);
        for (unsigned i = 0; i < 100; ++i) {
          uapi::IommuIoasAlloc call{.size = sizeof call, .flags = 0, .out_ioas_id = 0};
          const auto r = t.sys.ioctl(number, uapi::kIommuIoasAlloc, &call);
          if (!r && r.error() != Errno::Ebadf) ++wrong;
        }
      });
    }
    go = true;
    go.notify_all();
    t.sys.pause();
    context = {};
    threads.clear();
    CHECK_EQ(wrong.load(), 0U);
  }
}

// --- memory that changes under its mapping
// ----------------------------------------------------------------------------------

// Linux pinned the pages when they were mapped: the device goes on with them, whatever the file has become.
UAPI_PROGRAM_TEST("5 memfd", TruncatedUnderADevice) {
  need_device(t);
  DmaDevice dma(t);
  const Memfd memory = MUST(Memfd::create(t.sys, "truncated", kBytes, 0));
  MUST(dma.context.map_file(dma.ioas, memory.number(), 0, kBytes, kIova));
  dma.start(kIova, kBytes);
  dma.expect_running();
  MUST(t.sys.ftruncate(memory.number(), 0));
  dma.expect_running();
  // What is not there any more cannot be mapped anew.
  CHECK_ERRNO(dma.context.map_file(dma.ioas, memory.number(), 0, kBytes, 2 * kIova), Errno::Einval);
  MUST(t.sys.ftruncate(memory.number(), kBytes));
  dma.expect_running();
  CHECK_EQ(MUST(dma.context.unmap(dma.ioas, kIova, kBytes)), kBytes);
}

UAPI_PROGRAM_TEST("5 memfd", AHolePunchedUnderADevice) {
  need_device(t);
  DmaDevice dma(t);
  const Memfd memory = MUST(Memfd::create(t.sys, "punched", kBytes, 0));
  MUST(dma.context.map_file(dma.ioas, memory.number(), 0, kBytes, kIova));
  dma.start(kIova, kBytes);
  dma.expect_running();
  REQUIRE(fallocate(memory.number(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBytes / 2) == 0);
  dma.expect_running();
  dma.stop();
  CHECK_EQ(MUST(dma.context.unmap(dma.ioas, kIova, kBytes)), kBytes);
  // And this is the file as it is now.
  MUST(dma.context.map_file(dma.ioas, memory.number(), 0, kBytes, kIova));
  dma.start(kIova, kBytes);
  dma.expect_running(2 * kBytes / 64);
  const Mapping mapped = MUST(memory.map(0, kBytes));
  CHECK(*mapped.at<u64>(0) != 0);
}

// The mapping refers to the pages, not to the address (uapi.md 2.4).
UAPI_PROGRAM_TEST("5 memfd", UnmappedByTheProgramUnderADevice) {
  need_device(t);
  DmaDevice dma(t);
  const Memfd memory = MUST(Memfd::create(t.sys, "unmapped", kBytes));
  {
    const Mapping mapped = MUST(memory.map(0, kBytes));
    MUST(dma.context.map(dma.ioas, mapped.at(), kBytes, kIova));
  }
  dma.start(kIova, kBytes);
  dma.expect_running(2 * kBytes / 64);
  const Mapping again = MUST(memory.map(0, kBytes));
  CHECK(*again.at<u64>(0) != 0);
}

}  // namespace
}  // namespace perdure::uapi_test
