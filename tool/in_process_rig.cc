#include "tool/in_process_rig.h"

#include <fmt/format.h>

#include <new>

#include "machine/process/boot_data.h"

namespace perdure::tool {

InProcessRig::InProcessRig(const RigConfig& config)
    : InProcessRig(config, std::make_unique<board::Board>(config.board)) {}

InProcessRig::InProcessRig(const RigConfig& config, std::unique_ptr<board::Board> board)
    : config_(config), board_(std::move(board)), steps_(*board_) {}

InProcessRig::~InProcessRig() {
  if (!life_) return;
  still_devices();
  end_program();
  // After a jump there is nothing left to take down.
  if (!life_->machine->jumped()) life_->kernel->~Kernel();
}

// Nobody looks at what they do any more, and the resets that come with closing them take 100 ms of the machine's time
// each: with all others streaming, most of what a short test does would be done there.
void InProcessRig::still_devices() {
  constexpr u64 kRings = 0x1000, kStride = 0x100;  // docs/devices.md
  for (const board::DeviceConfig& config : board_->config().devices) {
    board::Device* const device = config.kind == board::DeviceKind::Streamer ? board_->device(config.bdf) : nullptr;
    if (device == nullptr || device->bar_address(0) == 0) continue;
    for (u64 ring = 0; ring < config.streamer.rings; ++ring) {
      board_->mmio_write(Phys(device->bar_address(0) + kRings + ring * kStride), Width::W64, 0);
    }
  }
}

void InProcessRig::end_program() {
  life_->program.reset();
  life_->sys.reset();
}

Result<void> InProcessRig::power_on(std::string_view kernel) {
  TRY(process::write_cold_boot_info(*board_));
  return boot(kernel, process::kColdBootInfo);
}

process::LocalProgram& InProcessRig::new_program() {
  end_program();
  life_->sys = make_program_ ? make_program_(*life_->kernel, *life_->machine, *board_)
                             : std::make_unique<process::LocalProgram>(*life_->kernel, *life_->machine, *board_);
  return *life_->sys;
}

Result<void> InProcessRig::start_program(u32 hop) {
  if (config_.selftest) return fail(Errno::Eopnotsupp);
  new_program();
  life_->program = std::make_unique<scenarios::Streams>(context(), config_.plan);
  return life_->program->begin(hop);
}

Result<void> InProcessRig::kexec(std::string_view kernel) {
  TRY(leave(kernel));
  return arrive();
}

Result<void> InProcessRig::leave(std::string_view kernel) {
  TRY(life_->kernel->kexec_load(kernel));
  TRY(life_->kernel->kexec());
  jump_ = *life_->machine->jumped();
  bury();
  return {};
}

void InProcessRig::die() {
  // A lock that it held dies with it.
  *perdure_thread_context() = {};
  bury();
}

void InProcessRig::bury() {
  // The old kernel is lost with everything in it; its program's descriptors are, too.
  Life old = std::move(*life_);
  life_.reset();
  if (old.sys) old.sys->kill();
  old.program.reset();
  old.sys.reset();
  old.machine->abandon();
  // Its view stays where it was, accessible to nobody, so that the next kernel's cannot come to lie there and hide a
  // use of the old one. Address space is finite: the oldest go.
  if (graveyard_.size() == kGraves) graveyard_.erase(graveyard_.begin());
  graveyard_.push_back({std::move(old.machine), std::move(old.storage)});
}

Result<void> InProcessRig::arrive(const process::InProcessMachine::Jump& jump) {
  std::optional<Phys> forgotten;
  if (forget_) {
    if (const auto page = process::walked_table_page(*board_, *forget_)) forgotten = *page;
    forget_.reset();
  }
  if (forgotten) board_->memory().fill({forgotten->value, kPageSize}, board::kPoisonWord);
  poison_ = board_->kernel_gone(process::handover_of(*board_, jump.next, jump.at));
  TRY(process::write_boot_info(*board_, jump.next, jump.at));
  return boot(jump.image, jump.at);
}

Result<void> InProcessRig::boot(std::string_view kernel, Phys boot_info) {
  const Config* known = process::in_process_kernel(kernel);
  if (!known) return fail(Errno::Enoent);
  Config config = *known;
  if (config_.unit_timeout_ns != 0) config.unit_timeout_ns = config_.unit_timeout_ns;
  const TablePolicy& tables = kernel == "b" ? config_.tables_b : config_.tables_a;
  config.iommufd_test = true;  // as on machines that nobody configured
  config.table_mode = tables.mode;
  config.stage = tables.stage;
  Life life;
  life.machine = TRY(process::InProcessMachine::create(
      *board_, boot_info,
      [this](LogLevel level, std::string_view line) {
        if (level >= LogLevel::Warn) add_problem(std::string(line));
        if (config_.verbose) fmt::print(stderr, "kernel: {}\n", line);
      },
      &steps_));
  life.storage = std::make_unique<std::byte[]>(sizeof(Kernel));
  life.kernel = new (life.storage.get()) Kernel(*life.machine, config);
  life_.emplace(std::move(life));
  return life_->kernel->boot();
}

std::vector<TimedPhase> InProcessRig::timeline() {
  std::vector<TimedPhase> all;
  for (const PhaseTime& p : life_->kernel->timeline().phases()) {
    all.push_back({std::string(phase_name(p.phase)), p.begin_ns, p.end_ns});
  }
  return all;
}

void InProcessRig::run_for(u64 ns) {
  if (board_->running()) {
    const u64 until = board_->now_ns() + ns;
    while (board_->now_ns() < until) life_->machine->relax();
  } else {
    board_->step_for(ns);
  }
}

void InProcessRig::problem(std::string_view what, Errno why) {
  add_problem(fmt::format("{}: {}", what, errno_name(why)));
}

std::unique_ptr<Rig> in_process_rig(const RigConfig& config) {
  return std::make_unique<InProcessRig>(config);
}

}  // namespace perdure::tool
