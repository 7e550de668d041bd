"""A script that knows nothing of Perdure: an address space, through fcntl.ioctl."""
import errno
import fcntl
import os
import struct

fd = os.open("/dev/iommu", os.O_RDWR)
alloc = bytearray(struct.pack("=III", 12, 0, 0))
fcntl.ioctl(fd, 0x3B81, alloc)
ioas = struct.unpack("=III", alloc)[2]
assert ioas > 0
try:
    fcntl.ioctl(fd, 0x3B81, 0)
    raise SystemExit("a bad address was accepted")
except OSError as e:
    assert e.errno == errno.EFAULT, e
fcntl.ioctl(fd, 0x3B80, struct.pack("=II", 8, ioas))
for bdf in sorted(os.listdir("/sys/bus/pci/devices")):
    with open(f"/sys/bus/pci/devices/{bdf}/vendor") as f:
        print(bdf, f.read().strip(), os.path.basename(os.readlink(f"/sys/bus/pci/devices/{bdf}/iommu_group")))
print("python is done")
