// What whoever owns a machine decides about its kernels, besides what is built into them. A kernel is told in its boot
// information, as command line (Linux's way); it survives jumps, since every kernel hands its own command line on.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "core/base/machine.h"
#include "core/file/task.h"
#include "core/kernel/config.h"

namespace perdure::process {

struct KernelOptions {
  // Of every program. Uid and capabilities of the host mean nothing on a machine of its own.
  Creds creds;
  LogLevel log = LogLevel::Warn;  // and above
  vtd::TableModePolicy table_mode = vtd::TableModePolicy::Auto;
  vtd::StagePolicy stage = vtd::StagePolicy::SecondStage;
  bool interrupt_remapping = true;
  vfio::Vfio::Container vfio_container = vfio::Vfio::Container::Type1;
  bool iommufd_test = true;

  bool operator==(const KernelOptions& o) const;
};

// Words, "caps=rawio,resource tables=legacy …": what differs from the defaults. Fits in the boot information.
std::string write_options(const KernelOptions& options);
// Words that mean nothing to this kernel, which may be older than who wrote them, are left out and added to `unknown`.
KernelOptions read_options(std::string_view command_line, std::vector<std::string>& unknown);

// What a kernel that was built as `built` makes of them.
Config configure(Config built, const KernelOptions& options);

}  // namespace perdure::process
