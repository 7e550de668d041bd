#include "metal/pci_setup.h"

#include "core/acpi/tables.h"
#include "core/base/log.h"
#include "core/pci/registers.h"

namespace perdure::metal {

namespace {

using namespace pci;  // NOLINT(google-build-using-namespace): registers

// Below the chipset's own registers; firmware that assigns anything assigns everything.
constexpr u64 kWindow = 0xE0000000;
constexpr u64 kWindowEnd = 0xFEC00000;

class Setup {
 public:
  explicit Setup(Machine& machine) : machine_(machine) {}

  // The function whose configuration space is at `at`. True: others may follow in its device.
  bool function(Phys at, u32 bdf) {
    const u16 command = static_cast<u16>(machine_.mmio_read(at + reg::kCommand, Width::W16));
    set_command(at, static_cast<u16>(command & ~(Command::kBusMaster | Command::kMemory | Command::kIo)));
    const u8 header = static_cast<u8>(machine_.mmio_read(at + reg::kHeaderType, Width::W8));
    u16 decode = command & (Command::kMemory | Command::kIo);
    for (u16 i = 0; (header & HeaderType::kLayout) == 0 && i < 6; ++i) {
      const Phys bar = at + (reg::kBars + 4 * i);
      const bool wide = is_wide(bar);
      if (assign(bar, bdf)) decode |= Command::kMemory;
      if (wide) ++i;
    }
    set_command(at, decode);
    return (header & HeaderType::kMultiFunction) != 0;
  }

 private:
  u32 read(Phys at) const { return static_cast<u32>(machine_.mmio_read(at, Width::W32)); }
  void write(Phys at, u32 value) { machine_.mmio_write(at, Width::W32, value); }
  void set_command(Phys function, u16 value) { machine_.mmio_write(function + reg::kCommand, Width::W16, value); }
  bool is_wide(Phys bar) const {
    const u32 low = read(bar);
    return (low & BarBits::kIo) == 0 && (low & BarBits::kWideMask) == BarBits::kWide;
  }

  // Decoding is off. True: a memory BAR that has an address now and had none.
  bool assign(Phys bar, u32 bdf) {
    const u32 low = read(bar);
    if ((low & BarBits::kIo) != 0 || (low & ~BarBits::kMemoryFlags) != 0 || (is_wide(bar) && read(bar + 4) != 0)) {
      return false;
    }
    write(bar, ~u32{0});
    const u32 mask = read(bar) & ~BarBits::kMemoryFlags;
    write(bar, low);
    const u64 size = mask & (~mask + 1);
    if (size == 0) return false;
    const u64 at = align_up(next_, size);
    if (at + size > kWindowEnd) {
      log(machine_, LogLevel::Warn, Line() << "pci: no room for a BAR of " << Hex{bdf} << ", " << size << " bytes");
      return false;
    }
    next_ = at + size;
    write(bar, static_cast<u32>(at));
    return true;
  }

  Machine& machine_;
  u64 next_ = kWindow;
};

}  // namespace

void set_up_pci(Machine& machine, Phys rsdp) {
  constexpr u32 kFirstEntry = 44, kEntryBytes = 16;
  const auto mcfg = acpi::find_table(machine, rsdp, "MCFG");
  if (!mcfg) return;  // the core says what follows from that
  Setup setup(machine);
  for (u32 entry = kFirstEntry; entry + kEntryBytes <= mcfg->length(); entry += kEntryBytes) {
    const Phys base(mcfg->get<u64>(entry));
    const u32 first = mcfg->get<u8>(entry + 10);
    const u32 last = mcfg->get<u8>(entry + 11);
    for (u32 bdf = first << 8; bdf <= (last << 8 | 0xFF); ++bdf) {
      const Phys at = base + (u64{bdf} << 12);
      const bool there = machine.mmio_read(at + reg::kVendor, Width::W16) != 0xFFFF;
      const bool others = there && setup.function(at, bdf);
      if (bdf % 8 == 0 && !others) bdf += 7;
    }
  }
}

}  // namespace perdure::metal
