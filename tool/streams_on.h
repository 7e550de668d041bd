// The streams scenario on a board of any shape: which of its devices can be preserved, and how programs name them.
#pragma once
#include <string>
#include <vector>

#include "tool/rig.h"

namespace perdure::tool {

// Why a live update leaves this device behind; empty when it can be preserved. From the configuration alone.
std::string left_behind(const board::BoardConfig& board, const board::DeviceConfig& device);

// N of /dev/vfio/devices/vfioN for each device that programs can open, in the order in which a kernel meets them.
std::vector<board::Bdf> vfio_order(const board::BoardConfig& board);

// Devices by name, those of each inner list in one domain; each domain has `memory` bytes. Throws std::runtime_error
// for a name that is no streamer, or too many.
RigConfig streams_on(board::BoardConfig board, const std::vector<std::vector<std::string>>& domains, u64 memory);
// Every streamer that can be preserved in a domain of its own. `left`: the others, "NAME: why". Throws
// std::runtime_error when there is none.
RigConfig streams_on(board::BoardConfig board, u64 memory, std::vector<std::string>& left);

}  // namespace perdure::tool
