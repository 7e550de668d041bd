// The machine in one process: board, kernel and program, stepped by a seed.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "core/kernel/kernel.h"
#include "machine/process/in_process_machine.h"
#include "machine/process/local_program.h"
#include "tool/rig.h"

namespace perdure::tool {

class InProcessRig final : public Rig, private scenarios::Witness {
 public:
  explicit InProcessRig(const RigConfig& config);
  // On a board that exists already, loaded from files for example; no kernel has run on it in this process.
  InProcessRig(const RigConfig& config, std::unique_ptr<board::Board> board);
  ~InProcessRig() override;

  board::Board& board() override { return *board_; }
  Result<void> power_on(std::string_view kernel) override;
  Result<void> start_program(u32 hop) override;
  void end_program() override;
  Result<void> verify() override { return life_->program->verify(); }
  Result<void> preserve() override { return life_->program->preserve(); }
  Result<void> kexec(std::string_view kernel) override;
  void forget_table_page(board::Bdf device) override { forget_ = device; }
  board::PoisonStats poison() override { return poison_; }
  std::vector<TimedPhase> timeline() override;
  std::string release() override { return std::string(life_->kernel->config().release); }
  void run_for(u64 ns) override;

  // --- the two halves of kexec(), and what tests look at ---------------------------------------------------------
  // Up to the last instruction of the old kernel. On success it is gone, and next() says how the new one starts.
  Result<void> leave(std::string_view kernel);
  const process::InProcessMachine::Jump& next() const { return *jump_; }
  // What the board does to the old kernel's memory, and the new kernel's boot.
  Result<void> arrive() { return arrive(*jump_); }
  Result<void> arrive(const process::InProcessMachine::Jump& jump);
  Result<void> boot(std::string_view kernel, Phys boot_info);
  // The present kernel stops where it is, with nobody to follow: nothing of it runs any more, and nothing is destroyed.
  void die();

  Kernel& kernel() { return *life_->kernel; }
  process::InProcessMachine& machine() { return *life_->machine; }
  process::LocalProgram& sys() { return *life_->sys; }
  scenarios::Streams& program() { return *life_->program; }
  process::BoardSteps& steps() { return steps_; }
  scenarios::Context context() { return {*life_->sys, *this}; }
  bool alive() const { return life_.has_value(); }
  // How programs are made from now on; null: as they are.
  using ProgramMaker =
      std::function<std::unique_ptr<process::LocalProgram>(Kernel&, process::InProcessMachine&, board::Board&)>;
  void set_program_maker(ProgramMaker maker) { make_program_ = std::move(maker); }
  // A program without the scenario: only its system calls.
  process::LocalProgram& new_program();

 private:
  // A kernel and what runs on it; after the jump it is abandoned whole: no destructor of the kernel runs.
  struct Life {
    std::unique_ptr<process::InProcessMachine> machine;
    std::unique_ptr<std::byte[]> storage;
    Kernel* kernel = nullptr;
    std::unique_ptr<process::LocalProgram> sys;
    std::unique_ptr<scenarios::Streams> program;
  };

  void bury();
  void still_devices();
  void intend(const scenarios::Intended& intended) override { declare(config_, intended); }
  void problem(std::string_view what, Errno why) override;

  RigConfig config_;
  std::unique_ptr<board::Board> board_;
  process::BoardSteps steps_;
  std::optional<Life> life_;
  std::optional<process::InProcessMachine::Jump> jump_;
  struct Grave {
    std::unique_ptr<process::InProcessMachine> machine;
    std::unique_ptr<std::byte[]> storage;
  };
  static constexpr usize kGraves = 4;
  std::vector<Grave> graveyard_;
  ProgramMaker make_program_;
  std::optional<board::Bdf> forget_;
  board::PoisonStats poison_;
};

}  // namespace perdure::tool
