// A device in a program's hands: opening, closing, what it is made of (uapi §3.3, §3.4).
#include "core/vfio/device_file.h"

#include "core/base/log.h"
#include "core/vfio/vfio.h"

namespace perdure::vfio {

Result<u64> DeviceFile::device_ioctl(Task& task, u32 cmd, UserAddr arg) {
  wake();
  const auto run = [&]() -> Result<void> {
    switch (cmd) {
      case uapi::kVfioDeviceGetInfo: return get_info(task, arg);
      case uapi::kVfioDeviceGetRegionInfo: return get_region_info(task, arg);
      case uapi::kVfioDeviceGetIrqInfo: return get_irq_info(task, arg);
      case uapi::kVfioDeviceSetIrqs: return set_irqs(task, arg);
      case uapi::kVfioDeviceFeature: return feature(task, arg);
      case uapi::kVfioDeviceIoeventfd: return ioeventfd(task, arg);
      case uapi::kVfioDeviceGetPciHotResetInfo: return get_hot_reset_info(task, arg);
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

void DeviceFile::wake() {
  Ref<EventFd> event;
  {
    MutexGuard guard(device_.lock);
    if (device_.low_power != LowPower::UntilWoken) return;
    device_.low_power = LowPower::Off;
    event = std::move(device_.wake_event);
    device_.wake_event = nullptr;
  }
  event->host().signal(1);
}

Result<uapi::VfioBindIommufd> DeviceFile::copy_in_bind(Task& task, UserAddr arg) {
  const u32 argsz = TRY(ioctl_size(task, arg));
  const auto cmd = TRY(ioctl_copy_in<uapi::VfioBindIommufd>(task, arg, argsz, uapi::kVfioBindIommufdMin));
  if (cmd.iommufd < 0 || (cmd.flags & ~uapi::vfio_device::kBindFlagToken) != 0) return fail(Errno::Einval);
  return cmd;
}

Result<void> DeviceFile::check_token(PciDevice& device, const Uuid* given) {
  if (device.physical) {
    if (given && device.physical->token.is(*given)) return {};
    return fail(Errno::Eacces);
  }
  if (device.function.find(pci::ExtendedCapabilityId::SrIov) != 0) return device.token.admit_physical(given);
  // Neither can have virtual functions nor is one.
  if (given) return fail(Errno::Einval);
  return {};
}

// --- opening and closing ------------------------------------------------------------------------------------------

void DeviceFile::quiet_locked() {
  pci::Function& function = device_.function;
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
  device_.config.begin(device_.intx.there());
  if (device_.physical) device_.physical->token.add_user();
}

void DeviceFile::shut_down_locked(Dropped& dropped) {
  static_cast<void>(dropped.events.reserve(device_.irqs.size()));
  device_.function.set_bus_master(false);
  device_.irqs.disable(dropped.events);
  device_.intx.disable(dropped.single[0], dropped.single[1]);
  dropped.io_events = device_.io_events.clear();
  device_.config.set_msi_vectors(0);
  if (device_.reset_works) static_cast<void>(device_.function.reset());
  dropped.single[2] = std::move(device_.error_event);
  dropped.single[3] = std::move(device_.request_event);
  dropped.single[4] = std::move(device_.wake_event);
  device_.error_event = device_.request_event = device_.wake_event = nullptr;
  device_.low_power = LowPower::Off;
  dropped.iommufd = std::move(device_.iommufd);
  dropped.bound = std::move(device_.bound);
  device_.iommufd = nullptr;
  device_.bound = nullptr;
  if (dropped.iommufd) dropped.iommufd->unbind(*dropped.bound);
  if (device_.physical) device_.physical->token.drop_user();
  device_.opens = 0;
  device_.by_cdev = false;
}

// --- what there is -----------------------------------------------------------------------------------------------

Result<void> DeviceFile::get_info(Task& task, UserAddr arg) {
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
Result<void> DeviceFile::get_region_info(Task& task, UserAddr arg) {
  auto info = TRY(copy_in_argsz<uapi::VfioRegionInfo>(task, arg, sizeof(uapi::VfioRegionInfo)));
  // VGA: no function here has it.
  if (info.index >= uapi::vfio_region::kVga) return fail(Errno::Einval);
  info.offset = position_of(info.index);
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
      const bool maps = is_memory(info.index) || (mappable(info.index) && task.maps_registers());
      info.flags = kBoth | (maps ? uapi::vfio_region::kMmap : 0);
      if (maps && holds_msix_table(info.index)) {
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

}  // namespace perdure::vfio
