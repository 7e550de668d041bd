#include "tests/intercept/probe.h"

namespace probe {
namespace {

PROBE_CASE(alloc) {
  const int fd = open("/dev/iommu", O_RDWR);
  EXPECT(fd >= 0);
  EXPECT(alloc_ioas(fd));
  FAILS(EFAULT, ioctl(fd, kIoasAlloc, nullptr));
  FAILS(ENOTTY, ioctl(fd, 0x3bff, nullptr));
  return 0;
}

// The status of the program is that of `perdure run`.
PROBE_CASE(status) {
  return argc > 0 ? argv[0][0] - '0' : 0;
}

// /dev/liveupdate is open to one at a time: a close counts at once.
PROBE_CASE(exclusive) {
  for (int i = 0; i < 50; ++i) {
    const int fd = open("/dev/liveupdate", O_RDWR | O_CLOEXEC);
    EXPECT(fd >= 0);
    FAILS(EBUSY, open("/dev/liveupdate", O_RDWR));
    EXPECT(close(fd) == 0);
  }
  return 0;
}

}  // namespace
}  // namespace probe
