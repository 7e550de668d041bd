/* A device and an address space for it, with plain system calls and no library:
 *
 *   device /dev/vfio/devices/vfio0
 *
 * binds the device, maps a page of this program for it, and lists its regions. Distributions' headers are older than
 * these calls, so the structures are here.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
  IOMMU_IOAS_ALLOC = 0x3b81,
  IOMMU_IOAS_IOVA_RANGES = 0x3b84,
  IOMMU_IOAS_MAP = 0x3b85,
  IOMMU_IOAS_UNMAP = 0x3b86,
  VFIO_DEVICE_GET_INFO = 0x3b6b,
  VFIO_DEVICE_GET_REGION_INFO = 0x3b6c,
  VFIO_DEVICE_BIND_IOMMUFD = 0x3b76,
  VFIO_DEVICE_ATTACH_IOMMUFD_PT = 0x3b77,
};

struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct iova_range { uint64_t start, last; };
struct iova_ranges { uint32_t size, ioas_id, num, reserved; uint64_t ranges, out_alignment; };
struct ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct ioas_unmap { uint32_t size, ioas_id; uint64_t iova, length; };
struct device_info { uint32_t argsz, flags, num_regions, num_irqs, cap_offset, pad; };
struct region_info { uint32_t argsz, flags, index, cap_offset; uint64_t size, offset; };
struct bind_iommufd { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; };
struct attach_pt { uint32_t argsz, flags, pt_id; };

enum { MAP_WRITEABLE = 2, MAP_READABLE = 4, CONFIG_REGION = 7 };

static void call(const char *what, int fd, unsigned long number, void *arg) {
  if (ioctl(fd, number, arg) >= 0) return;
  fprintf(stderr, "device: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int open_node(const char *path) {
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd >= 0) return fd;
  fprintf(stderr, "device: %s: %s\n", path, strerror(errno));
  exit(1);
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: device /dev/vfio/devices/vfioN\n");
    return 2;
  }
  int iommu = open_node("/dev/iommu");
  int device = open_node(argv[1]);
  struct bind_iommufd bind = {sizeof bind, 0, iommu, 0};
  call("bind", device, VFIO_DEVICE_BIND_IOMMUFD, &bind);

  struct ioas_alloc ioas = {sizeof ioas, 0, 0};
  call("allocate an address space", iommu, IOMMU_IOAS_ALLOC, &ioas);
  struct attach_pt attach = {sizeof attach, 0, ioas.out_ioas_id};
  call("attach", device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach);

  /* How many ranges there are comes back with EMSGSIZE when the answer is too long. */
  struct iova_range ranges[16];
  struct iova_ranges usable = {sizeof usable, ioas.out_ioas_id, 16, 0, (uintptr_t)ranges, 0};
  call("list usable addresses", iommu, IOMMU_IOAS_IOVA_RANGES, &usable);
  for (uint32_t i = 0; i < usable.num; ++i)
    printf("usable: %#llx to %#llx\n", (unsigned long long)ranges[i].start, (unsigned long long)ranges[i].last);

  void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct ioas_map map = {sizeof map, MAP_WRITEABLE | MAP_READABLE, ioas.out_ioas_id, 0, (uintptr_t)page, 4096, 0};
  call("map a page", iommu, IOMMU_IOAS_MAP, &map);
  printf("a page of this program is at %#llx for the device\n", (unsigned long long)map.iova);

  struct device_info info = {.argsz = sizeof info};
  call("ask about the device", device, VFIO_DEVICE_GET_INFO, &info);
  for (uint32_t i = 0; i < info.num_regions; ++i) {
    struct region_info region = {.argsz = sizeof region, .index = i};
    if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) != 0 || region.size == 0) continue;
    printf("region %u: %llu bytes, flags %#x\n", i, (unsigned long long)region.size, region.flags);
    uint16_t ids[2];
    if (i == CONFIG_REGION && pread(device, ids, sizeof ids, (off_t)region.offset) == sizeof ids)
      printf("this is %04x:%04x\n", ids[0], ids[1]);
  }

  struct ioas_unmap unmap = {sizeof unmap, ioas.out_ioas_id, map.iova, 4096};
  call("unmap", iommu, IOMMU_IOAS_UNMAP, &unmap);
  return 0;
}
