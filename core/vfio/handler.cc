#include "core/vfio/handler.h"

#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/vfio/group_file.h"

namespace perdure::vfio {

bool VfioHandler::can_preserve(File& file) const {
  return file_cast<VfioFile>(&file) || file_cast<GroupDeviceFile>(&file);
}

Result<void> VfioHandler::preserve(luo::FileState& state) {
  if (const GroupDeviceFile* const file = file_cast<GroupDeviceFile>(state.file)) {
    log(module_.machine(), LogLevel::Error,
        Line() << "vfio" << file->device().index << " was opened through its group and cannot be preserved: open "
               << "/dev/vfio/devices/vfio" << file->device().index << " and bind it to an iommufd");
    return fail(Errno::Eopnotsupp);
  }
  VfioFile* const file = file_cast<VfioFile>(state.file);
  if (!file) return fail(Errno::Einval);
  abi::VfioPciRecord record;
  record.magic = abi::kVfioPciMagic;
  record.version = module_.config.write_version;
  record.generation = state.session.generation();
  record.iommufd_token = TRY(file->preserve(state.session));
  ScopeGuard undo([&] { file->unpreserve(); });
  file->fill(record);
  const Phys at = TRY(write_record(kho(), record));
  undo.dismiss();
  state.data = at.value;
  return {};
}

void VfioHandler::unpreserve(luo::FileState& state) {
  file_cast<VfioFile>(state.file)->unpreserve();
  kho().unpreserve_free(Phys(state.data), kPageSize);
}

// What may have changed since preserve: bus mastering, interrupts, the program's view.
Result<void> VfioHandler::freeze(luo::FileState& state) {
  const Phys at(state.data);
  abi::VfioPciRecord record = *module_.machine().virt<abi::VfioPciRecord>(at);
  if (const Result<void> frozen = file_cast<VfioFile>(state.file)->freeze(record); !frozen) {
    // As Linux has it: nobody would have the vectors in the next kernel's early boot.
    log(module_.machine(), LogLevel::Error,
        Line() << "vfio: a preserved device has interrupts on, and its IOMMU unit does not remap them: disable them "
                  "(VFIO_DEVICE_SET_IRQS) before the kexec");
    return frozen;
  }
  update_record(module_.machine(), at, record);
  seal_record(module_.machine(), at);
  return {};
}

void VfioHandler::unfreeze(luo::FileState& state) {
  file_cast<VfioFile>(state.file)->unfreeze();
  unseal_record(module_.machine(), Phys(state.data));
}

Result<abi::VfioPciRecord> VfioHandler::read(const luo::FileState& state) const {
  return read_record(kho(), Phys(state.data), state.session.generation());
}

PciDevice* VfioHandler::device_of(const abi::VfioPciRecord& record) const {
  return module_.find({.segment = static_cast<u16>(record.segment), .bdf = static_cast<u16>(record.bdf)});
}

Result<void> VfioHandler::compare(const abi::VfioPciRecord& record, const pci::Function& function) const {
  const auto refuse = [&](std::string_view what) -> std::unexpected<Errno> {
    log(module_.machine(), LogLevel::Error,
        Line() << "preserved device " << Hex{function.source().segment} << ":" << Hex{function.source().bdf} << " "
               << what);
    return fail(Errno::Eproto);
  };
  if (record.ids != function.ids()) return refuse("is another one than was preserved");
  for (unsigned i = 0; i < pci::Function::kBars; ++i) {
    const pci::Bar& bar = function.bars()[i];
    if (record.bar_size[i] == 0) continue;
    if (bar.base != Phys(record.bar_address[i])) return refuse("decodes at other addresses than it did");
    // Two records of one kernel: with the device, which is at work, neither size can be compared.
    if (bar.size != record.bar_size[i]) return refuse("has a BAR of another size by PCI's own record");
  }
  return {};
}

Result<Ref<File>> VfioHandler::retrieve(luo::FileState& state) {
  const abi::VfioPciRecord record = TRY(read(state));
  PciDevice* const device = device_of(record);
  if (!device) {
    log(module_.machine(), LogLevel::Error,
        Line() << "preserved device " << Hex{record.segment} << ":" << Hex{record.bdf} << " is not there");
    return fail(Errno::Enodev);
  }
  switch (device->iommu_device.group().ownership()) {
    case Ownership::HeldForSession: break;
    case Ownership::Unowned:  // nothing of it was live: blocked, too
    case Ownership::Quarantined: return fail(Errno::Eio);
    case Ownership::Owned: return fail(Errno::Ebusy);
  }
  TRY(compare(record, device->function));
  Ref<VfioFile> file = TRY(module_.heap().make_ref<VfioFile>(module_, *device, record));
  MutexGuard guard(device->lock);
  device->in_transfer = true;
  return Ref<File>(std::move(file));
}

bool VfioHandler::can_finish(luo::FileState& state) {
  if (VfioFile* file = file_cast<VfioFile>(state.file)) {
    return file->bound() || file->device().iommu_device.group().ownership() == Ownership::Quarantined;
  }
  if (state.retrieve_status == 0) return false;
  // Retrieving failed: there is nothing to lose only if the device is blocked for good, or gone. A record that says
  // nothing about any device does not stand in the way: whoever is still held when its iommufd is finished is
  // quarantined then.
  const Result<abi::VfioPciRecord> record = read(state);
  if (!record) return record.error() == Errno::Eproto;
  const PciDevice* const device = device_of(*record);
  if (!device) return true;
  // Blocked for good; or reset since, and perhaps somebody else's by now.
  return device->iommu_device.group().ownership() != Ownership::HeldForSession;
}

void VfioHandler::finish(luo::FileState& state) {
  VfioFile* const file = file_cast<VfioFile>(state.file);
  if (file) file->finish();
  const Result<abi::VfioPciRecord> record = read(state);
  if (!record) return;
  if (PciDevice* const device = file ? nullptr : device_of(*record)) device->function.let_go();
  discard_record(kho(), Phys(state.data));
}

Result<u64> VfioHandler::forward(luo::FileState& state) {
  abi::VfioPciRecord record = TRY(read(state));
  PciDevice* const device = device_of(record);
  const u64 next = state.session.next_generation();
  // One that was quarantined, or is gone, is not handed on as preserved; its record goes along, and says to the next
  // kernel, which finds no entry of it, what there was.
  const bool held = device && device->iommu_device.group().ownership() == Ownership::HeldForSession;
  if (held) TRY(forward_held(*device, record, next));
  ScopeGuard undo([&] {
    if (held) unforward_held(*device);
  });
  // What the older version did not hold is not known now either.
  record.version = record.version < module_.config.write_version ? record.version : module_.config.write_version;
  record.generation = next;
  const Phys outgoing = TRY(write_record(kho(), record));
  seal_record(module_.machine(), outgoing);
  undo.dismiss();
  return outgoing.value;
}

Result<void> VfioHandler::forward_held(PciDevice& device, const abi::VfioPciRecord& record, u64 next_generation) {
  TRY(compare(record, device.function));
  TRY(module_.iommufd.live_update.preserve_held_device(device.iommu_device, record.generation, record.iommufd_token,
                                                       next_generation, record.iommufd_token));
  const Result<void> kept = module_.pci_live_update.preserve(device.function);
  if (!kept) module_.iommufd.live_update.unpreserve_device(device.iommu_device);
  return kept;
}

void VfioHandler::unforward_held(PciDevice& device) {
  module_.pci_live_update.unpreserve(device.function);
  module_.iommufd.live_update.unpreserve_device(device.iommu_device);
}

void VfioHandler::unforward(luo::FileState& state, u64 outgoing) {
  const Result<abi::VfioPciRecord> record = read(state);
  PERDURE_ASSERT(record.has_value());
  PciDevice* const device = device_of(*record);
  if (device && device->iommu_device.preserved()) unforward_held(*device);
  kho().unpreserve_free(Phys(outgoing), kPageSize);
}

}  // namespace perdure::vfio
