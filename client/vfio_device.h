// A device in a program's hands: /dev/vfio/devices/vfioN.
#pragma once
#include "client/fd.h"
#include "client/iommufd.h"
#include "client/memfd.h"

namespace perdure::client {

struct Region {
  u32 index = 0;
  u32 flags = 0;
  u64 size = 0;
  u64 offset = 0;
};

class VfioDevice {
 public:
  VfioDevice() = default;
  explicit VfioDevice(Fd fd) : fd_(std::move(fd)) {}
  static Result<VfioDevice> open(Syscalls& sys, std::string_view path);

  // The device's object id in the iommufd.
  Result<u32> bind(const Iommufd& iommufd) const;
  // `pt`: a HWPT or an IOAS; attached already: replaced in place. Returns the HWPT's id.
  Result<u32> attach(u32 pt) const;
  Result<void> detach() const;

  Result<Region> region(u32 index) const;
  // Registers, `bytes` 1, 2, 4 or 8 wide.
  Result<u64> read(const Region& region, u64 offset, unsigned bytes) const;
  Result<void> write(const Region& region, u64 offset, unsigned bytes, u64 value) const;
  Result<void> set_bus_master(bool on) const;
  // A region in the program's memory; Einval where it has no kMmap flag.
  Result<Mapping> map(const Region& region) const;
  // Vendor in the lower half, device in the upper one.
  Result<u32> ids() const;
  // The function, not the bus; bus mastering is off afterwards.
  Result<void> reset() const;
  // Interrupt vectors [0, count) of MSI-X or MSI (index) to eventfds.
  Result<void> set_irqs(u32 index, const s32* eventfds, u32 count) const;
  Result<void> disable_irqs(u32 index) const;

  s32 number() const { return fd_.number(); }
  Fd& fd() { return fd_; }

 private:
  Fd fd_;
};

}  // namespace perdure::client
