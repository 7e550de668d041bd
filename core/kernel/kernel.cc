#include "core/kernel/kernel.h"

namespace perdure {

namespace {

// What follows the name of a kind of nodes: a number as it is written. Enoent.
Result<u32> node_number(std::string_view path, std::string_view kind) {
  path.remove_prefix(kind.size());
  if (path.empty() || path.size() > 6 || (path.size() > 1 && path[0] == '0')) return fail(Errno::Enoent);
  u32 number = 0;
  for (const char c : path) {
    if (c < '0' || c > '9') return fail(Errno::Enoent);
    number = number * 10 + static_cast<u32>(c - '0');
  }
  return number;
}

}  // namespace

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
  if (vfio_) vfio_->service();
}

Result<Ref<File>> Kernel::open(std::string_view path) {
  if (path == "/dev/liveupdate") return luo_device_->open();
  if (path == "/dev/iommu") return Ref<File>(TRY(iommufd_->open()));
  if (path == "/dev/vfio/vfio") return vfio_->open_container();
  constexpr std::string_view kCdev = "/dev/vfio/devices/vfio";
  constexpr std::string_view kGroup = "/dev/vfio/";
  if (path.starts_with(kCdev)) return vfio_->open(TRY(node_number(path, kCdev)));
  if (path.starts_with(kGroup)) return vfio_->open_group(TRY(node_number(path, kGroup)));
  return fail(Errno::Enoent);
}

}  // namespace perdure
