#include <fmt/format.h>

#include <new>

#include "machine/process/boot_data.h"
#include "machine/process/in_process_machine.h"
#include "machine/process/local_program.h"
#include "tool/rig.h"

namespace perdure::tool {

namespace {

// A kernel and what runs on it; after the jump it is abandoned whole: no destructor of the kernel runs.
struct Life {
  std::unique_ptr<process::InProcessMachine> machine;
  std::unique_ptr<std::byte[]> storage;
  Kernel* kernel = nullptr;
  std::unique_ptr<process::LocalProgram> sys;
  std::unique_ptr<scenarios::Streams> program;
};

class InProcessRig final : public Rig, private scenarios::Witness {
 public:
  explicit InProcessRig(const RigConfig& config) : config_(config), board_(config.board), steps_(board_) {}

  ~InProcessRig() override {
    if (!life_) return;
    life_->program.reset();
    life_->sys.reset();
    life_->kernel->~Kernel();
  }

  board::Board& board() override { return board_; }

  Result<void> power_on(std::string_view kernel) override {
    TRY(process::write_cold_boot_info(board_));
    return boot(kernel, process::kColdBootInfo);
  }

  Result<void> start_program(u32 hop) override {
    life_->sys = std::make_unique<process::LocalProgram>(*life_->kernel, *life_->machine, board_);
    life_->program = std::make_unique<scenarios::Streams>(scenarios::Context{*life_->sys, *this}, config_.plan);
    return life_->program->begin(hop);
  }

  Result<void> verify() override { return life_->program->verify(); }
  Result<void> preserve() override { return life_->program->preserve(); }

  Result<void> kexec(std::string_view kernel) override {
    TRY(life_->sys->kexec_load(kernel));
    TRY(life_->sys->kexec());
    const process::InProcessMachine::Jump jump = *life_->machine->jumped();
    // The old kernel is lost with everything in it; its program's descriptors are, too.
    Life old = std::move(*life_);
    life_.reset();
    old.sys->kill();
    old.program.reset();
    old.machine->abandon();
    graveyard_.push_back(std::move(old.storage));

    std::optional<Phys> forgotten;
    if (forget_) {
      if (const auto page = process::walked_table_page(board_, *forget_)) forgotten = *page;
      forget_.reset();
    }
    poison_ = board_.kernel_gone(process::handover_of(board_, jump.next, jump.at));
    if (forgotten) board_.memory().fill({forgotten->value, kPageSize}, board::kPoisonWord);
    TRY(process::write_boot_info(board_, jump.next, jump.at));
    return boot(jump.image, jump.at);
  }

  void forget_table_page(board::Bdf device) override { forget_ = device; }
  board::PoisonStats poison() override { return poison_; }

  std::vector<TimedPhase> timeline() override {
    std::vector<TimedPhase> all;
    for (const PhaseTime& p : life_->kernel->timeline().phases()) {
      all.push_back({std::string(phase_name(p.phase)), p.begin_ns, p.end_ns});
    }
    return all;
  }

  std::string release() override { return std::string(life_->kernel->config().release); }

  void run_for(u64 ns) override { board_.step_for(ns); }

 private:
  Result<void> boot(std::string_view kernel, Phys boot_info) {
    const Config* config = process::in_process_kernel(kernel);
    if (!config) return fail(Errno::Enoent);
    Life life;
    life.machine = TRY(process::InProcessMachine::create(
        board_, boot_info,
        [this](LogLevel level, std::string_view line) {
          if (level >= LogLevel::Warn) add_problem(std::string(line));
          if (config_.verbose) fmt::print(stderr, "kernel: {}\n", line);
        },
        &steps_));
    life.storage = std::make_unique<std::byte[]>(sizeof(Kernel));
    life.kernel = new (life.storage.get()) Kernel(*life.machine, *config);
    life_.emplace(std::move(life));
    return life_->kernel->boot();
  }

  void intend(const scenarios::Intended& intended) override { declare(config_, intended); }
  void problem(std::string_view what, Errno why) override { add_problem(fmt::format("{}: {}", what, errno_name(why))); }

  RigConfig config_;
  board::Board board_;
  process::BoardSteps steps_;
  std::optional<Life> life_;
  // Storage of abandoned kernels, never looked at again, only kept so that it is no leak.
  std::vector<std::unique_ptr<std::byte[]>> graveyard_;
  std::optional<board::Bdf> forget_;
  board::PoisonStats poison_;
};

}  // namespace

std::unique_ptr<Rig> in_process_rig(const RigConfig& config) {
  return std::make_unique<InProcessRig>(config);
}

}  // namespace perdure::tool
