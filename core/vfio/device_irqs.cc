// Interrupts of a device, by VFIO_DEVICE_GET_IRQ_INFO and SET_IRQS (uapi §3.5).
#include "core/vfio/vfio.h"

namespace perdure::vfio {

u32 DeviceFile::irq_count_locked(u32 index) const {
  switch (index) {
    case uapi::vfio_irq::kIntx: return device_.intx.there() ? 1 : 0;
    case uapi::vfio_irq::kMsi: return device_.function.msi_vectors();
    case uapi::vfio_irq::kMsix: return device_.function.msix_vectors();
    case uapi::vfio_irq::kErr: return device_.function.find(pci::CapabilityId::PciExpress) != 0 ? 1 : 0;
    case uapi::vfio_irq::kReq: return 1;
    default: return 0;
  }
}

Result<void> DeviceFile::get_irq_info(Task& task, UserAddr arg) {
  auto info = TRY(copy_in_argsz<uapi::VfioIrqInfo>(task, arg, sizeof(uapi::VfioIrqInfo)));
  if (info.index >= uapi::vfio_irq::kCount) return fail(Errno::Einval);
  {
    MutexGuard guard(device_.lock);
    info.count = irq_count_locked(info.index);
  }
  // A conventional function has no errors to report, and so no such index.
  if (info.index == uapi::vfio_irq::kErr && info.count == 0) return fail(Errno::Einval);
  info.flags = uapi::vfio_irq::kInfoEventfd;
  if (info.index == uapi::vfio_irq::kIntx) {
    info.flags |= uapi::vfio_irq::kInfoMaskable | uapi::vfio_irq::kInfoAutomasked;
  } else if (info.index != uapi::vfio_irq::kMsix) {
    info.flags |= uapi::vfio_irq::kInfoNoResize;
  }
  return copy_out_prefix(task, arg, info, sizeof(info));
}

// --- interrupts --------------------------------------------------------------------------------------------------

Result<void> DeviceFile::set_irqs(Task& task, UserAddr arg) {
  const auto set = TRY(copy_in_argsz<uapi::VfioIrqSet>(task, arg, sizeof(uapi::VfioIrqSet)));
  using namespace uapi::vfio_irq;
  if (set.index >= kCount || set.count >= ~u32{0} - set.start) return fail(Errno::Einval);
  if ((set.flags & ~(kDataMask | kActions)) != 0) return fail(Errno::Einval);
  // Also when everything is to be disabled: an index without vectors has nothing to disable.
  u32 have = 0;
  {
    MutexGuard guard(device_.lock);
    have = irq_count_locked(set.index);
  }
  if (set.start >= have || set.start + set.count > have) return fail(Errno::Einval);
  u32 unit = 0;
  switch (set.flags & kDataMask) {
    case kDataNone: break;
    case kDataBool: unit = 1; break;
    case kDataEventfd: unit = 4; break;
    default: return fail(Errno::Einval);
  }
  if (unit != 0 && (set.argsz - sizeof(set)) / unit < set.count) return fail(Errno::Einval);

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
  // Masking and unmasking exist for INTx alone.
  const u32 action = set.flags & kActions;
  if (set.index == kIntx && (action == kActionMask || action == kActionUnmask || action == kActionTrigger)) {
    return set_intx(set, events.span(), chosen.span());
  }
  if (action != kActionTrigger) return fail(Errno::Enotty);
  switch (set.index) {
    case kMsi: return set_vectors(Interrupts::Mode::Msi, set, events.span(), chosen.span());
    case kMsix: return set_vectors(Interrupts::Mode::Msix, set, events.span(), chosen.span());
    default: return set_single(set, events.span(), chosen.span());
  }
}

Result<void> DeviceFile::set_intx(const uapi::VfioIrqSet& set, Interrupts::Events events, std::span<const u8> chosen) {
  using namespace uapi::vfio_irq;
  Ref<EventFd> dropped[2];
  MutexGuard guard(device_.lock);
  TRY(immutability_.may_change());
  Intx& intx = device_.intx;
  const u32 kind = set.flags & kDataMask;
  if ((set.flags & kActions) == kActionTrigger) return trigger_intx_locked(set, events, chosen, dropped);
  if (!intx.on() || set.start != 0 || set.count != 1) return fail(Errno::Einval);
  if (kind == kDataEventfd) {
    // Nobody masks by eventfd.
    if ((set.flags & kActions) == kActionMask) return fail(Errno::Enotty);
    dropped[0] = TRY(intx.set_unmask_event(TRY(Result<Ref<EventFd>>(events[0]))));
    return {};
  }
  if (kind == kDataBool && chosen[0] == 0) return {};
  (set.flags & kActions) == kActionMask ? intx.mask() : intx.unmask();
  return {};
}

Result<void> DeviceFile::trigger_intx_locked(const uapi::VfioIrqSet& set, Interrupts::Events events,
                                             std::span<const u8> chosen, Ref<EventFd> (&dropped)[2]) {
  using namespace uapi::vfio_irq;
  Intx& intx = device_.intx;
  const u32 kind = set.flags & kDataMask;
  if (intx.on() && set.count == 0 && kind == kDataNone) {
    intx.disable(dropped[0], dropped[1]);
    return {};
  }
  if (device_.irqs.mode() != Interrupts::Mode::None || set.start != 0 || set.count != 1) return fail(Errno::Einval);
  if (kind == kDataEventfd) {
    Ref<EventFd> event = TRY(Result<Ref<EventFd>>(events[0]));
    if (!intx.on()) return intx.enable(std::move(event), device_.config.interrupt_disabled());
    dropped[0] = intx.set_event(std::move(event));
    return {};
  }
  if (!intx.on()) return fail(Errno::Einval);
  if (kind == kDataNone || chosen[0] != 0) intx.trigger();
  return {};
}

Result<void> DeviceFile::set_vectors(Interrupts::Mode mode, const uapi::VfioIrqSet& set, Interrupts::Events events,
                                     std::span<const u8> chosen) {
  Vec<Ref<EventFd>> dropped(module_.heap());
  MutexGuard guard(device_.lock);
  TRY(immutability_.may_change());
  // One way of interrupting at a time.
  if (device_.intx.on()) return fail(Errno::Einval);
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
Result<void> DeviceFile::set_single(const uapi::VfioIrqSet& set, Interrupts::Events events,
                                    std::span<const u8> chosen) {
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

}  // namespace perdure::vfio
