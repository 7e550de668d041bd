// One opening of /dev/vfio/devices/vfioN (uapi §3.3).
#pragma once
#include "core/vfio/device_file.h"
#include "core/vfio/record.h"

namespace perdure::vfio {

// A program binds it to an iommufd first; until then everything else answers Einval. A device that a former kernel
// preserved is bound without a reset and without one write to its configuration (design §7).
class VfioFile final : public DeviceFile {
 public:
  static constexpr FileType kType{"/dev/vfio/devices/vfio"};

  VfioFile(Vfio& module, PciDevice& device) : DeviceFile(module, device) {}
  // Of a session: may only be bound to the iommufd that was preserved with it.
  VfioFile(Vfio& module, PciDevice& device, const abi::VfioPciRecord& record)
      : DeviceFile(module, device), incoming_(true), record_(record) {}

  const FileType& type() const override { return kType; }
  Result<u64> ioctl(Task& task, u32 cmd, UserAddr arg) override;

  bool bound() const;

  // --- live update -------------------------------------------------------------------------------------------------
  // Einval: not bound; Enoent: not attached, or its iommufd is not in the session; Einval: its HWPT is not preserved;
  // Eopnotsupp: a device that caches translations itself (ATS, R48); what the IOMMU core says. Returns the iommufd's
  // token.
  Result<u64> preserve(const luo::Session& session);
  void unpreserve();
  // What is to be recorded of the device now. Only reads.
  void fill(abi::VfioPciRecord& record) const;
  // The same for the last time: until unfreeze() its interrupts and its configuration stay as they are recorded
  // (Ebusy). Einval: interrupts are on that would be lost, since they go through no remapping table.
  Result<void> freeze(abi::VfioPciRecord& record);
  void unfreeze();
  // The device is this program's like any other now.
  void finish();

 protected:
  void last_close() override;

 private:
  bool usable() const override { return bound(); }
  Result<void> bind(Task& task, UserAddr arg);
  Result<void> bind_locked(Task& task, UserAddr arg, File& file) REQUIRES(device_.lock);
  // At work for a former kernel's user: nothing is written to it at all.
  Result<void> take_over_locked() REQUIRES(device_.lock);
  Result<void> attach(Task& task, UserAddr arg);
  Result<void> detach(Task& task, UserAddr arg);
  void fill_locked(abi::VfioPciRecord& record) const REQUIRES(device_.lock);

  bool bound_ GUARDED_BY(device_.lock) = false;
  bool incoming_ GUARDED_BY(device_.lock) = false;
  const abi::VfioPciRecord record_;  // while incoming
};

}  // namespace perdure::vfio
