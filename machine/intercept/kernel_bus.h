// Trapped accesses, carried out by the kernel.
#pragma once
#include "machine/intercept/kernel_link.h"
#include "machine/intercept/registry.h"
#include "machine/intercept/trap/register_bus.h"

namespace perdure::intercept {

class KernelBus final : public RegisterBus {
 public:
  KernelBus(const Registry& registry, std::unique_ptr<KernelLink> link) : registry_(registry), link_(std::move(link)) {}

  bool ours(u64 device, u64 inode) override { return registry_.find({device, inode}).has_value(); }
  Result<u64> read(u64 device, u64 inode, u64 position, unsigned bytes) override;
  Result<void> write(u64 device, u64 inode, u64 position, unsigned bytes, u64 value) override;

 private:
  Result<u64> access(wire::Call op, FileId file, u64 position, unsigned bytes, u64 value);

  const Registry& registry_;
  std::unique_ptr<KernelLink> link_;
};

}  // namespace perdure::intercept
