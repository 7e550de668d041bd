#include "core/vfio/record.h"

#include <cstring>

#include "core/base/log.h"

namespace perdure::vfio {

namespace {

std::span<std::byte> bytes_of(abi::VfioPciRecord& record, u32 version) {
  return std::as_writable_bytes(std::span(&record, 1)).first(abi::vfio_pci_schema(version).size);
}

std::unexpected<Errno> unreadable(Machine& machine, Phys at, std::string_view what) {
  log(machine, LogLevel::Error,
      Line() << "vfio record at " << at << ": " << what << "; its device stays held for its session");
  return fail(Errno::Eproto);
}

}  // namespace

Result<Phys> write_record(Kho& kho, const abi::VfioPciRecord& record) {
  const Phys at = TRY(kho.alloc_preserved(kPageSize));
  update_record(kho.machine(), at, record);
  unseal_record(kho.machine(), at);
  return at;
}

void update_record(Machine& machine, Phys at, const abi::VfioPciRecord& record) {
  *machine.virt<abi::VfioPciRecord>(at) = record;
}

void seal_record(Machine& machine, Phys at) {
  auto& record = *machine.virt<abi::VfioPciRecord>(at);
  abi::seal(abi::vfio_pci_schema(record.version), bytes_of(record, record.version));
}

// Any checksum but the right one.
void unseal_record(Machine& machine, Phys at) {
  seal_record(machine, at);
  auto& record = *machine.virt<abi::VfioPciRecord>(at);
  record.checksum = ~record.checksum;
}

Result<abi::VfioPciRecord> read_record(Kho& kho, Phys at, u64 generation) {
  Machine& machine = kho.machine();
  if (!at || !at.aligned(kPageSize) || !kho.restorable_ram(at, 0)) {
    return unreadable(machine, at, "is not preserved memory");
  }
  // Copied before it is judged, so that what was judged is what is used.
  abi::VfioPciRecord record;
  std::memcpy(&record, machine.virt(at), sizeof(record));
  const u32 version = record.version;
  if (version < abi::kVfioPciReadMin || version > abi::kVfioPciReadMax) {
    return unreadable(machine, at, "is of an unknown version");
  }
  const abi::FieldDef* bad = nullptr;
  if (!abi::validate(abi::vfio_pci_schema(version), bytes_of(record, version), &bad)) {
    return unreadable(machine, at, bad ? bad->name : "has a bad length");
  }
  if (version < 2) {
    std::memset(record.virtual_bars, 0, sizeof(record.virtual_bars));
    record.virtual_command = record.interrupt_line = 0;
  }
  const auto mode = static_cast<abi::VfioPciIrqMode>(record.irq_mode);
  const bool msi = mode == abi::VfioPciIrqMode::Msi;
  if ((mode == abi::VfioPciIrqMode::None) != (record.irte_count == 0) ||
      record.irte_first + record.irte_count > abi::kVfioPciIrteMax || record.irq_vectors > record.irte_count ||
      (msi && (!is_pow2(record.irte_count) || record.irq_usable == 0 || record.irq_usable > record.irte_count)) ||
      (!msi && record.irq_usable != 0)) {
    return unreadable(machine, at, "has interrupts that cannot be");
  }
  if (record.generation != generation) return unreadable(machine, at, "is of another update");
  for (unsigned i = 0; i < 6; ++i) {
    const u64 size = record.bar_size[i];
    if (size != 0 && (!is_pow2(size) || record.bar_address[i] % size != 0)) {
      return unreadable(machine, at, "has a BAR that cannot be");
    }
  }
  return record;
}

void discard_record(Kho& kho, Phys at) {
  if (kho.restore(at, 0)) kho.frames().free(at, 0);
}

}  // namespace perdure::vfio
