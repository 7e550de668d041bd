// What distinguishes one kernel from another: fixed when it is built (machine/process, metal) or, in process, when it
// is started.
#pragma once
#include <string_view>

#include "core/base/types.h"
#include "core/vfio/vfio.h"
#include "core/vtd/table_mode_policy.h"

namespace perdure {

struct Config {
  std::string_view release = "perdure";
  // Version of Perdure's own records that this kernel writes; it reads 1 and 2.
  u32 write_version = 2;
  // Scratch memory of a cold boot: where the next kernels start.
  u64 scratch_bytes = u64{16} << 20;
  // Largest order of a handover key; 9 for readers that know no larger folios.
  unsigned kho_max_order = 52;
  // How long an IOMMU unit may take for a command or a batch of invalidations; what Linux gives it, too.
  u64 unit_timeout_ns = u64{10} * 1'000'000'000;
  // Tables of IOMMU units that this kernel brings up itself; one that it takes over stays in the mode it is in.
  vtd::TableModePolicy table_mode = vtd::TableModePolicy::Auto;
  vtd::StagePolicy stage = vtd::StagePolicy::SecondStage;
  // Interrupts go through the IOMMU units' tables, where firmware says so and a unit can. Without it no device with
  // interrupts on can be preserved.
  bool interrupt_remapping = true;
  // The root table of a unit that is taken over is copied to this kernel's own memory, with translation on. Otherwise
  // it stays where it is, as the series has it (R29).
  bool renew_root_table = false;
  // Who is behind /dev/vfio/vfio: VFIO's own container, as in most of Linux's distributions, or a context of iommufd
  // (CONFIG_IOMMUFD_VFIO_CONTAINER). One on /dev/iommu there always is.
  vfio::Vfio::Container vfio_container = vfio::Vfio::Container::Type1;
  // IOMMU_TEST_CMD of iommufd, which Linux's own tests need (CONFIG_IOMMUFD_TEST).
  bool iommufd_test = false;
  // The two ioctls that Linux does not have; 0: off (-ENOTTY).
  u32 ioctl_hwpt_mark_preserve = 0x3b96;
  u32 ioctl_hwpt_restore = 0x3b97;
};

}  // namespace perdure
