// One opening of a device, whichever way it was opened: what it is made of, its registers, interrupts, reset and
// features (uapi §3.4 – §3.8).
#pragma once
#include "core/file/ioctl_copy.h"
#include "core/uapi/vfio.h"
#include "core/vfio/pci_device.h"

namespace perdure::vfio {

class Vfio;

// VFIO's rule for structures: the caller's must be at least as long as what is mandatory; more is not looked at.
template <class T>
Result<T> copy_in_argsz(Task& task, UserAddr arg, usize min_size) {
  T value{};
  TRY(task.copy_in(std::as_writable_bytes(std::span(&value, 1)).first(min_size), arg));
  if (value.argsz < min_size) return fail(Errno::Einval);
  return value;
}
template <class T>
Result<void> copy_out_prefix(Task& task, UserAddr arg, const T& value, usize bytes) {
  return task.copy_out(arg, std::as_bytes(std::span(&value, 1)).first(std::min(bytes, sizeof(T))));
}

// Lock order: the device's group's lock, the device's, then the iommufd context's. References to files are dropped with
// none held.
class DeviceFile : public File {
 public:
  // Where the regions of the file begin. As far up as file positions go, so that whoever intercepts a program's calls
  // can tell them from those on other files by one comparison.
  static constexpr u64 kRegions = u64{1} << 61;
  // Those that are plain memory: below all the others, so that a file which ends between them has pages for these and
  // none for those.
  static constexpr u64 kMemoryRegions = u64{1} << 60;
  static constexpr unsigned kRegionShift = 40;

  Result<usize> read(Task& task, UserAddr to, usize bytes, u64 pos) override;
  Result<usize> write(Task& task, UserAddr from, usize bytes, u64 pos) override;
  // Of a BAR: memory when it is prefetchable, which says that reading has no effect; else registers, whose accesses
  // have to be carried out by the machine.
  Result<MapTarget> mmap(Task& task, u64 offset, u64 length, Access access) override;

  PciDevice& device() const { return device_; }

  // By what physical and virtual functions share (uapi §3.3): may whoever gave this, or nothing, open the device?
  // Eacces, Einval.
  static Result<void> check_token(PciDevice& device, const Uuid* given);

 protected:
  DeviceFile(Vfio& module, PciDevice& device) : module_(module), device_(device) {}

  // The program may use the device through it.
  virtual bool usable() const = 0;
  // What both kinds of opening have. Enotty: no such ioctl.
  Result<u64> device_ioctl(Task& task, u32 cmd, UserAddr arg);

  // --- opening and closing ------------------------------------------------------------------------------------------
  // Whoever is the first finds the device quiet: not mastering the bus, reset, decoding, without interrupts.
  void quiet_locked() REQUIRES(device_.lock);
  // What is given up with the last opening, in the order of its dying, with no lock held any more.
  struct Dropped {
    explicit Dropped(Heap& heap) : events(heap), io_events(heap) {}
    Ref<iommufd::IommufdFile> iommufd;
    Ref<iommufd::Device> bound;
    Vec<Ref<EventFd>> events;
    Vec<IoEvents::Entry> io_events;
    Ref<EventFd> single[5];
  };
  // Off the bus, without interrupts, reset, unbound.
  void shut_down_locked(Dropped& dropped) REQUIRES(device_.lock);
  static Result<uapi::VfioBindIommufd> copy_in_bind(Task& task, UserAddr arg);

  Vfio& module_;
  PciDevice& device_;
  Immutability immutability_;  // of what the device's record says besides: held while frozen

 private:
  struct Position {
    u32 region = 0;
    u64 offset = 0;
  };
  Result<Position> locate(u64 pos) const;
  u64 position_of(u32 region) const;
  u64 bar_size(u32 region) const { return device_.function.bars()[region].size; }
  bool mappable(u32 region) const;
  bool is_memory(u32 region) const;
  bool holds_msix_table(u32 region) const;
  bool in_msix_table(u32 region, u64 offset, u64 bytes) const;
  // An access ends the device's sleep if the program asked to be told of it.
  void wake();

  Result<void> get_info(Task& task, UserAddr arg);
  Result<void> get_region_info(Task& task, UserAddr arg);
  Result<void> get_irq_info(Task& task, UserAddr arg);

  // --- interrupts: device_irqs.cc
  // -------------------------------------------------------------------------------------
  u32 irq_count_locked(u32 index) const REQUIRES(device_.lock);
  Result<void> set_irqs(Task& task, UserAddr arg);
  Result<void> set_intx(const uapi::VfioIrqSet& set, Interrupts::Events events, std::span<const u8> chosen);
  Result<void> trigger_intx_locked(const uapi::VfioIrqSet& set, Interrupts::Events events, std::span<const u8> chosen,
                                   Ref<EventFd> (&dropped)[2]) REQUIRES(device_.lock);
  Result<void> set_vectors(Interrupts::Mode mode, const uapi::VfioIrqSet& set, Interrupts::Events events,
                           std::span<const u8> chosen);
  Result<void> set_single(const uapi::VfioIrqSet& set, Interrupts::Events events, std::span<const u8> chosen);

  // --- reset: device_reset.cc
  // -----------------------------------------------------------------------------------------
  Result<void> reset_locked() REQUIRES(device_.lock);
  Result<void> get_hot_reset_info(Task& task, UserAddr arg);
  Result<void> hot_reset(Task& task, UserAddr arg);
  u32 dependent_id_locked(const DeviceSet::Member& member) const REQUIRES(device_.lock);
  Result<void> reset_set_locked(FunctionRef<bool(const DeviceSet::Member&)> owned) REQUIRES(device_.lock);

  // --- features: device_features.cc
  // -----------------------------------------------------------------------------------
  Result<void> feature(Task& task, UserAddr arg);
  Result<void> enter_low_power(LowPower how, Ref<EventFd> event);
  Result<void> ioeventfd(Task& task, UserAddr arg);

  Result<usize> read_config(Task& task, UserAddr to, usize bytes, u64 offset);
  Result<usize> write_config(Task& task, UserAddr from, usize bytes, u64 offset);
  Result<usize> access_bar(u32 region, usize bytes, u64 offset,
                           FunctionRef<Result<void>(Phys at, Width width, u64 done, bool hidden)> access);
};

}  // namespace perdure::vfio
