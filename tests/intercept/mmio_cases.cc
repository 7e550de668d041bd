// Registers of a device in the program's address space: plain loads and stores. The device is a streamer
// (docs/devices.md).
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>

#include "tests/intercept/probe.h"

namespace probe {
namespace {

constexpr unsigned long kGetRegionInfo = 0x3b6c;
constexpr unsigned long kBind = 0x3b76;
constexpr unsigned long kAttach = 0x3b77;
constexpr unsigned long kIoasMapFile = 0x3b8f;
constexpr uint32_t kConfig = 7;
constexpr uint32_t kMemoryBar = 4;
constexpr uint64_t kRing = 0x1000;  // ring 0; ring 1 is 0x100 further
constexpr uint64_t kIova = 0x100000;
constexpr size_t kBytes = 0x10000;

struct Bind {
  uint32_t argsz = sizeof(Bind);
  uint32_t flags = 0;
  int32_t iommufd = -1;
  uint32_t out_devid = 0;
  uint64_t token = 0;
};
struct Attach {
  uint32_t argsz = sizeof(Attach);
  uint32_t flags = 0;
  uint32_t pt_id = 0;
  uint32_t pasid = 0;
};
struct RegionInfo {
  uint32_t argsz = sizeof(RegionInfo);
  uint32_t flags = 0;
  uint32_t index = 0;
  uint32_t cap_offset = 0;
  uint64_t size = 0;
  uint64_t offset = 0;
};
struct MapFile {
  uint32_t size = sizeof(MapFile);
  uint32_t flags = 7;  // at this address, readable, writable
  uint32_t ioas_id = 0;
  int32_t fd = -1;
  uint64_t start = 0;
  uint64_t length = 0;
  uint64_t iova = 0;
};
struct Map {
  uint32_t size = sizeof(Map);
  uint32_t flags = 7;
  uint32_t ioas_id = 0;
  uint32_t reserved = 0;
  uint64_t user_va = 0;
  uint64_t length = 0;
  uint64_t iova = 0;
};

bool bind(int device, int iommufd) {
  Bind bind;
  bind.iommufd = iommufd;
  return ioctl(device, kBind, &bind) == 0;
}

struct Device {
  int iommufd = -1;
  int fd = -1;
  char path[40] = {};
  RegionInfo bar;
  volatile char* base = nullptr;

