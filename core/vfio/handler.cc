#include "core/vfio/handler.h"

#include "core/base/log.h"
#include "core/base/scope_guard.h"

namespace perdure::vfio {

Result<void> VfioHandler::preserve(luo::FileState& state) {
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
  file_cast<VfioFile>(state.file)->fill(record);
  update_record(module_.machine(), at, record);
  seal_record(module_.machine(), at);
  return {};
}

void VfioHandler::unfreeze(luo::FileState& state) {
  unseal_record(module_.machine(), Phys(state.data));
}

Result<abi::VfioPciRecord> VfioHandler::read(const luo::FileState& state) const {
  return read_record(kho(), Phys(state.data), state.session.generation());
}

Result<PciDevice*> VfioHandler::device_of(const abi::VfioPciRecord& record) const {
  const SourceId source{.segment = static_cast<u16>(record.segment), .bdf = static_cast<u16>(record.bdf)};
  const auto refuse = [&](Errno error, std::string_view what) -> std::unexpected<Errno> {
    log(module_.machine(), LogLevel::Error,
        Line() << "preserved device " << Hex{source.segment} << ":" << Hex{source.bdf} << " " << what);
    return fail(error);
  };
  PciDevice* const device = module_.find(source);
  if (!device) return refuse(Errno::Enodev, "is not there");
  const pci::Function& function = device->function;
  if (record.ids != (u32{function.device()} << 16 | function.vendor())) {
    return refuse(Errno::Eproto, "is another one than was preserved");
  }
  for (unsigned i = 0; i < pci::Function::kBars; ++i) {
    if (record.bar_size[i] != 0 && function.bars()[i].base != Phys(record.bar_address[i])) {
      return refuse(Errno::Eproto, "decodes at other addresses than it did");
    }
  }
  return device;
}

Result<Ref<File>> VfioHandler::retrieve(luo::FileState& state) {
  const abi::VfioPciRecord record = TRY(read(state));
  PciDevice* const device = TRY(device_of(record));
  switch (device->iommu_device.group().ownership()) {
    case Ownership::HeldForSession: break;
    case Ownership::Unowned:  // nothing of it was live: blocked, too
    case Ownership::Quarantined: return fail(Errno::Eio);
    case Ownership::Owned: return fail(Errno::Ebusy);
  }
  Ref<VfioFile> file = TRY(module_.heap().make_ref<VfioFile>(module_, *device, record));
  // A device at work is not asked how large its BARs are.
  for (unsigned i = 0; i < pci::Function::kBars; ++i) {
    if (record.bar_size[i] != 0) device->function.set_bar_size(i, record.bar_size[i]);
  }
  MutexGuard guard(device->lock);
  device->in_transfer = true;
  return Ref<File>(std::move(file));
}

bool VfioHandler::can_finish(luo::FileState& state) {
  if (VfioFile* file = file_cast<VfioFile>(state.file)) {
    return file->bound() || file->device().iommu_device.group().ownership() == Ownership::Quarantined;
  }
  if (state.retrieve_status == 0) return false;
  // Retrieving failed: there is nothing to lose only if the device is blocked for good.
  const Result<abi::VfioPciRecord> record = read(state);
  if (!record) return false;
  const Result<PciDevice*> device = device_of(*record);
  if (!device) return false;
  const Ownership ownership = (*device)->iommu_device.group().ownership();
  return ownership == Ownership::Quarantined || ownership == Ownership::Unowned;
}

void VfioHandler::finish(luo::FileState& state) {
  if (VfioFile* file = file_cast<VfioFile>(state.file)) file->finish();
  if (read(state)) discard_record(kho(), Phys(state.data));
}

Result<u64> VfioHandler::forward(luo::FileState& state) {
  abi::VfioPciRecord record = TRY(read(state));
  PciDevice* const device = TRY(device_of(record));
  const u64 next = state.session.next_generation();
  // One that was quarantined is not handed on as preserved; its record goes along, and says to the next kernel, which
  // finds no entry of it, what there was.
  const bool held = device->iommu_device.group().ownership() == Ownership::HeldForSession;
  if (held) {
    TRY(module_.iommufd.live_update.preserve_held_device(device->iommu_device, record.generation, record.iommufd_token,
                                                         next, record.iommufd_token));
  }
  ScopeGuard undo([&] {
    if (held) module_.iommufd.live_update.unpreserve_device(device->iommu_device);
  });
  // What the older version did not hold is not known now either.
  record.version = record.version < module_.config.write_version ? record.version : module_.config.write_version;
  record.generation = next;
  const Phys outgoing = TRY(write_record(kho(), record));
  seal_record(module_.machine(), outgoing);
  undo.dismiss();
  return outgoing.value;
}

void VfioHandler::unforward(luo::FileState& state, u64 outgoing) {
  const Result<abi::VfioPciRecord> record = read(state);
  PERDURE_ASSERT(record.has_value());
  const Result<PciDevice*> device = device_of(*record);
  PERDURE_ASSERT(device.has_value());
  if ((*device)->iommu_device.preserved()) {
    module_.iommufd.live_update.unpreserve_device((*device)->iommu_device);
  }
  kho().unpreserve_free(Phys(outgoing), kPageSize);
}

}  // namespace perdure::vfio
