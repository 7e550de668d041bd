// The list of behaviours as an image of its own that boots where kernels boot: on QEMU's unit. Of the command line,
// `unit=` says whose deviations to expect (qemu-7.2, architecture; else: any), `only=` the first letters of names.
#include <new>

#include "conformance/run.h"
#include "core/acpi/tables.h"
#include "metal/report.h"
#include "metal/serial.h"
#include "metal/start.h"

namespace perdure::metal {

namespace {

using conformance::Hardware;
using conformance::Implementation;
using Judged = conformance::Verdict;

class Pc final : public Hardware {
 public:
  explicit Pc(MetalMachine& machine) : machine_(machine) {}

  // What is missing, or nothing.
  std::string_view open() {
    const Facts& facts = machine_.facts();
    direct_map = machine_.direct_map;
    memory = Phys(align_up(facts.share, kHugePageSize));
    if (facts.share_bytes < 2 * kNeeded || memory.value + kNeeded > kGiantPageSize) return "32 MiB below 1 GiB";
    memory_bytes = kNeeded;
    const auto dmar = acpi::find_table(machine_, Phys(facts.rsdp), "DMAR");
    const auto mcfg = acpi::find_table(machine_, Phys(facts.rsdp), "MCFG");
    // The first structures of both: one unit, one window.
    if (!dmar || dmar->length() < 64 || dmar->get<u16>(48) != 0) return "a remapping unit in DMAR";
    if (!mcfg || mcfg->length() < 60) return "a window of configuration space in MCFG";
    unit = Phys(dmar->get<u64>(56));
    for (u32 bdf = 0; bdf < 256; ++bdf) probe(static_cast<u16>(bdf), Phys(mcfg->get<u64>(44)) + (u64{bdf} << 12));
    return requester_count < 2 ? "two edu devices on bus 0, functions of one device" : std::string_view();
  }

  u64 mmio_read(Phys at, Width width) override { return machine_.mmio_read(at, width); }
  void mmio_write(Phys at, Width width, u64 value) override { machine_.mmio_write(at, width, value); }
  void write_back(Phys at, u64 bytes) override { machine_.write_back(machine_.virt(at), bytes); }
  u64 now_ns() override { return machine_.now_ns(); }
  void relax() override { machine_.relax(); }
  MsiTarget message(u8 vector) override {
    const u64 id = machine_.mmio_read(Phys(kApic + 0x20), Width::W32) >> 24;
    return {kApic | id << 12, vector};
  }
  // Interrupts stay disabled: what came waits in the local APIC.
  bool message_came(u8 vector) override { return requested(vector); }

 private:
  static constexpr u64 kNeeded = u64{16} << 20;
  static constexpr u32 kEdu = 0x11E8'1234;

  void probe(u16 bdf, Phys config) {
    if (requester_count == kMaxRequesters || machine_.mmio_read(config, Width::W32) != kEdu) return;
    machine_.mmio_write(config + 4, Width::W16, 6);  // memory, bus master
    requesters[requester_count++] = {bdf, Phys(machine_.mmio_read(config + 0x10, Width::W32) & ~u64{0xF}), config};
  }

  MetalMachine& machine_;
};

// The word behind `key` on the command line.
std::string_view word(const char* line, std::string_view key) {
  for (const char* at = line; *at != 0;) {
    usize n = 0;
    while (at[n] != 0 && at[n] != ' ') ++n;
    const std::string_view one(at, n);
    if (one.starts_with(key)) return {at + key.size(), n - key.size()};
    at += n;
    while (*at == ' ') ++at;
  }
  return {};
}

Implementation implementation(std::string_view unit) {
  if (unit == "qemu-7.2") return Implementation::Qemu72;
  return unit == "architecture" ? Implementation::Architecture : Implementation::OtherQemu;
}

void line(std::string_view text) {
  serial_write(text);
  serial_write("\n");
}

}  // namespace

void run(MetalMachine& machine) {
  const char* const words = machine.boot().command_line;
  Pc pc(machine);
  if (const std::string_view missing = pc.open(); !missing.empty()) {
    Event("problem").field("what", (Line() << std::string_view("there is not: ") << missing).view());
    end_run(Verdict::Failed);
  }
  conformance::Bench bench(pc);
  Event("unit").field("cap", bench.cap()).field("ecap", bench.ecap());
  u32 counts[4] = {};
  const std::string_view only = word(words, "only=");
  conformance::each_behaviour([&](const conformance::Behaviour& behaviour) {
    Line name;
    name << behaviour.name;
    if (!name.view().starts_with(only)) return;
    const conformance::Outcome outcome = run(bench, behaviour, implementation(word(words, "unit=")));
    ++counts[static_cast<usize>(outcome.verdict)];
    line(as_event(behaviour, outcome).view());
  });
  const bool ok = counts[static_cast<usize>(Judged::Fails)] == 0;
  Event("end")
      .flag("ok", ok)
      .field("conforms", counts[static_cast<usize>(Judged::Conforms)])
      .field("differs", counts[static_cast<usize>(Judged::Differs)])
      .field("fails", counts[static_cast<usize>(Judged::Fails)])
      .field("not_applicable", counts[static_cast<usize>(Judged::Skipped)]);
  end_run(ok ? Verdict::Passed : Verdict::Failed);
}

}  // namespace perdure::metal