  RegionInfo region(uint32_t index) const {
    RegionInfo info;
    info.index = index;
    return ioctl(fd, kGetRegionInfo, &info) == 0 ? info : RegionInfo{};
  }
  // The first streamer there is; with memory of its own, where that is wanted.
  bool open_streamer(bool with_memory = false) {
    iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
    for (int n = 0; n < 16; ++n) {
      std::snprintf(path, sizeof path, "/dev/vfio/devices/vfio%d", n);
      fd = open(path, O_RDWR | O_CLOEXEC);
      if (fd < 0) continue;
      uint32_t ids = 0;
      if (bind(fd, iommufd) && pread(fd, &ids, 4, static_cast<off_t>(region(kConfig).offset)) == 4 &&
          ids == 0x53541234 && (!with_memory || region(kMemoryBar).size != 0)) {
        bar = region(0);
        return true;
      }
      close(fd);
    }
    return false;
  }
  bool map() {
    void* at = mmap(nullptr, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(bar.offset));
    if (at == MAP_FAILED) return false;
    base = static_cast<volatile char*>(at);
    return true;
  }
  bool set_memory_decoding(bool on) const {
    const off_t command = static_cast<off_t>(region(kConfig).offset) + 4;
    uint16_t value = 0;
    if (pread(fd, &value, 2, command) != 2) return false;
    value = static_cast<uint16_t>(on ? value | 2 : value & ~2);
    return pwrite(fd, &value, 2, command) == 2;
  }
  template <class T = uint64_t>
  volatile T& at(uint64_t offset) const {
    return *reinterpret_cast<volatile T*>(base + offset);
  }
};

// Loads and stores of several widths, and a ring that they start: what it does is seen in memory and in its registers.
PROBE_CASE(registers) {
  Device d;
  EXPECT(d.open_streamer());
  EXPECT((d.bar.flags & 7) == 7);
  EXPECT(d.map());
  EXPECT(d.at<>(0) == 0x0000'0001'4D52'5453);
  EXPECT(d.at<uint32_t>(0) == 0x4D525453 && d.at<uint32_t>(4) == 1);
  const uint64_t before = d.at<>(0x20);  // its clock
  EXPECT(d.at<>(0x20) > before);
  d.at<uint32_t>(kRing + 0x28) = 0x1234;
  d.at<uint32_t>(kRing + 0x2c) = 0x5678;
  EXPECT(d.at<>(kRing + 0x28) == 0x5678'0000'1234);
  d.at<>(kRing + 0x28) = d.at<>(kRing + 0x28) + 2;
  EXPECT(d.at<>(kRing + 0x28) == 0x5678'0000'1236);

  const int memory = memfd_create("memory", MFD_CLOEXEC);
  EXPECT(ftruncate(memory, kBytes) == 0);
  auto* bytes = static_cast<volatile uint64_t*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0));
  IoasAlloc ioas;
  EXPECT(ioctl(d.iommufd, kIoasAlloc, &ioas) == 0);
  Attach attach;
  attach.pt_id = ioas.out_ioas_id;
  EXPECT(ioctl(d.fd, kAttach, &attach) == 0);
  MapFile map;
  map.ioas_id = ioas.out_ioas_id;
  map.fd = memory;
  map.length = kBytes;
  map.iova = kIova;
  EXPECT(ioctl(d.iommufd, kIoasMapFile, &map) == 0);
  // Not the registers themselves: they are no memory.
  Map registers;
  registers.ioas_id = ioas.out_ioas_id;
  registers.user_va = reinterpret_cast<uint64_t>(const_cast<char*>(d.base));
  registers.length = 0x1000;
  registers.iova = kIova + kBytes;
  FAILS(EFAULT, ioctl(d.iommufd, kIoasMap, &registers));
  // Bus mastering, then the ring.
  uint16_t command = 6;
  EXPECT(pwrite(d.fd, &command, 2, static_cast<off_t>(d.region(kConfig).offset) + 4) == 2);
  d.at<>(kRing + 0x10) = kIova;
  d.at<>(kRing + 0x18) = kBytes;
  d.at<>(kRing + 0x20) = 16;
  d.at<>(kRing + 0x30) = 10'000;
  d.at<uint32_t>(kRing) = 1;
  EXPECT((d.at<>(kRing + 0x08) & 1) != 0);
  while (d.at<>(kRing + 0x58) < 100) poll(nullptr, 0, 1);
  d.at<uint32_t>(kRing) = 0;
  EXPECT((d.at<>(kRing + 0x08) & 1) == 0);
  unsigned written = 0;
  for (size_t i = 0; i < kBytes / 8; ++i) written += bytes[i] != 0;
  EXPECT(written >= 16);
  return 0;
}

// Each thread has a register of its own; one is there before the mapping, one comes after it.
struct Work {
  const Device* device;
  uint64_t offset;
  std::atomic<bool> go = false;
  std::atomic<int> wrong = 0;
};
void* work(void* argument) {
  auto& w = *static_cast<Work*>(argument);
  while (!w.go) sched_yield();
  for (uint64_t i = 0; i < 300; ++i) {
    w.device->at<>(w.offset) = i;
    if (w.device->at<>(w.offset) != i) ++w.wrong;
  }
  return nullptr;
}
PROBE_CASE(register_threads) {
  static Device d;
  static Work first{&d, kRing + 0x48};
  static Work second{&d, kRing + 0x148};
  pthread_t threads[2];
  EXPECT(pthread_create(&threads[0], nullptr, work, &first) == 0);
  EXPECT(d.open_streamer() && d.map());
  first.go = second.go = true;
  EXPECT(pthread_create(&threads[1], nullptr, work, &second) == 0);
  for (const pthread_t t : threads) pthread_join(t, nullptr);
  EXPECT(first.wrong == 0 && second.wrong == 0);
  EXPECT(d.at<>(kRing + 0x48) == 299);
  return 0;
}

// A mapping holds the device open; a fork's copy of it, too.
PROBE_CASE(register_mapping_is_open) {
  Device d;
  EXPECT(d.open_streamer() && d.map());
  EXPECT(close(d.fd) == 0);
  d.at<>(kRing + 0x28) = 77;
  EXPECT(d.at<>(kRing + 0x28) == 77);
  const int again = open(d.path, O_RDWR | O_CLOEXEC);
  EXPECT(again >= 0);
  EXPECT(!bind(again, d.iommufd) && errno == EINVAL);
  int pipes[2];
  EXPECT(pipe(pipes) == 0);
  const pid_t child = fork();
  if (child == 0) {
    char c = 0;
    close(pipes[1]);
    if (read(pipes[0], &c, 1) != 0) _exit(1);
    _exit(d.at<>(kRing + 0x28) == 77 ? 7 : 2);
  }
  EXPECT(munmap(const_cast<char*>(d.base), d.bar.size) == 0);
  EXPECT(!bind(again, d.iommufd));
  close(pipes[1]);
  int status = 0;
  EXPECT(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
  EXPECT(bind(again, d.iommufd));
  return 0;
}

sigjmp_buf back;
siginfo_t got;
void note(int, siginfo_t* info, void*) {
  got = *info;
  siglongjmp(back, 1);
}

// COMMAND.MEMORY off: nothing answers.
PROBE_CASE(registers_off) {
  static Device d;
  EXPECT(d.open_streamer() && d.map());
  struct sigaction action = {};
  action.sa_sigaction = note;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
  EXPECT(d.set_memory_decoding(false));
  if (sigsetjmp(back, 1) == 0) {
    const uint64_t value = d.at<>(0x08);
    std::printf("read %llx\n", static_cast<unsigned long long>(value));
    return 1;
  }
  EXPECT(got.si_signo == SIGBUS && got.si_addr == d.base + 8);
  EXPECT(d.set_memory_decoding(true));
  EXPECT(d.at<>(0) == 0x0000'0001'4D52'5453);
  return 0;
}

// A BAR that is memory: the program's stores are the device's, and the reverse, with nothing in between; they outlive
// the mapping and the descriptor, and are out of reach while the device does not decode.
PROBE_CASE(device_memory) {
  static Device d;
  EXPECT(d.open_streamer(true));
  const RegionInfo memory = d.region(kMemoryBar);
  EXPECT((memory.flags & 7) == 7 && memory.size >= 0x1000);
  EXPECT(memory.offset < d.bar.offset);
  void* at = mmap(nullptr, memory.size, PROT_READ | PROT_WRITE, MAP_SHARED, d.fd, static_cast<off_t>(memory.offset));
  EXPECT(at != MAP_FAILED);
  auto* words = static_cast<volatile uint64_t*>(at);
  const auto seen_by_device = [&](uint64_t offset) {
    uint64_t value = 0;
    const off_t base = static_cast<off_t>(d.bar.offset);
    return pwrite(d.fd, &offset, 8, base + 0x28) == 8 && pread(d.fd, &value, 8, base + 0x30) == 8 ? value
                                                                                                  : ~uint64_t{0};
  };
  words[1] = 0x1122334455667788;
  EXPECT(seen_by_device(8) == 0x1122334455667788);
  const uint64_t offset = memory.size - 8;
  const uint64_t value = 99;
  EXPECT(pwrite(d.fd, &offset, 8, static_cast<off_t>(d.bar.offset) + 0x28) == 8);
  EXPECT(pwrite(d.fd, &value, 8, static_cast<off_t>(d.bar.offset) + 0x30) == 8);
  EXPECT(words[offset / 8] == 99);
  uint64_t read_back = 0;
  EXPECT(pread(d.fd, &read_back, 8, static_cast<off_t>(memory.offset) + 8) == 8 && read_back == 0x1122334455667788);
  // Nothing but the region can be mapped.
  FAILS(EINVAL, reinterpret_cast<intptr_t>(mmap(nullptr, 0x1000, PROT_READ, MAP_SHARED, d.fd,
                                                static_cast<off_t>(memory.offset + memory.size))));
  struct sigaction action = {};
  action.sa_sigaction = note;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
  EXPECT(d.set_memory_decoding(false));
  if (sigsetjmp(back, 1) == 0) {
    const uint64_t there = words[1];
    std::printf("read %llx\n", static_cast<unsigned long long>(there));
    return 1;
  }
  EXPECT(got.si_addr == &words[1]);
  EXPECT(d.set_memory_decoding(true));
  EXPECT(words[1] == 0x1122334455667788);
  EXPECT(close(d.fd) == 0);
  words[2] = 3;
  EXPECT(words[2] == 3);
  return 0;
}

// Where nobody can trap them there are none to map.
PROBE_CASE(no_registers) {
  Device d;
  EXPECT(d.open_streamer());
  EXPECT((d.bar.flags & 7) == 3);
  EXPECT(!d.map() && errno == EINVAL);
  uint64_t id = 0;
  EXPECT(pread(d.fd, &id, 8, static_cast<off_t>(d.bar.offset)) == 8 && id == 0x0000'0001'4D52'5453);
  return 0;
}

PROBE_CASE(register_status) {
  Device d;
  EXPECT(d.open_streamer() && d.map());
  const uint64_t id = d.at<>(0);
  EXPECT(id != 0);
  std::puts("mapped");
  std::fflush(stdout);
  if (argc == 0) kill(getpid(), SIGUSR1);
  return 5;
}

}  // namespace
}  // namespace probe
