// One opening of /dev/vfio/devices/vfioN (uapi §3.3 – §3.8).
#pragma once
#include "core/file/ioctl_copy.h"
#include "core/iommufd/iommufd_file.h"
#include "core/uapi/vfio.h"
#include "core/vfio/pci_device.h"
#include "core/vfio/record.h"

namespace perdure::vfio {

class Vfio;

// A program binds it to an iommufd first; until then everything else answers Einval. A device that a former kernel
// preserved is bound without a reset and without one write to its configuration (design §7).
//
// Lock order: the device's lock, then the iommufd context's. References to files are dropped with none held.
class VfioFile final : public File {
 public:
  static constexpr FileType kType{"/dev/vfio/devices/vfio"};
  // Where the regions of the file begin. As far up as file positions go, so that whoever intercepts a program's calls
  // can tell them from those on other files by one comparison.
  static constexpr u64 kRegions = u64{1} << 61;
  static constexpr unsigned kRegionShift = 40;

  VfioFile(Vfio& module, PciDevice& device) : module_(module), device_(device) {}
  // Of a session: may only be bound to the iommufd that was preserved with it.
  VfioFile(Vfio& module, PciDevice& device, const abi::VfioPciRecord& record)
      : module_(module), device_(device), incoming_(true), record_(record) {}

  const FileType& type() const override { return kType; }
  Result<u64> ioctl(Task& task, u32 cmd, UserAddr arg) override;
  Result<usize> read(Task& task, UserAddr to, usize bytes, u64 pos) override;
  Result<usize> write(Task& task, UserAddr from, usize bytes, u64 pos) override;
  // Of a BAR: registers, whose accesses have to be carried out by the machine.
  Result<MapTarget> mmap(Task& task, u64 offset, u64 length, Access access) override;

  PciDevice& device() const { return device_; }
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
  struct Position {
    u32 region = 0;
    u64 offset = 0;
  };
  static Result<Position> locate(u64 pos);
  u64 bar_size(u32 region) const { return device_.function.bars()[region].size; }
  bool mappable(u32 region) const;
  bool holds_msix_table(u32 region) const;
  bool in_msix_table(u32 region, u64 offset, u64 bytes) const;

  Result<void> bind(Task& task, UserAddr arg);
  Result<void> enable_locked() REQUIRES(device_.lock);
  Result<void> attach(Task& task, UserAddr arg);
  Result<void> detach(Task& task, UserAddr arg);
  Result<void> get_info(Task& task, UserAddr arg);
  Result<void> get_region_info(Task& task, UserAddr arg);
  Result<void> get_irq_info(Task& task, UserAddr arg);
  Result<void> set_irqs(Task& task, UserAddr arg);
  Result<void> set_vectors(Interrupts::Mode mode, const uapi::VfioIrqSet& set, Interrupts::Events events,
                           std::span<const u8> chosen);
  Result<void> set_single(const uapi::VfioIrqSet& set, Interrupts::Events events, std::span<const u8> chosen);
  Result<void> feature(Task& task, UserAddr arg);
  Result<void> hot_reset(Task& task, UserAddr arg);
  Result<void> reset_locked() REQUIRES(device_.lock);
  void fill_locked(abi::VfioPciRecord& record) const REQUIRES(device_.lock);
  u32 irq_count(u32 index) const;

  Result<usize> read_config(Task& task, UserAddr to, usize bytes, u64 offset);
  Result<usize> write_config(Task& task, UserAddr from, usize bytes, u64 offset);
  Result<usize> access_bar(u32 region, usize bytes, u64 offset,
                           FunctionRef<Result<void>(Phys at, Width width, u64 done, bool hidden)> access);

  Vfio& module_;
  PciDevice& device_;
  Ref<iommufd::IommufdFile> iommufd_ GUARDED_BY(device_.lock);
  Ref<iommufd::Device> bound_ GUARDED_BY(device_.lock);
  bool incoming_ GUARDED_BY(device_.lock) = false;
  Immutability immutability_;        // of what the record says besides: held while frozen
  const abi::VfioPciRecord record_;  // while incoming
};

}  // namespace perdure::vfio
