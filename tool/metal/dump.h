// Saves guest memory and the registers that matter while the guest waits at a jump (perdure metal --dump).
#pragma once
#include <expected>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "tool/metal/monitor.h"
#include "tool/metal/qemu.h"

namespace perdure::tool::metal {

struct DumpRequest {
  std::filesystem::path file;  // and file.json beside it
  bool raw = false;
  std::filesystem::path scratch;  // a directory for what is in between
};

// `expectations`: what the old kernel said should be found; its "units" name the register windows and its "boot_info"
// goes into the notes. Stops the machine while it looks, and lets it go on. The text is what did not work.
std::expected<void, std::string> dump(Monitor& monitor, const Qemu& qemu, unsigned hop,
                                      const nlohmann::json& expectations, const DumpRequest& request);

// RAM of a machine of this kind with `bytes` of it below 2 GiB.
std::vector<std::pair<u64, u64>> ram_ranges(u64 bytes);

}  // namespace perdure::tool::metal
