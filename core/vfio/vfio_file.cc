// Binding, attaching, what a device is made of, interrupts, reset (uapi §3.3 – §3.5, §3.7, §3.8).
#include "core/vfio/vfio_file.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/vfio/vfio.h"

namespace perdure::vfio {

namespace {

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

}  // namespace

bool VfioFile::bound() const {
  MutexGuard guard(device_.lock);
  return static_cast<bool>(bound_);
}

Result<u64> VfioFile::ioctl(Task& task, u32 cmd, UserAddr arg) {
  const auto run = [&]() -> Result<void> {
    if (cmd == uapi::kVfioDeviceBindIommufd) return bind(task, arg);
    if (!bound()) return fail(Errno::Einval);
    switch (cmd) {
      case uapi::kVfioDeviceAttachIommufdPt: return attach(task, arg);
      case uapi::kVfioDeviceDetachIommufdPt: return detach(task, arg);
      case uapi::kVfioDeviceGetInfo: return get_info(task, arg);
      case uapi::kVfioDeviceGetRegionInfo: return get_region_info(task, arg);
      case uapi::kVfioDeviceGetIrqInfo: return get_irq_info(task, arg);
      case uapi::kVfioDeviceSetIrqs: return set_irqs(task, arg);
      case uapi::kVfioDeviceFeature: return feature(task, arg);
      case uapi::kVfioDeviceGetPciHotResetInfo:
      case uapi::kVfioDevicePciHotReset: return hot_reset(task, arg);
      case uapi::kVfioDeviceReset: {
        MutexGuard guard(device_.lock);
        return reset_locked();
      }
      default: return fail(Errno::Enotty);
    }
  };
  TRY(run());
  return u64{0};
}

// --- life cycle -------------------------------------------------------------------------------------------------

Result<void> VfioFile::bind(Task& task, UserAddr arg) {
  const u32 argsz = TRY(ioctl_size(task, arg));
  auto cmd = TRY(ioctl_copy_in<uapi::VfioBindIommufd>(task, arg, argsz, uapi::kVfioBindIommufdMin));
  if (cmd.iommufd < 0 || (cmd.flags & ~uapi::vfio_device::kBindFlagToken) != 0) return fail(Errno::Einval);
  Ref<File> file;
  Ref<iommufd::IommufdFile> iommufd;
  MutexGuard guard(device_.lock);
  if (bound_) return fail(Errno::Einval);
  if ((cmd.flags & uapi::vfio_device::kBindFlagToken) != 0) {
    // Tokens are for virtual functions; a function without is not to be given one.
    std::byte uuid[16];
    TRY(task.copy_in(std::span(uuid), UserAddr(cmd.token_uuid_ptr)));
    return fail(Errno::Einval);
  }
  file = TRY(task.file(cmd.iommufd));
  auto* const context = file_cast<iommufd::IommufdFile>(file.get());
  if (!context) return fail(Errno::Ebadfd);
  iommufd = Ref<iommufd::IommufdFile>(context);
  if (device_.user) return fail(Errno::Einval);

  // The way out of quarantine: a reset, with the entry blocked all the time (design §8).
  if (!incoming_ && device_.iommu_device.group().ownership() == Ownership::Quarantined) {
    if (!device_.function.can_reset() || !device_.function.reset()) return fail(Errno::Eio);
    if (!module_.iommufd.iommu.reset_done(device_.iommu_device)) return fail(Errno::Eio);
  }
  const bool incoming = incoming_;
  auto binding = incoming ? iommufd->bind_held(device_.iommu_device, record_.generation, record_.iommufd_token)
                          : iommufd->bind(device_.iommu_device);
  if (!binding) return fail(binding.error());
  Ref<iommufd::Device> bound = std::move(*binding);
  ScopeGuard unbind([&]() NO_THREAD_SAFETY_ANALYSIS {
    device_.irqs.hand_back();
    incoming ? iommufd->unbind_to_held(*bound) : iommufd->unbind(*bound);
  });
  TRY(enable_locked());
  cmd.out_devid = iommufd->id_of(*bound);
  TRY(task.copy_out(arg + offsetof(uapi::VfioBindIommufd, out_devid), cmd.out_devid));
  unbind.dismiss();
  device_.user = this;
  bound_ = std::move(bound);
  iommufd_ = std::move(iommufd);
  return {};
}

// A new user finds the device quiet: not mastering the bus, reset, decoding, without interrupts. Unless a former
// kernel's user has it at work: then nothing is written to it at all.
Result<void> VfioFile::enable_locked() {
  pci::Function& function = device_.function;
  if (incoming_) {
    device_.reset_works = (record_.flags & abi::kVfioPciResetWorks) != 0;
    device_.config.begin();
    const auto taken =
        device_.irqs.take_over({record_.irq_mode, record_.irq_usable, record_.irte_first, record_.irte_count});
    if (!taken) {
      if (taken.error() != Errno::Enoent) return taken;
      log(module_.machine(), LogLevel::Error,
          Line() << "vfio" << device_.index << ": its interrupts are blocked: their remapping entries were refused");
    }
    device_.config.set_msi_vectors(device_.irqs.mode() == Interrupts::Mode::Msi ? device_.irqs.size() : 0);
    if (record_.version >= 2) {
      ConfigView::VirtualState state;
      std::copy(std::begin(record_.virtual_bars), std::end(record_.virtual_bars), std::begin(state.bars));
      state.command = static_cast<u16>(record_.virtual_command);
      state.interrupt_line = static_cast<u8>(record_.interrupt_line);
      device_.config.set_state(state);
    }
    return {};
  }
  function.set_bus_master(false);
  device_.reset_works = function.can_reset() && function.reset().has_value();
  // What a former kernel's user had of interrupts and nobody came for, since the device was quarantined.
  if (InterruptRemapper* remapper = device_.iommu_device.unit().interrupt_remapper()) {
    remapper->drop_carried(device_.iommu_device.source());
  }
  function.set_decoding(true);
  if (!function.open_path()) {
    log(module_.machine(), LogLevel::Warn,
        Line() << "vfio: a bridge above " << Hex{function.source().segment} << ":" << Hex{function.source().bdf}
               << " does not forward requests and must not be touched while others below it are at work");
  }
  device_.config.begin();
  return {};
}

void VfioFile::last_close() {
  // In the order of their dying, with no lock held any more.
  Ref<iommufd::IommufdFile> iommufd;
  Ref<iommufd::Device> bound;
  Vec<Ref<EventFd>> dropped(module_.heap());
  Ref<EventFd> error_event;
  Ref<EventFd> request_event;
  MutexGuard guard(device_.lock);
  if (!bound_) return;
  static_cast<void>(dropped.reserve(device_.irqs.size()));
  device_.function.set_bus_master(false);
  device_.irqs.disable(dropped);
  device_.config.set_msi_vectors(0);
  if (device_.reset_works) static_cast<void>(device_.function.reset());
  error_event = std::move(device_.error_event);
  request_event = std::move(device_.request_event);
  iommufd = std::move(iommufd_);
  bound = std::move(bound_);
  iommufd->unbind(*bound);
  device_.user = nullptr;
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
  cmd.pt_id = TRY(iommufd_->attach(task, *bound_, cmd.pt_id));
  const Result<void> answered = task.copy_out(arg + offsetof(uapi::VfioAttachIommufdPt, pt_id), cmd.pt_id);
  // What it replaced is gone; a first attachment nobody heard of is undone.
  if (!answered && !was_attached) static_cast<void>(iommufd_->detach(*bound_));
  return answered;
}

Result<void> VfioFile::detach(Task& task, UserAddr arg) {
  const auto cmd = TRY(copy_in_argsz<uapi::VfioDetachIommufdPt>(task, arg, uapi::kVfioDetachIommufdPtMin));
  if ((cmd.flags & ~uapi::vfio_device::kAttachFlagPasid) != 0) return fail(Errno::Einval);
  if ((cmd.flags & uapi::vfio_device::kAttachFlagPasid) != 0) {
    return fail(cmd.argsz < sizeof(cmd) ? Errno::Einval : Errno::Eopnotsupp);
  }
  MutexGuard guard(device_.lock);
  return iommufd_->detach(*bound_);
}

// --- what there is -----------------------------------------------------------------------------------------------

Result<void> VfioFile::get_info(Task& task, UserAddr arg) {
  const auto asked = TRY(copy_in_argsz<uapi::VfioDeviceInfo>(task, arg, uapi::kVfioDeviceInfoMin));
  uapi::VfioDeviceInfo info{};
  info.argsz = asked.argsz;
  info.flags = uapi::vfio_device::kFlagPci;
  info.num_regions = uapi::vfio_region::kCount;
  info.num_irqs = uapi::vfio_irq::kCount;
  {
    MutexGuard guard(device_.lock);
    if (device_.reset_works) info.flags |= uapi::vfio_device::kFlagReset;
  }
  return copy_out_prefix(task, arg, info, asked.argsz);
}

// Ports are not reachable through the machine, so I/O BARs are shown as none.
Result<void> VfioFile::get_region_info(Task& task, UserAddr arg) {
  auto info = TRY(copy_in_argsz<uapi::VfioRegionInfo>(task, arg, sizeof(uapi::VfioRegionInfo)));
  // VGA: no function here has it.
  if (info.index >= uapi::vfio_region::kVga) return fail(Errno::Einval);
  info.offset = kRegions + (u64{info.index} << kRegionShift);
  info.size = info.flags = info.cap_offset = 0;
  constexpr u32 kBoth = uapi::vfio_region::kRead | uapi::vfio_region::kWrite;
  struct {
    uapi::VfioRegionInfo info;
    uapi::VfioCapHeader msix;
  } answer{};
  usize bytes = sizeof(info);
  if (info.index == uapi::vfio_region::kConfig) {
    MutexGuard guard(device_.lock);
    info.size = device_.config.size();
    info.flags = kBoth;
  } else if (info.index < pci::Function::kBars) {
    const pci::Bar& bar = device_.function.bars()[info.index];
    if (bar.kind == pci::Bar::Kind::Memory && bar.size != 0) {
      info.size = bar.size;
      info.flags = kBoth | (mappable(info.index) ? uapi::vfio_region::kMmap : 0);
      if (mappable(info.index) && holds_msix_table(info.index)) {
        info.flags |= uapi::vfio_region::kCaps;
        if (info.argsz >= sizeof(answer)) {
          info.cap_offset = sizeof(info);
          bytes = sizeof(answer);
        } else {
          // As much as it takes; the caller asks again.
          info.argsz = sizeof(answer);
        }
      }
    }
  }
  answer.info = info;
  answer.msix = {.id = uapi::vfio_region::kCapMsixMappable, .version = 1, .next = 0};
  return copy_out_prefix(task, arg, answer, bytes);
}

u32 VfioFile::irq_count(u32 index) const {
  switch (index) {
    // The program is shown no interrupt pin.
    case uapi::vfio_irq::kMsi: return device_.function.msi_vectors();
    case uapi::vfio_irq::kMsix: return device_.function.msix_vectors();
    case uapi::vfio_irq::kErr: return device_.function.find(pci::CapabilityId::PciExpress) != 0 ? 1 : 0;
    case uapi::vfio_irq::kReq: return 1;
    default: return 0;
  }
}

Result<void> VfioFile::get_irq_info(Task& task, UserAddr arg) {
  auto info = TRY(copy_in_argsz<uapi::VfioIrqInfo>(task, arg, sizeof(uapi::VfioIrqInfo)));
  if (info.index >= uapi::vfio_irq::kCount) return fail(Errno::Einval);
  info.count = irq_count(info.index);
  info.flags = uapi::vfio_irq::kInfoEventfd;
  if (info.index == uapi::vfio_irq::kIntx) {
    info.flags |= uapi::vfio_irq::kInfoMaskable | uapi::vfio_irq::kInfoAutomasked;
  } else if (info.index != uapi::vfio_irq::kMsix) {
    info.flags |= uapi::vfio_irq::kInfoNoResize;
  }
  return copy_out_prefix(task, arg, info, sizeof(info));
}

// --- interrupts --------------------------------------------------------------------------------------------------

Result<void> VfioFile::set_irqs(Task& task, UserAddr arg) {
  const auto set = TRY(copy_in_argsz<uapi::VfioIrqSet>(task, arg, sizeof(uapi::VfioIrqSet)));
  using namespace uapi::vfio_irq;
  if (set.index >= kCount || set.count >= ~u32{0} - set.start) return fail(Errno::Einval);
  if ((set.flags & ~(kDataMask | kActions)) != 0) return fail(Errno::Einval);
  // Also when everything is to be disabled: an index without vectors has nothing to disable.
  const u32 have = irq_count(set.index);
  if (set.start >= have || set.start + set.count > have) return fail(Errno::Einval);
  u32 unit = 0;
  switch (set.flags & kDataMask) {
    case kDataNone: break;
    case kDataBool: unit = 1; break;
    case kDataEventfd: unit = 4; break;
    default: return fail(Errno::Einval);
  }
  if ((set.argsz - sizeof(set)) / (unit != 0 ? unit : 1) < set.count && unit != 0) return fail(Errno::Einval);

  const UserAddr data = arg + sizeof(set);
  Vec<u8> chosen(module_.heap());
  Vec<Result<Ref<EventFd>>> events(module_.heap());
  for (u32 i = 0; unit == 1 && i < set.count; ++i) {
    const u8 value = TRY(task.copy_in<u8>(data + i));
    TRY(chosen.push_back(value));
  }
  for (u32 i = 0; unit == 4 && i < set.count; ++i) {
    const s32 fd = TRY(task.copy_in<s32>(data + u64{i} * 4));
    const auto look_up = [&]() -> Result<Ref<EventFd>> {
      if (fd == -1) return Ref<EventFd>();
      const Ref<File> file = TRY(task.file(fd));
      EventFd* const event = file_cast<EventFd>(file.get());
      if (!event) return fail(Errno::Einval);
      return Ref<EventFd>(event);
    };
    TRY(events.push_back(look_up()));
  }
  // Masking and unmasking exist for INTx alone, which is not there.
  if ((set.flags & kActions) != kActionTrigger) return fail(Errno::Enotty);
  switch (set.index) {
    case kMsi: return set_vectors(Interrupts::Mode::Msi, set, events.span(), chosen.span());
    case kMsix: return set_vectors(Interrupts::Mode::Msix, set, events.span(), chosen.span());
    default: return set_single(set, events.span(), chosen.span());
  }
}

Result<void> VfioFile::set_vectors(Interrupts::Mode mode, const uapi::VfioIrqSet& set, Interrupts::Events events,
                                   std::span<const u8> chosen) {
  Vec<Ref<EventFd>> dropped(module_.heap());
  MutexGuard guard(device_.lock);
  TRY(immutability_.may_change());
  Interrupts& irqs = device_.irqs;
  const u32 kind = set.flags & uapi::vfio_irq::kDataMask;
  if (kind == uapi::vfio_irq::kDataNone && set.count == 0 && irqs.mode() == mode) {
    TRY(dropped.reserve(irqs.size()));
    irqs.disable(dropped);
    device_.config.set_msi_vectors(0);
    return {};
  }
  if (kind != uapi::vfio_irq::kDataEventfd) {
    return irqs.trigger(mode, set.start, set.count, [&](unsigned i) { return chosen.empty() || chosen[i] != 0; });
  }
  if (set.count == 0 && irqs.mode() == Interrupts::Mode::None) return fail(Errno::Einval);
  const Result<void> connected = irqs.connect(mode, set.start, events, dropped);
  device_.config.set_msi_vectors(irqs.mode() == Interrupts::Mode::Msi ? irqs.size() : 0);
  return connected;
}

// Errors and requests to let the device go: events that the program may register for. Nothing here raises them; a
// program may do so itself, to test its handler.
Result<void> VfioFile::set_single(const uapi::VfioIrqSet& set, Interrupts::Events events, std::span<const u8> chosen) {
  Ref<EventFd> dropped;
  MutexGuard guard(device_.lock);
  Ref<EventFd>& event = set.index == uapi::vfio_irq::kErr ? device_.error_event : device_.request_event;
  if (set.count > 1) return fail(Errno::Einval);
  switch (set.flags & uapi::vfio_irq::kDataMask) {
    case uapi::vfio_irq::kDataNone:
      if (!event) return fail(Errno::Einval);
      if (set.count != 0) {
        event->host().signal(1);
      } else {
        dropped = std::move(event);
        event = nullptr;
      }
      return {};
    case uapi::vfio_irq::kDataBool:
      if (set.count == 0) return fail(Errno::Einval);
      if (chosen[0] != 0 && event) event->host().signal(1);
      return {};
    default:
      if (set.count == 0) return fail(Errno::Einval);
      if (!events[0]) return fail(events[0].error());
      dropped = std::move(event);
      event = *events[0];
      return {};
  }
}

// --- reset, features ----------------------------------------------------------------------------------------------

// Never while a session has the device: whoever takes it over finds it at work (design §7).
Result<void> VfioFile::reset_locked() {
  if (incoming_) return fail(Errno::Ebusy);
  TRY(device_.iommu_device.group().may_change());
  if (!device_.reset_works) return fail(Errno::Einval);
  TRY(device_.function.reset());
  // Eventfds stay connected.
  device_.irqs.reprogram();
  return {};
}

// There is no slot and no bus that could be reset without touching other devices.
Result<void> VfioFile::hot_reset(Task& task, UserAddr arg) {
  struct Head {
    u32 argsz;
    u32 flags;
    u32 count;
  };
  const Head head = TRY(copy_in_argsz<Head>(task, arg, sizeof(Head)));
  static_cast<void>(head);
  return fail(Errno::Enodev);
}

Result<void> VfioFile::feature(Task& task, UserAddr arg) {
  const auto cmd = TRY(copy_in_argsz<uapi::VfioFeature>(task, arg, sizeof(uapi::VfioFeature)));
  using namespace uapi::vfio_feature;
  if ((cmd.flags & ~(kIndexMask | kGet | kSet | kProbe)) != 0) return fail(Errno::Einval);
  if ((cmd.flags & (kGet | kSet | kProbe)) == (kGet | kSet)) return fail(Errno::Einval);
  return fail(Errno::Enotty);
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
  const u64 token = TRY(iommufd_->preserve_device(*bound_, session));
  if (const Result<void> kept = module_.pci_live_update.preserve(device_.function); !kept) {
    iommufd_->unpreserve_device(*bound_);
    return fail(kept.error());
  }
  return token;
}

void VfioFile::unpreserve() {
  MutexGuard guard(device_.lock);
  module_.pci_live_update.unpreserve(device_.function);
  iommufd_->unpreserve_device(*bound_);
}

void VfioFile::fill(abi::VfioPciRecord& record) const {
  MutexGuard guard(device_.lock);
  fill_locked(record);
}

Result<void> VfioFile::freeze(abi::VfioPciRecord& record) {
  MutexGuard guard(device_.lock);
  if (!device_.irqs.can_be_carried()) return fail(Errno::Einval);
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
