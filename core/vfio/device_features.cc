// VFIO_DEVICE_FEATURE and VFIO_DEVICE_IOEVENTFD (uapi §3.2, §3.8).
#include "core/base/scope_guard.h"
#include "core/vfio/vfio.h"

namespace perdure::vfio {

namespace {

using namespace uapi::vfio_feature;

// What a feature that exists says before it looks at anything else. True: there is nothing more to do.
Result<bool> check_feature(const uapi::VfioFeature& cmd, u32 offered, usize data) {
  if ((cmd.flags & (kGet | kSet) & ~offered) != 0) return fail(Errno::Einval);
  if ((cmd.flags & kProbe) != 0) return true;
  if ((cmd.flags & (kGet | kSet)) == 0) return fail(Errno::Einval);
  if (cmd.argsz - sizeof(cmd) < data) return fail(Errno::Einval);
  return false;
}

Result<Ref<EventFd>> event_of(Task& task, s32 fd) {
  const Ref<File> file = TRY(task.file(fd));
  EventFd* const event = file_cast<EventFd>(file.get());
  if (!event) return fail(Errno::Einval);
  return Ref<EventFd>(event);
}

}  // namespace

// What a plain vfio-pci has of them: no migration, no dirty page logging, no bus mastering by request. Memory of a BAR
// as a dma-buf is for devices to reach each other, which none does here.
Result<void> DeviceFile::feature(Task& task, UserAddr arg) {
  const auto cmd = TRY(copy_in_argsz<uapi::VfioFeature>(task, arg, sizeof(uapi::VfioFeature)));
  if ((cmd.flags & ~(kIndexMask | kGet | kSet | kProbe)) != 0) return fail(Errno::Einval);
  if ((cmd.flags & (kGet | kSet | kProbe)) == (kGet | kSet)) return fail(Errno::Einval);
  const UserAddr data = arg + sizeof(cmd);
  switch (cmd.flags & kIndexMask) {
    case kVfToken: {
      if (device_.function.find(pci::ExtendedCapabilityId::SrIov) == 0) return fail(Errno::Enotty);
      if (TRY(check_feature(cmd, kSet, sizeof(Uuid)))) return {};
      device_.token.set(TRY(task.copy_in<Uuid>(data)));
      return {};
    }
    case kLowPowerEntry:
      if (TRY(check_feature(cmd, kSet, 0))) return {};
      return enter_low_power(LowPower::On, nullptr);
    case kLowPowerEntryWakeup: {
      if (TRY(check_feature(cmd, kSet, sizeof(uapi::VfioLowPowerWakeup)))) return {};
      const auto entry = TRY(task.copy_in<uapi::VfioLowPowerWakeup>(data));
      if (entry.eventfd < 0) return fail(Errno::Einval);
      return enter_low_power(LowPower::UntilWoken, TRY(event_of(task, entry.eventfd)));
    }
    case kLowPowerExit: {
      if (TRY(check_feature(cmd, kSet, 0))) return {};
      MutexGuard guard(device_.lock);
      // One that waits to be woken was, by this call.
      device_.low_power = LowPower::Off;
      return {};
    }
    case kDmaBuf: return fail(Errno::Eopnotsupp);
    default: return fail(Errno::Enotty);
  }
}

Result<void> DeviceFile::enter_low_power(LowPower how, Ref<EventFd> event) {
  MutexGuard guard(device_.lock);
  if (device_.low_power != LowPower::Off) return fail(Errno::Einval);
  device_.low_power = how;
  device_.wake_event = std::move(event);
  return {};
}

Result<void> DeviceFile::ioeventfd(Task& task, UserAddr arg) {
  const auto cmd = TRY(copy_in_argsz<uapi::VfioIoeventfd>(task, arg, uapi::kVfioIoeventfdMin));
  if (cmd.flags > 8 || !is_pow2(cmd.flags) || cmd.fd < -1) return fail(Errno::Einval);
  const Position at = TRY(locate(cmd.offset));
  if (at.region >= pci::Function::kBars) return fail(Errno::Einval);
  const pci::Bar& bar = device_.function.bars()[at.region];
  const u32 bytes = cmd.flags;
  if (bar.kind != pci::Bar::Kind::Memory || bar.size < bytes || at.offset > bar.size - bytes)
    return fail(Errno::Einval);
  // Not past the kernel's hand on interrupts.
  if (in_msix_table(at.region, at.offset, bytes)) return fail(Errno::Einval);
  const IoEvents::Doorbell doorbell{at.region, bytes, at.offset,
                                    bytes == 8 ? cmd.data : cmd.data & ((u64{1} << bytes * 8) - 1)};
  Ref<EventFd> event;
  Ref<EventFd> dropped;
  const Result<Ref<EventFd>> found = cmd.fd < 0 ? Result<Ref<EventFd>>(Ref<EventFd>()) : event_of(task, cmd.fd);
  MutexGuard guard(device_.lock);
  if (device_.io_events.contains(doorbell)) {
    if (cmd.fd >= 0) return fail(Errno::Eexist);
    dropped = device_.io_events.remove(doorbell);
    return {};
  }
  if (cmd.fd < 0) return fail(Errno::Enodev);
  if (device_.io_events.full()) return fail(Errno::Enospc);
  event = TRY(Result<Ref<EventFd>>(found));
  return device_.io_events.add(doorbell, std::move(event));
}

}  // namespace perdure::vfio
