// The kernel: everything hangs off one object. boot() composes it on a machine, cold or after a jump; open() is what
// front ends reach it by; kexec_load() and kexec() replace it.
//
// The object itself is the machine's to place; everything it allocates lies in the machine's memory. After a
// successful jump no destructor runs: the object is abandoned.
#pragma once
#include <atomic>

#include "core/abi/boot_info.h"
#include "core/acpi/dmar.h"
#include "core/base/log.h"
#include "core/file/host_files.h"
#include "core/iommu/live_update.h"
#include "core/iommufd/handler.h"
#include "core/iommufd/iommufd.h"
#include "core/kernel/config.h"
#include "core/kernel/handover_visitor.h"
#include "core/kernel/timeline.h"
#include "core/kho/metadata.h"
#include "core/luo/device.h"
#include "core/luo/memfd_handler.h"
#include "core/pci/live_update.h"
#include "core/vfio/handler.h"
#include "core/vfio/vfio.h"
#include "core/vtd/vtd_unit.h"

namespace perdure {

class Kernel {
 public:
  Kernel(Machine& machine, const Config& config);
  // An orderly end: everything is given back, units are turned off.
  ~Kernel();
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  // Once. What cannot be used of a handover is quarantined or blocked and logged, and the boot goes on; an error means
  // that this kernel cannot run here (docs/architecture.md, "Failure policy"), with DMA blocked as far as it could be.
  Result<void> boot();

  // /dev/liveupdate, /dev/iommu, /dev/vfio/vfio, /dev/vfio/<group>, /dev/vfio/devices/vfioN. Enoent; the file's own
  // errors.
  Result<Ref<File>> open(std::string_view path);

  // Opens, pins and checks the next kernel before anything is frozen. Enoent, Eacces, Enoexec: no kernel, or one
  // that cannot read what this one writes (the log says which format). Ebusy: somebody else loads one, or jumps.
  Result<void> kexec_load(std::string_view name);
  // Audits, freezes, quiesces and jumps. On failure everything is as before and devices have not noticed: Enoexec when
  // nothing is loaded, what a session's files say, Efault from the audit. Ebusy: somebody else jumps, or
  // loads.
  Result<void> kexec();

  // To be called every now and then by whoever runs the kernel, with no call into it under way on the same thread.
  void service();

  // For whoever looks at memory after the jump and shall not take the records' word for it: what crosses, told by the
  // objects that it is written from. Only between preserve and the jump is there anything. Enomem; Eio: a table that is
  // not sound.
  Result<void> describe_handover(HandoverVisitor& visitor);
  // sriov_numvfs: so many virtual functions of this one are there from now on. Enoent: it has none, or no program can
  // drive it; Erange: fewer; Ebusy: it has some, or those are open, or it is preserved; Eio: the device does not do it.
  Result<void> set_virtual_functions(SourceId physical, u32 count);
  // The driver of devices that programs drive lets go of this one, and of its virtual functions, which are no more
  // then; or takes it up again. Vfio's errors.
  Result<void> unbind_driver(SourceId source);
  Result<void> bind_driver(SourceId source);
  bool next_is_loaded() const { return next_is_loaded_; }
  // Where the next kernel finds its boot information; null: none is loaded.
  Phys next_boot_info() const { return next_boot_info_; }

  const Config& config() const { return config_; }
  const abi::BootInfo& boot_info() const { return boot_; }
  const Timeline& timeline() const { return timeline_; }
  // What the former kernel called itself; empty after a cold boot.
  std::string_view former_release() const { return luo::text_of(former_.release); }
  HostFiles& host_files() { return host_files_; }
  Heap& heap() { return heap_; }
  FrameAllocator& frames() { return frames_; }
  Kho& kho() { return kho_; }
  luo::Luo& luo() { return *luo_; }
  Iommu& iommu() { return *iommu_; }
  IommuLiveUpdate& live_update() { return *live_update_; }
  pci::Bus& bus() { return *bus_; }
  vfio::Vfio& vfio() { return *vfio_; }
  iommufd::Iommufd& iommufd() { return *iommufd_; }
  pci::LiveUpdate& pci_live_update() { return *pci_live_update_; }

 private:
  // boot(), in order.
  Result<void> bring_up();
  Result<void> boot_memory();
  Result<void> boot_records();
  Result<void> boot_units();
  Result<void> boot_unit(const acpi::DmarUnit& found, Vec<vtd::VtdUnit*>& working);
  void drop_carried_interrupts();
  Result<void> boot_bus();
  Result<void> boot_devices();
  Result<void> boot_device(pci::Function& function);
  Result<void> boot_services();
  // Translation is on and nobody can say what it translates: every bus master off, everything blocked.
  void block_everything();
  Result<void> block_unit(Phys base, const vtd::UnitConfig& config);

  void unload();
  // Who is at work besides those that PCI's own records name, and agreement between the two.
  Result<void> note_functions_at_work();
  bool reserved(Phys base, u64 length) const;
  // After the IOMMU's part is decided: quarantine of what PCI refused, and the other way round.
  void settle_functions();
  // Every function that is not preserved stops mastering the bus, as devices are shut down before a kexec, bridges
  // after what is below them; and starts again where it did when the jump fails.
  void stop_functions();
  void restart_functions();
  Result<void> jump();
  template <class Step>
  Result<void> timed(UpdatePhase phase, Step step);
  void report(LogLevel level, const Line& line) const { log(machine_, level, line); }

  Machine& machine_;
  const Config config_;
  abi::BootInfo boot_;
  kho::Metadata former_;
  Timeline timeline_;           // of the update that led here
  Timeline outgoing_timeline_;  // of the one that leads away
  FrameAllocator frames_;
  Heap heap_;
  Kho kho_;
  HostFiles host_files_;

  // In the order of construction; taken down in reverse.
  Owned<luo::Luo> luo_;
  Owned<Iommu> iommu_;
  Owned<IommuLiveUpdate> live_update_;
  Owned<acpi::Dmar> dmar_;
  Owned<pci::LiveUpdate> pci_live_update_;
  Owned<pci::Bus> bus_;
  Owned<luo::Device> luo_device_;
  Owned<luo::MemfdHandler> memfd_handler_;
  Owned<iommufd::Iommufd> iommufd_;
  Owned<iommufd::IommufdHandler> iommufd_handler_;
  Owned<vfio::Vfio> vfio_;
  Owned<vfio::VfioHandler> vfio_handler_;

  // Who loads or jumps has all that follows to himself; nobody waits for that.
  std::atomic<bool> leaving_{false};
  std::atomic<bool> changing_functions_{false};
  std::atomic<bool> next_is_loaded_{false};
  // The next kernel, and where its boot data goes: three blocks of scratch memory.
  Ref<KernelImage> next_;
  Vec<pci::Function*> stopped_;
  Phys next_boot_info_;
  Phys next_memory_map_;
  Phys next_scratch_table_;
};

}  // namespace perdure
