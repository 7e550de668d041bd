#include "core/kernel/kernel.h"

namespace perdure {

Kernel::Kernel(Machine& machine, const Config& config)
    : machine_(machine),
      config_(config),
      frames_(machine),
      heap_(frames_),
      kho_(heap_),
      host_files_(heap_),
      stopped_(heap_) {}

Kernel::~Kernel() {
  unload();
  if (luo_) luo_->drop_all_incoming();
  vfio_handler_.reset();
  vfio_.reset();
  iommufd_handler_.reset();
  iommufd_.reset();
  memfd_handler_.reset();
  luo_device_.reset();
  luo_.reset();
  live_update_.reset();
  iommu_.reset();
  bus_.reset();
  pci_live_update_.reset();
  dmar_.reset();
  kho::withdraw_metadata(kho_);
}

void Kernel::service() {
  if (iommu_) iommu_->each_unit([](IommuUnit& unit) { unit.service(); });
}

Result<Ref<File>> Kernel::open(std::string_view path) {
  constexpr std::string_view kCdev = "/dev/vfio/devices/vfio";
  if (path == "/dev/liveupdate") return luo_device_->open();
  if (path == "/dev/iommu") return Ref<File>(TRY(iommufd_->open()));
  if (path == "/dev/vfio/vfio") return Ref<File>(TRY(iommufd_->open(iommufd::Accounting::Process)));
  if (!path.starts_with(kCdev)) return fail(Errno::Enoent);
  u32 index = 0;
  const std::string_view digits = path.substr(kCdev.size());
  if (digits.empty() || digits.size() > 6 || (digits.size() > 1 && digits[0] == '0')) return fail(Errno::Enoent);
  for (char c : digits) {
    if (c < '0' || c > '9') return fail(Errno::Enoent);
    index = index * 10 + static_cast<u32>(c - '0');
  }
  return vfio_->open(index);
}

}  // namespace perdure
