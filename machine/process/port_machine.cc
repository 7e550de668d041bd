#include "machine/process/port_machine.h"

#include <fcntl.h>

#include <cstring>

#include "machine/host/host_files.h"

namespace perdure::process {

Result<void> PortMachine::open(Phys boot_info) {
  view_ = TRY(Window::reserve(port_.window_log2()));
  direct_map = view_.base();
  window = view_.bytes();
  std::vector<RamPiece> pieces;
  const host::Descriptor ram = TRY(port_.ram(pieces));
  for (const RamPiece& piece : pieces) TRY(view_.map(piece.base, piece.length, ram.get(), piece.offset));
  for (PortedBank& b : TRY(port_.banks())) {
    TRY(view_.map(b.bank.base.value, b.bank.length, b.fd.get(), b.bank.offset));
    bank_files_[b.bank.host_id] = std::move(b.fd);
  }
  if (!in_window(boot_info, sizeof boot_)) return fail(Errno::Eproto);
  std::memcpy(&boot_, virt(boot_info), sizeof boot_);
  return {};
}

u64 PortMachine::mmio_read(Phys at, Width width) {
  return port_.mmio_read(at, width);
}

void PortMachine::mmio_write(Phys at, Width width, u64 value) {
  port_.mmio_write(at, width, value);
}

Result<Bank> PortMachine::bank_attach(HostMemory& memory, u64 offset, u64 length) {
  if (memory.remote()) {
    // One bank, whole: SharedMemory asks for what has no address yet, which is all of it or nothing.
    auto& remote = static_cast<host::RemoteMemory&>(memory);
    if (offset != 0 || length != remote.size()) return fail(Errno::Einval);
    return port_.bank_attach(remote);
  }
  const int fd = static_cast<host::Memfd&>(memory).fd();
  const Bank bank = TRY(port_.bank_attach(fd, offset, length));
  if (auto mapped = view_.map(bank.base.value, bank.length, fd, bank.offset); !mapped) {
    port_.bank_detach(bank);
    return fail(mapped.error());
  }
  return bank;
}

void PortMachine::bank_detach(const Bank& bank) {
  // Of remote memory there is nothing to unmap.
  if (bank.host_id < host::RemoteMemory::kFirstId) view_.unmap(bank.base.value, bank.length);
  port_.bank_detach(bank);
}

Result<Ref<HostMemory>> PortMachine::bank_memory(u64 host_id) {
  const std::scoped_lock lock(mutex_);
  const auto file = bank_files_.find(host_id);
  if (file == bank_files_.end()) return fail(Errno::Enoent);
  host::Descriptor copy(fcntl(file->second.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail(host::last_error());
  return host::open_memory(host_objects_, std::move(copy));
}

Result<Ref<HostMemory>> PortMachine::host_memory_create(u64 bytes) {
  return host::create_memory(host_objects_, bytes);
}

}  // namespace perdure::process
