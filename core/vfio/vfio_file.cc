// The device's own node: binding, attaching, and the device in an update (uapi §3.3).
#include "core/vfio/vfio_file.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/vfio/vfio.h"

namespace perdure::vfio {

bool VfioFile::bound() const {
  MutexGuard guard(device_.lock);
  return bound_;
}

Result<u64> VfioFile::ioctl(Task& task, u32 cmd, UserAddr arg) {
  const auto run = [&]() -> Result<void> {
    switch (cmd) {
      case uapi::kVfioDeviceBindIommufd: return bind(task, arg);
      case uapi::kVfioDeviceAttachIommufdPt: return attach(task, arg);
      default: return detach(task, arg);
    }
  };
  if (cmd != uapi::kVfioDeviceBindIommufd) {
    if (!bound()) return fail(Errno::Einval);
    if (cmd != uapi::kVfioDeviceAttachIommufdPt && cmd != uapi::kVfioDeviceDetachIommufdPt) {
      return device_ioctl(task, cmd, arg);
    }
  }
  TRY(run());
  return u64{0};
}

// --- life cycle -------------------------------------------------------------------------------------------------

Result<void> VfioFile::bind(Task& task, UserAddr arg) {
  uapi::VfioBindIommufd cmd = TRY(copy_in_bind(task, arg));
  // Whoever has the group open has its devices; this way nobody gets it as long as one of them is bound.
  TRY(device_.group.block());
  ScopeGuard unblock([&] { device_.group.unblock(); });
  Ref<File> file;
  MutexGuard guard(device_.lock);
  if (bound_) return fail(Errno::Einval);
  Uuid token;
  const bool with_token = (cmd.flags & uapi::vfio_device::kBindFlagToken) != 0;
  if (with_token) token = TRY(task.copy_in<Uuid>(UserAddr(cmd.token_uuid_ptr)));
  TRY(check_token(device_, with_token ? &token : nullptr));
  file = TRY(task.file(cmd.iommufd));
  TRY(bind_locked(task, arg, *file));
  unblock.dismiss();
  return {};
}

Result<void> VfioFile::bind_locked(Task& task, UserAddr arg, File& file) {
  auto* const context = file_cast<iommufd::IommufdFile>(&file);
  if (!context) return fail(Errno::Ebadfd);
  if (device_.opens != 0) return fail(Errno::Einval);
  if (!device_.offered()) return fail(Errno::Enodev);

  // The way out of quarantine: a reset, with the entry blocked all the time (design §8).
  if (!incoming_ && device_.iommu_device.group().ownership() == Ownership::Quarantined) {
    if (!device_.function.can_reset() || !device_.function.reset()) return fail(Errno::Eio);
    if (!module_.iommufd.iommu.reset_done(device_.iommu_device)) return fail(Errno::Eio);
  }
  const bool incoming = incoming_;
  auto binding = incoming ? context->bind_held(device_.iommu_device, record_.generation, record_.iommufd_token)
                          : context->bind(device_.iommu_device);
  if (!binding) return fail(binding.error());
  Ref<iommufd::Device> bound = std::move(*binding);
  ScopeGuard unbind([&]() NO_THREAD_SAFETY_ANALYSIS {
    device_.irqs.hand_back();
    incoming ? context->unbind_to_held(*bound) : context->unbind(*bound);
  });
  if (incoming) {
    TRY(take_over_locked());
  } else {
    quiet_locked();
  }
  TRY(task.copy_out(arg + offsetof(uapi::VfioBindIommufd, out_devid), context->id_of(*bound)));
  unbind.dismiss();
  device_.opens = 1;
  device_.by_cdev = true;
  device_.bound = std::move(bound);
  device_.iommufd = Ref<iommufd::IommufdFile>(context);
  bound_ = true;
  return {};
}

Result<void> VfioFile::take_over_locked() {
  device_.reset_works = (record_.flags & abi::kVfioPciResetWorks) != 0;
  device_.config.begin(device_.intx.there());
  const auto taken =
      device_.irqs.take_over({record_.irq_mode, record_.irq_usable, record_.irte_first, record_.irte_count});
  if (!taken) {
    if (taken.error() != Errno::Enoent) return taken;
    log(module_.machine(), LogLevel::Error,
        Line() << "vfio" << device_.index << ": its interrupts are blocked: their remapping entries were refused");
  }
  device_.config.set_msi_vectors(device_.irqs.mode() == Interrupts::Mode::Msi ? device_.irqs.size() : 0);
  if (record_.version < 2) return {};
  ConfigView::VirtualState state;
  std::copy(std::begin(record_.virtual_bars), std::end(record_.virtual_bars), std::begin(state.bars));
  state.command = static_cast<u16>(record_.virtual_command);
  state.interrupt_line = static_cast<u8>(record_.interrupt_line);
  device_.config.set_state(state);
  return {};
}

void VfioFile::last_close() {
  Dropped dropped(module_.heap());
  {
    MutexGuard guard(device_.lock);
    if (!bound_) return;
    shut_down_locked(dropped);
    bound_ = false;
  }
  device_.group.unblock();
}

Result<void> VfioFile::attach(Task& task, UserAddr arg) {
  auto cmd = TRY(copy_in_argsz<uapi::VfioAttachIommufdPt>(task, arg, uapi::kVfioAttachIommufdPtMin));
  if ((cmd.flags & ~uapi::vfio_device::kAttachFlagPasid) != 0) return fail(Errno::Einval);
  if ((cmd.flags & uapi::vfio_device::kAttachFlagPasid) != 0) {
    // No HWPT here can be used with a PASID.
    return fail(cmd.argsz < sizeof(cmd) ? Errno::Einval : Errno::Eopnotsupp);
  }
  MutexGuard guard(device_.lock);
  const bool was_attached = static_cast<bool>(device_.iommu_device.group().domain());
  cmd.pt_id = TRY(device_.iommufd->attach(task, *device_.bound, cmd.pt_id));
  const Result<void> answered = task.copy_out(arg + offsetof(uapi::VfioAttachIommufdPt, pt_id), cmd.pt_id);
  // What it replaced is gone; a first attachment nobody heard of is undone.
  if (!answered && !was_attached) static_cast<void>(device_.iommufd->detach(*device_.bound));
  return answered;
}

Result<void> VfioFile::detach(Task& task, UserAddr arg) {
  const auto cmd = TRY(copy_in_argsz<uapi::VfioDetachIommufdPt>(task, arg, uapi::kVfioDetachIommufdPtMin));
  if ((cmd.flags & ~uapi::vfio_device::kAttachFlagPasid) != 0) return fail(Errno::Einval);
  if ((cmd.flags & uapi::vfio_device::kAttachFlagPasid) != 0) {
    return fail(cmd.argsz < sizeof(cmd) ? Errno::Einval : Errno::Eopnotsupp);
  }
  MutexGuard guard(device_.lock);
  return device_.iommufd->detach(*device_.bound);
}

// --- live update --------------------------------------------------------------------------------------------------

Result<u64> VfioFile::preserve(const luo::Session& session) {
  MutexGuard guard(device_.lock);
  if (!bound_) return fail(Errno::Einval);
  // What such a device cached it would go on using, whatever the next kernel's tables say; and page requests would be
  // written to the old kernel's queue.
  if (device_.function.find(pci::ExtendedCapabilityId::Ats) != 0) {
    log(module_.machine(), LogLevel::Warn,
        Line() << "vfio" << device_.index << " cannot be preserved: it can keep translations of its own (ATS)");
    return fail(Errno::Eopnotsupp);
  }
  const u64 token = TRY(device_.iommufd->preserve_device(*device_.bound, session));
  if (const Result<void> kept = module_.pci_live_update.preserve(device_.function); !kept) {
    device_.iommufd->unpreserve_device(*device_.bound);
    return fail(kept.error());
  }
  return token;
}

void VfioFile::unpreserve() {
  MutexGuard guard(device_.lock);
  module_.pci_live_update.unpreserve(device_.function);
  device_.iommufd->unpreserve_device(*device_.bound);
}

void VfioFile::fill(abi::VfioPciRecord& record) const {
  MutexGuard guard(device_.lock);
  fill_locked(record);
}

Result<void> VfioFile::freeze(abi::VfioPciRecord& record) {
  MutexGuard guard(device_.lock);
  if (device_.intx.on() || !device_.irqs.can_be_carried()) return fail(Errno::Einval);
  fill_locked(record);
  immutability_.hold();
  return {};
}

void VfioFile::unfreeze() {
  MutexGuard guard(device_.lock);
  immutability_.release();
}

void VfioFile::fill_locked(abi::VfioPciRecord& record) const {
  const pci::Function& function = device_.function;
  record.segment = function.source().segment;
  record.bdf = function.source().bdf;
  record.ids = function.ids();
  record.flags = device_.reset_works ? abi::kVfioPciResetWorks : 0;
  record.command = function.read16(pci::reg::kCommand);
  const CarriedInterrupts irqs = device_.irqs.state();
  record.irq_mode = irqs.mode;
  record.irq_vectors = device_.irqs.vectors();
  record.irq_usable = irqs.usable;
  record.irte_first = irqs.irte_first;
  record.irte_count = irqs.irte_count;
  for (unsigned i = 0; i < pci::Function::kBars; ++i) {
    const pci::Bar& bar = function.bars()[i];
    const bool used = bar.kind == pci::Bar::Kind::Memory && bar.size != 0;
    record.bar_address[i] = used ? bar.base.value : 0;
    record.bar_size[i] = used ? bar.size : 0;
  }
  if (record.version < 2) return;
  const ConfigView::VirtualState& state = device_.config.state();
  std::copy(std::begin(state.bars), std::end(state.bars), std::begin(record.virtual_bars));
  record.virtual_command = state.command;
  record.interrupt_line = state.interrupt_line;
}

void VfioFile::finish() {
  MutexGuard guard(device_.lock);
  // Interrupts that the program has not connected yet stay as they are: it may still do so, and what comes is kept.
  incoming_ = false;
  device_.in_transfer = false;
  device_.function.let_go();
}

}  // namespace perdure::vfio
