#include "machine/intercept/trap/traced_memory.h"

#include <sys/uio.h>

#include <algorithm>
#include <cstring>

namespace perdure::intercept {

Result<void> read_process(pid_t thread, u64 from, std::span<std::byte> to) {
  const iovec here = {to.data(), to.size()};
  const iovec there = {reinterpret_cast<void*>(from), to.size()};
  if (process_vm_readv(thread, &here, 1, &there, 1, 0) != static_cast<ssize_t>(to.size())) return fail(Errno::Efault);
  return {};
}

Result<void> write_process(pid_t thread, u64 to, std::span<const std::byte> from) {
  const iovec here = {const_cast<std::byte*>(from.data()), from.size()};
  const iovec there = {reinterpret_cast<void*>(to), from.size()};
  if (process_vm_writev(thread, &here, 1, &there, 1, 0) != static_cast<ssize_t>(from.size())) {
    return fail(Errno::Efault);
  }
  return {};
}

template <class Device, class Ordinary>
Result<void> TracedMemory::each(u64 address, usize bytes, bool write, const Device& device, const Ordinary& ordinary) {
  for (usize done = 0; done < bytes;) {
    const u64 at = address + done;
    if (at < last_.start || at >= last_.end) {
      const auto found = mappings_.at(at);
      if (!found) return fail(Errno::Efault);
      last_ = *found;
    }
    const usize length = std::min<u64>(bytes - done, last_.end - at);
    if (last_.shared && bus_.ours(last_.device, last_.inode)) {
      if (write ? !last_.writable : !last_.readable) return fail(Errno::Efault);
      const Result<void> answered =
          in_bus_accesses(last_.offset + (at - last_.start), length, [&](u64 position, usize width, usize part) {
            return device(last_, position, done + part, static_cast<unsigned>(width));
          });
      if (!answered) return fail(Errno::Eio);
    } else {
      TRY(ordinary(at, done, length));
    }
    done += length;
  }
  return {};
}

Result<void> TracedMemory::read(u64 address, std::span<std::byte> to) {
  return each(
      address, to.size(), false,
      [&](const Mapping& m, u64 position, usize offset, unsigned bytes) -> Result<void> {
        const u64 value = TRY(bus_.read(m.device, m.inode, position, bytes));
        std::memcpy(to.data() + offset, &value, bytes);
        return {};
      },
      [&](u64 at, usize offset, usize bytes) { return read_process(thread_, at, to.subspan(offset, bytes)); });
}

Result<void> TracedMemory::write(u64 address, std::span<const std::byte> from) {
  return each(
      address, from.size(), true,
      [&](const Mapping& m, u64 position, usize offset, unsigned bytes) -> Result<void> {
        u64 value = 0;
        std::memcpy(&value, from.data() + offset, bytes);
        return bus_.write(m.device, m.inode, position, bytes, value);
      },
      [&](u64 at, usize offset, usize bytes) { return write_process(thread_, at, from.subspan(offset, bytes)); });
}

}  // namespace perdure::intercept
