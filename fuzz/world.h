// The smallest machine that can do a live update, in process and stepped: one unit, two streamers and a third behind a
// bridge, 16 MiB of RAM. Its state at one moment can be kept and gone back to as often as wanted, which is what makes
// thousands of runs a minute possible.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/kernel/kernel.h"
#include "machine/process/in_process_machine.h"
#include "machine/process/local_program.h"

namespace perdure::fuzz {

struct WorldConfig {
  bool coherent = true;
  bool scalable = false;
  u64 seed = 1;
};

class World {
 public:
  static constexpr u64 kRam = u64{16} << 20;
  static constexpr usize kDevices = 3;

  explicit World(const WorldConfig& config);
  // The kernel ends in an orderly way, unless it is gone already; whatever it leaks panics.
  ~World();

  static const Config& kernel_config(u32 write_version);

  // The first kernel.
  Result<void> power_on(u32 write_version);
  // A kernel on what is there.
  Result<void> boot(u32 write_version, Phys boot_info);
  // The last instruction of the present kernel, then what the board does to its memory. Returns where the next one
  // finds its boot information.
  Result<Phys> leave();
  // Orderly: programs end, then the kernel.
  void shut_down();

  // Programs by number; made when first asked for.
  process::LocalProgram& program(usize i = 0);
  void end_program(usize i);
  void end_programs();

  board::Board& board() { return *board_; }
  board::IommuModel& unit() { return board_->unit(0); }
  Kernel& kernel() { return *life_->kernel; }
  bool running() const { return life_.has_value(); }
  // The first of the board is the bridge.
  board::Bdf bdf(usize device) const { return board_->config().devices[device + 1].bdf; }
  std::byte* at(u64 phys) { return board_->direct_map() + phys; }
  // What kernels said since the last call; at most so much of it.
  std::vector<std::string> take_log() { return std::exchange(log_, {}); }
  process::BoardSteps& steps() { return steps_; }

  // --- one moment
  // ------------------------------------------------------------------------------------------------------- RAM, banks,
  // registers, ledger as they are, with no kernel running.
  void keep();
  void go_back();

 private:
  struct Life {
    std::unique_ptr<process::InProcessMachine> machine;
    std::unique_ptr<std::byte[]> storage;
    Kernel* kernel = nullptr;
    std::vector<std::unique_ptr<process::LocalProgram>> programs;
  };
  struct Stretch {
    u64 offset;
    std::vector<std::byte> bytes;
  };
  struct KeptBank {
    Bank bank;
    host::Descriptor fd;
    std::vector<Stretch> contents;
  };

  std::unique_ptr<board::Board> board_;
  process::BoardSteps steps_;
  std::optional<Life> life_;
  std::vector<std::string> log_;

  std::vector<Stretch> kept_ram_;  // by page
  std::vector<KeptBank> kept_banks_;
  std::vector<std::byte> kept_registers_;
};

}  // namespace perdure::fuzz
