#include "fuzz/world.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fuzz/input.h"
#include "machine/board/sparse_file.h"
#include "machine/process/boot_data.h"

namespace perdure::fuzz {

namespace {

constexpr usize kMostLog = 200;

board::BoardConfig board_config(const WorldConfig& config) {
  board::BoardConfig c;
  c.window_log2 = 33;
  c.ram_bytes = World::kRam;
  c.seed = config.seed;
  // Long steps: what waits for a second, as for a reset, waits for a few thousand of them.
  c.step_ns = 100'000;
  c.trace_limit = 64;
  // A kernel that blocks everything asks every function that could be there, and each question takes a step.
  c.last_bus = 3;
  c.units[0].model.coherent = c.units[0].model.scalable_coherent = config.coherent;
  c.units[0].model.scalable = config.scalable;
  board::DeviceConfig bridge;
  bridge.kind = board::DeviceKind::Bridge;
  bridge.bdf = board::Bdf(0, 31, 0);
  c.devices.push_back(bridge);
  for (usize i = 0; i < World::kDevices; ++i) {
    board::DeviceConfig d;
    d.kind = board::DeviceKind::Streamer;
    // The last one below the bridge, whose place makes it the last that enumeration finds.
    d.bdf = i + 1 < World::kDevices ? board::Bdf(0, static_cast<unsigned>(3 + i), 0) : board::Bdf(1, 0, 0);
    d.streamer.vectors = 4;
    c.devices.push_back(d);
  }
  return c;
}

// Zeros for everything, in pages that do not exist.
void punch(int fd, u64 from, u64 length) {
  const bool done = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(from),
                              static_cast<off_t>(length)) == 0;
  FUZZ_REQUIRE(done, "cannot empty memory");
}

}  // namespace

const Config& World::kernel_config(u32 write_version) {
  static const Config kConfigs[] = {
      {.release = "fuzz-1", .write_version = 1, .scratch_bytes = u64{4} << 20, .iommufd_test = true},
      {.release = "fuzz-2", .write_version = 2, .scratch_bytes = u64{4} << 20, .iommufd_test = true},
  };
  return kConfigs[write_version == 1 ? 0 : 1];
}

World::World(const WorldConfig& config)
    : board_(std::make_unique<board::Board>(board_config(config))), steps_(*board_) {}

World::~World() {
  if (life_) shut_down();
}

Result<void> World::power_on(u32 write_version) {
  TRY(process::write_cold_boot_info(*board_));
  return boot(write_version, process::kColdBootInfo);
}

Result<void> World::boot(u32 write_version, Phys boot_info) {
  Life life;
  life.machine = TRY(process::InProcessMachine::create(
      *board_, boot_info,
      [this](LogLevel level, std::string_view line) {
        if (level >= LogLevel::Warn && log_.size() < kMostLog) log_.emplace_back(line);
      },
      &steps_));
  life.storage = std::make_unique<std::byte[]>(sizeof(Kernel));
  life.kernel = new (life.storage.get()) Kernel(*life.machine, kernel_config(write_version));
  life_.emplace(std::move(life));
  return life_->kernel->boot();
}

process::LocalProgram& World::program(usize i) {
  if (life_->programs.size() <= i) life_->programs.resize(i + 1);
  auto& p = life_->programs[i];
  if (!p) p = std::make_unique<process::LocalProgram>(*life_->kernel, *life_->machine, *board_);
  return *p;
}

void World::end_program(usize i) {
  if (i < life_->programs.size()) life_->programs[i].reset();
}

void World::end_programs() {
  for (auto& p : life_->programs) p.reset();
}

Result<Phys> World::leave() {
  // Any image will do: which kernel comes next is not looked up in it.
  TRY(life_->kernel->kexec_load("b"));
  TRY(life_->kernel->kexec());
  const process::InProcessMachine::Jump jump = *life_->machine->jumped();
  Life old = std::move(*life_);
  life_.reset();
  for (auto& p : old.programs) {
    if (p) p->kill();
  }
  old.programs.clear();
  old.machine->abandon();
  (void)board_->kernel_gone(process::handover_of(*board_, jump.next, jump.at));
  TRY(process::write_boot_info(*board_, jump.next, jump.at));
  return jump.at;
}

void World::shut_down() {
  end_programs();
  life_->kernel->~Kernel();
  life_.reset();
}

void World::keep() {
  kept_ram_.clear();
  board_->memory().each_materialised_ram([&](board::PhysRange r) {
    for (u64 page = r.base; page < r.end(); page += kPageSize) {
      kept_ram_.push_back({page, std::vector<std::byte>(at(page), at(page) + kPageSize)});
    }
  });
  kept_banks_.clear();
  for (const Bank& bank : board_->memory().banks()) {
    KeptBank kept{bank, host::Descriptor(*board_->bank_fd(bank.host_id)), {}};
    board::each_data_stretch(kept.fd.get(), bank.offset, bank.offset + bank.length, [&](u64 begin, u64 end) {
      Stretch s{begin, std::vector<std::byte>(end - begin)};
      const ssize_t got = pread(kept.fd.get(), s.bytes.data(), s.bytes.size(), static_cast<off_t>(begin));
      FUZZ_REQUIRE(got == static_cast<ssize_t>(s.bytes.size()), "cannot read a bank");
      kept.contents.push_back(std::move(s));
    });
    kept_banks_.push_back(std::move(kept));
  }
  kept_registers_ = board_->save_registers();
}

void World::go_back() {
  FUZZ_REQUIRE(!life_, "a kernel still runs");
  // Pages that have come since then go; of the others those that changed are written.
  usize next = 0;
  const int ram = board_->memory().ram_fd();
  u64 gone_from = 0;
  std::vector<board::PhysRange> now;
  board_->memory().each_materialised_ram([&](board::PhysRange r) { now.push_back(r); });
  for (const board::PhysRange& r : now) {
    for (u64 page = r.base; page < r.end(); page += kPageSize) {
      while (next < kept_ram_.size() && kept_ram_[next].offset < page) ++next;
      if (next < kept_ram_.size() && kept_ram_[next].offset == page) continue;
      gone_from = page;
      while (page + kPageSize < r.end() && (next == kept_ram_.size() || kept_ram_[next].offset != page + kPageSize)) {
        page += kPageSize;
      }
      punch(ram, gone_from, page + kPageSize - gone_from);
    }
  }
  for (const Stretch& s : kept_ram_) {
    if (std::memcmp(at(s.offset), s.bytes.data(), kPageSize) != 0) std::memcpy(at(s.offset), s.bytes.data(), kPageSize);
  }
  for (const Bank& bank : board_->memory().banks()) FUZZ_REQUIRE(board_->bank_detach(bank), "a bank stays");
  for (const KeptBank& kept : kept_banks_) {
    punch(kept.fd.get(), kept.bank.offset, kept.bank.length);
    for (const Stretch& s : kept.contents) {
      const ssize_t put = pwrite(kept.fd.get(), s.bytes.data(), s.bytes.size(), static_cast<off_t>(s.offset));
      FUZZ_REQUIRE(put == static_cast<ssize_t>(s.bytes.size()), "cannot write a bank");
    }
    const auto back = board_->memory().attach(kept.fd.get(), kept.bank.offset, kept.bank.length, kept.bank.base.value);
    FUZZ_REQUIRE(back, "a bank does not come back");
  }
  board_->load_registers(kept_registers_);
  board_->unit(0).clear_violations();
  board_->pci().clear_trace();
  log_.clear();
}

}  // namespace perdure::fuzz
