// Memory as a thread of another process sees it: mappings of devices' registers and everything else.
#pragma once
#include "machine/intercept/trap/mappings.h"
#include "machine/intercept/trap/memory.h"
#include "machine/intercept/trap/register_bus.h"

namespace perdure::intercept {

class TracedMemory final : public Memory {
 public:
  // For one instruction, whose first access is in `first`.
  TracedMemory(pid_t thread, Mappings& mappings, const Mapping& first, RegisterBus& bus)
      : thread_(thread), mappings_(mappings), last_(first), bus_(bus) {}

  Result<void> read(u64 address, std::span<std::byte> to) override;
  Result<void> write(u64 address, std::span<const std::byte> from) override;

 private:
  // Calls `device(mapping, position, offset, bytes)` or `ordinary(address, offset, bytes)` for each stretch.
  template <class Device, class Ordinary>
  Result<void> each(u64 address, usize bytes, bool write, const Device& device, const Ordinary& ordinary);

  pid_t thread_;
  Mappings& mappings_;
  Mapping last_;
  RegisterBus& bus_;
};

// Memory of another process that is no device's: all of it, or Efault.
Result<void> read_process(pid_t thread, u64 from, std::span<std::byte> to);
Result<void> write_process(pid_t thread, u64 to, std::span<const std::byte> from);

}  // namespace perdure::intercept
