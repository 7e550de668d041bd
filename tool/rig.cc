#include "tool/rig.h"

#include <fmt/format.h>

namespace perdure::tool {

void Rig::declare(const RigConfig& config, const scenarios::Intended& intended) {
  if (intended.device >= (config.streamed.empty() ? config.board.devices.size() : config.streamed.size())) return;
  const board::Intent intent{.iova = intended.iova,
                             .length = intended.length,
                             .host_id = intended.memory_id,
                             .offset = intended.offset,
                             .access = board::IntentAccess::ReadWrite};
  if (const auto done = board().declare(config.device(intended.device), intent); !done) {
    add_problem(fmt::format("the ledger refuses the intent of device {} at IOVA {:#x}: {}", intended.device,
                            intended.iova, errno_name(done.error())));
  }
}

void set_tables(RigConfig& config, Tables tables) {
  for (board::UnitConfig& unit : config.board.units) {
    unit.model.scalable = tables != Tables::Legacy;
    unit.model.first_stage = tables == Tables::FirstStage;
    unit.model.second_stage = !unit.model.first_stage;
  }
}

RigConfig demo_machine(u64 memory, u64 seed) {
  RigConfig config;
  config.board.seed = seed;
  config.board.ram_bytes = u64{256} << 20;
  for (unsigned i = 0; i < 4; ++i) {
    board::DeviceConfig device;
    device.kind = board::DeviceKind::Streamer;
    device.bdf = board::Bdf(0, 3 + i, 0);
    device.name = fmt::format("streamer{}", i);
    device.streamer.rings = scenarios::Streams::kRings;
    config.board.devices.push_back(device);
  }
  config.plan.seed = seed;
  // Half to the domain that two devices share, a quarter to each of the others; whole GiB.
  const u64 quarter = align_down(memory / 4, kGiantPageSize);
  config.plan.memory[0] = 2 * quarter;
  config.plan.memory[1] = quarter;
  config.plan.memory[2] = quarter;
  return config;
}

}  // namespace perdure::tool
