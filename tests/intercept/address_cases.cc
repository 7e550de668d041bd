// Addresses, numbers and descriptors that are not what they should be.
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <initializer_list>

#include "tests/intercept/probe.h"

namespace probe {
namespace {

constexpr size_t kPage = 4096;
constexpr off_t kFar = off_t{1} << 61;

// The kernel reads and writes as the program may, to the byte.
PROBE_CASE(addresses) {
  const int fd = open("/dev/iommu", O_RDWR);
  EXPECT(fd >= 0);
  void* memory = mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT(memory != MAP_FAILED);
  char* const pages = static_cast<char*>(memory);
  const IoasAlloc alloc;
  const auto call_at = [&](char* at) { return ioctl(fd, kIoasAlloc, at); };
  // Up to the last byte of a page that has none after it.
  EXPECT(munmap(pages + kPage, kPage) == 0);
  char* const fits = pages + kPage - sizeof alloc;
  std::memcpy(fits, &alloc, sizeof alloc);
  EXPECT(call_at(fits) == 0);
  std::memcpy(fits + 1, &alloc, sizeof alloc - 1);
  FAILS(EFAULT, call_at(fits + 1));
  // What may be read and not written.
  char* const last = pages + 2 * kPage;
  std::memcpy(last, &alloc, sizeof alloc);
  EXPECT(mprotect(last, kPage, PROT_READ) == 0);
  FAILS(EFAULT, call_at(last));
  EXPECT(std::memcmp(last, &alloc, sizeof alloc) == 0);
  EXPECT(mprotect(last, kPage, PROT_NONE) == 0);
  FAILS(EFAULT, call_at(last));
  FAILS(EFAULT, ioctl(fd, kIoasAlloc, reinterpret_cast<void*>(~0UL << 12)));
  // Of a path, too.
  FAILS(EFAULT, static_cast<int>(syscall(SYS_openat, AT_FDCWD, nullptr, O_RDWR)));
  FAILS(EFAULT, open(last, O_RDWR));
  // A path may end with its page.
  constexpr char kNode[] = "/dev/iommu";
  std::memcpy(pages + kPage - sizeof kNode, kNode, sizeof kNode);
  EXPECT(open(pages + kPage - sizeof kNode, O_RDWR) >= 0);
  return 0;
}

// Other files with the same numbers are none of ours.
PROBE_CASE(foreign) {
  int ends[2];
  EXPECT(pipe(ends) == 0);
  const int memory = memfd_create("/dev/iommu", 0);
  const int event = eventfd(0, 0);
  const int file = open("/proc/self/exe", O_RDONLY);
  EXPECT(memory >= 0 && event >= 0 && file >= 0);
  for (const int fd : {ends[0], memory, event, file}) {
    for (const unsigned long number : {kIoasAlloc, kCreateSession, 0x3b00UL, 0xbaffUL, 0x40043b67UL}) {
      FAILS(ENOTTY, ioctl(fd, number, nullptr));
    }
  }
  FAILS(EBADF, ioctl(-1, kIoasAlloc, nullptr));
  FAILS(EBADF, ioctl(999, kIoasAlloc, nullptr));
  // Positions that only ours have.
  char byte = 'x';
  EXPECT(pwrite(memory, &byte, 1, kFar) == 1 && pread(memory, &byte, 1, kFar) == 1 && byte == 'x');
  FAILS(EINVAL, pread(memory, &byte, 1, -1));
  EXPECT(mmap(nullptr, kPage, PROT_READ, MAP_SHARED, memory, kFar) != MAP_FAILED);
  return 0;
}

PROBE_CASE(numbers) {
  const int fd = open("/dev/iommu", O_RDWR);
  const int device = open("/dev/liveupdate", O_RDWR);
  EXPECT(fd >= 0 && device >= 0);
  FAILS(ENOTTY, ioctl(fd, 0x3bff, nullptr));
  FAILS(ENOTTY, ioctl(fd, 0x3b7f, nullptr));
  FAILS(ENOTTY, ioctl(fd, 0x5401, nullptr));
  FAILS(EINVAL, ioctl(device, 0xbaff, nullptr));
  // Only the lower half of the word counts.
  IoasAlloc alloc;
  EXPECT(syscall(SYS_ioctl, fd, kIoasAlloc | 0xabcd00000000UL, &alloc) == 0);
  EXPECT(syscall(SYS_ioctl, static_cast<long>(fd) | 0x100000000L, kIoasAlloc, &alloc) == 0);
  char byte = 0;
  FAILS(EINVAL, pread(fd, &byte, 1, kFar));
  const iovec piece = {&byte, 1};
  FAILS(EINVAL, preadv(fd, &piece, 1, kFar));
  FAILS(EINVAL, pwritev(fd, &piece, 1, kFar));
  // Reading from what has nothing to read ends at once.
  EXPECT(read(device, &byte, 1) <= 0);
  const int only_write = open("/dev/iommu", O_WRONLY);
  EXPECT(only_write >= 0 && alloc_ioas(only_write));
  FAILS(EBADF, pread(only_write, &byte, 1, kFar));
  EXPECT((fcntl(only_write, F_GETFL) & O_ACCMODE) == O_WRONLY);
  return 0;
}

// Entries that the filter does not understand would be ways around it.
PROBE_CASE(side_doors) {
  long result = 0;
  constexpr long kOpen32 = 5;
  static const char kNode[] = "/dev/iommu";
  asm volatile("int $0x80" : "=a"(result) : "a"(kOpen32), "b"(kNode), "c"(O_RDWR) : "memory");
  EXPECT(result == -ENOSYS || result == -EFAULT);
  constexpr long kX32 = 0x40000000;
  FAILS(ENOSYS, syscall(kX32 | SYS_openat, AT_FDCWD, kNode, O_RDWR));
  char parameters[120] = {};
  FAILS(ENOSYS, syscall(425 /* io_uring_setup */, 1, parameters));
  return 0;
}

}  // namespace
}  // namespace probe
