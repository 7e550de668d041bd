// Firmware's tables and configuration space, both hostile: RSDP, RSDT, XSDT, DMAR, MCFG, then the functions that answer
// through the windows that MCFG gives, and which unit each is behind. Whatever is accepted must keep the promises of
// its header, and nothing may be left on the heap.
#include <array>
#include <memory>
#include <vector>

#include "core/acpi/dmar.h"
#include "core/acpi/mcfg.h"
#include "core/acpi/tables.h"
#include "core/mem/heap.h"
#include "core/pci/bus.h"
#include "core/pci/scope.h"
#include "fuzz/input.h"
#include "tests/support/test_machine.h"

namespace perdure {
namespace {

using fuzz::Input;

constexpr u64 kRam = u64{8} << 20;
constexpr u64 kFirmware = u64{4} << 20;  // the kernel's memory lies above
constexpr u64 kRsdp = 0x1003;            // odd on purpose: tables may be anywhere
constexpr usize kFunctions = 8;

// Functions whose registers are what the input says, at any place of any window.
class HostileFunctions final : public test::TestHardware {
 public:
  struct Slot {
    u16 bdf = 0;
    std::array<u8, 512> bytes{};
  };

  u64 mmio_read(Phys at, Width width) override {
    ++accesses;
    const unsigned n = static_cast<unsigned>(width);
    u64 value = 0;
    if (Slot* s = slot(at)) {
      const usize offset = at.value & 0xfff;
      if (offset + n <= s->bytes.size()) std::memcpy(&value, &s->bytes[offset], n);
      return value;
    }
    return ~u64{0};
  }
  void mmio_write(Phys at, Width width, u64 value) override {
    ++accesses;
    const usize offset = at.value & 0xfff;
    const unsigned n = static_cast<unsigned>(width);
    // Identity and capability list do not change; a good part of the rest does.
    if (Slot* s = slot(at); s && offset >= 4 && offset + n <= 0x3c) std::memcpy(&s->bytes[offset], &value, n);
  }
  void relax() override {}

  std::vector<Slot> slots;
  u64 accesses = 0;

 private:
  Slot* slot(Phys at) {
    const u16 bdf = static_cast<u16>(at.value >> 12);
    for (Slot& s : slots) {
      if (s.bdf == bdf) return &s;
    }
    return nullptr;
  }
};

// One for all inputs: what it holds is on the machine's heap, which must be empty after each.
struct Setup {
  Setup() {
    const Extent ram[] = {{Phys(kFirmware), kRam - kFirmware}};
    if (!frames.init(ram, {}, {})) std::abort();
    frames.open();
    machine.hardware = &functions;
    machine.clock_step_ns = 100'000'000;
  }
  test::TestMachine machine{kRam};
  FrameAllocator frames{machine};
  Heap heap{frames};
  HostileFunctions functions;
};

class Run {
 public:
  Run(Setup& setup, Input in) : s_(setup), in_(in) {}

  void go() {
    std::memset(s_.machine.virt(Phys(0)), 0, kUsed);
    place_tables();
    place_functions();
    read();
    s_.machine.lines.clear();
    s_.heap.trim();
    FUZZ_REQUIRE(s_.heap.bytes_in_use() == 0, "%llu bytes left on the heap",
                 static_cast<unsigned long long>(s_.heap.bytes_in_use()));
  }

 private:
  static constexpr u64 kUsed = 256 << 10;

  std::byte* at(u64 phys) { return s_.machine.virt(Phys(phys)); }
  void seal(u64 table, u64 checksum, u64 length) {
    if (length > kUsed - table || checksum >= length) return;
    u8 sum = 0;
    *at(table + checksum) = std::byte{0};
    for (u64 i = 0; i < length; ++i) sum = static_cast<u8>(sum + static_cast<u8>(*at(table + i)));
    *at(table + checksum) = static_cast<std::byte>(-sum);
  }
  template <class T>
  void put(u64 phys, T value) {
    std::memcpy(at(phys), &value, sizeof value);
  }
  void text(u64 phys, std::string_view s) { std::memcpy(at(phys), s.data(), s.size()); }

  // Each table: kind, length of its bytes, bytes. What a header needs is filled in unless the input damages it.
  void place_tables() {
    const u8 shape = in_.byte();
    const bool extended = (shape & 1) == 0;
    u64 next = 0x4001;
    std::vector<u64> addresses;
    for (unsigned i = 0; i < 6 && !in_.empty(); ++i) {
      static constexpr std::string_view kSignatures[] = {"DMAR", "DMAR", "MCFG", "FACP"};
      const std::string_view signature = in_.one_of(kSignatures);
      const std::span<const u8> body = in_.take(in_.number<u16>() % 2048u);
      const u64 length = acpi::kHeaderBytes + body.size();
      if (!body.empty()) std::memcpy(at(next + acpi::kHeaderBytes), body.data(), body.size());
      text(next, signature);
      put<u32>(next + 4, static_cast<u32>(length));
      addresses.push_back(next);
      seal(next, 9, length);
      next += length + 5;
    }
    const u64 root = 0x2005;
    u64 length = acpi::kHeaderBytes;
    for (const u64 a : addresses) {
      if (extended) {
        put<u64>(root + length, a);
      } else {
        put<u32>(root + length, static_cast<u32>(a));
      }
      length += extended ? 8 : 4;
    }
    text(root, extended ? "XSDT" : "RSDT");
    put<u32>(root + 4, static_cast<u32>(length));
    seal(root, 9, length);
    text(kRsdp, "RSD PTR ");
    put<u8>(kRsdp + 15, extended ? 2 : 0);
    put<u32>(kRsdp + 16, extended ? 0 : static_cast<u32>(root));
    if (extended) {
      put<u32>(kRsdp + 20, 36);
      put<u64>(kRsdp + 24, root);
    }
    // Damage anywhere, before or after the checksums.
    const unsigned damages = shape >> 1 & 3;
    for (unsigned i = 0; i < damages; ++i) {
      static constexpr u64 kPlaces[] = {kRsdp, root, 0x4001};
      const u64 place = in_.one_of(kPlaces) + in_.byte();
      switch (in_.below(4)) {
        case 0: put<u8>(place, in_.byte()); break;
        case 1: put<u32>(place, in_.number<u32>()); break;
        case 2: put<u64>(place, kRam - in_.byte()); break;
        default: put<u64>(place, in_.number<u64>()); break;
      }
    }
    if ((shape & 0x08) == 0) {
      for (const u64 a : addresses) seal(a, 9, length_of(a));
      seal(root, 9, length_of(root));
      seal(kRsdp, 8, 20);
      if (extended) seal(kRsdp, 32, 36);
    }
  }
  u64 length_of(u64 table) {
    u32 length = 0;
    std::memcpy(&length, at(table + 4), sizeof length);
    return length;
  }

  // Each function: where it answers, how many bytes of it are given, the bytes.
  void place_functions() {
    s_.functions.slots.clear();
    s_.functions.accesses = 0;
    for (usize i = 0; i < kFunctions && !in_.empty(); ++i) {
      HostileFunctions::Slot slot;
      slot.bdf = in_.number<u16>() & 0x1fff;  // few buses, so that bridges meet them
      const std::span<const u8> bytes = in_.take(in_.number<u16>() % (slot.bytes.size() + 1));
      if (!bytes.empty()) std::memcpy(slot.bytes.data(), bytes.data(), bytes.size());
      s_.functions.slots.push_back(slot);
    }
  }

  void check_scopes(const Vec<acpi::Scope>& scopes) {
    for (const acpi::Scope& scope : scopes) {
      FUZZ_REQUIRE(!scope.path.empty(), "a scope without a path");
      for (const acpi::PathHop& hop : scope.path) {
        FUZZ_REQUIRE(hop.device < 32 && hop.function < 8, "hop %u.%u", hop.device, hop.function);
      }
    }
  }
  void check(const acpi::Dmar& dmar) {
    for (usize i = 0; i < dmar.units.size(); ++i) {
      const acpi::DmarUnit& unit = dmar.units[i];
      FUZZ_REQUIRE(unit.base && unit.base.aligned(kPageSize), "a unit's registers are not at a page");
      FUZZ_REQUIRE(!range_overflows(unit.base.value, unit.register_bytes), "a unit's registers wrap around");
      for (usize k = 0; k < i; ++k) {
        const acpi::DmarUnit& other = dmar.units[k];
        FUZZ_REQUIRE(!ranges_overlap(unit.base.value, unit.register_bytes, other.base.value, other.register_bytes),
                     "registers of two units overlap");
        FUZZ_REQUIRE(other.segment != unit.segment || !other.include_all, "a unit after the one that takes the rest");
      }
      check_scopes(unit.scopes);
    }
    for (const acpi::ReservedRegion& region : dmar.reserved) {
      FUZZ_REQUIRE(region.base.aligned(kPageSize) && region.length != 0 && region.length % kPageSize == 0 &&
                       !range_overflows(region.base.value, region.length),
                   "a reserved region that makes no sense");
      check_scopes(region.scopes);
    }
    for (const acpi::AtsPorts& ports : dmar.ats) check_scopes(ports.scopes);
  }

  void read() {
    const auto dmar = acpi::read_dmar(s_.heap, Phys(kRsdp));
    if (dmar) check(*dmar);
    auto windows = acpi::read_mcfg(s_.heap, Phys(kRsdp));
    if (!windows) return;
    for (const acpi::EcamWindow& w : *windows) {
      FUZZ_REQUIRE(w.base && w.base.aligned(u64{1} << 20) && w.first_bus <= w.last_bus, "a misplaced window");
    }
    if (windows->size() > 4) return;  // each is a whole enumeration
    const usize count = windows->size();
    pci::Bus bus(s_.heap, std::move(*windows));
    const auto done = bus.enumerate(nullptr);
    // A window has 256 buses at most, each is looked at once, and a function is asked a bounded number of questions.
    FUZZ_REQUIRE(s_.functions.accesses < 200'000 * (count + 1), "%llu accesses",
                 static_cast<unsigned long long>(s_.functions.accesses));
    if (!done) return;
    for (usize i = 0; i < bus.size(); ++i) check(bus, bus.at(i));
    if (!dmar) return;
    for (usize i = 0; i < bus.size(); ++i) {
      const auto unit = pci::unit_of(bus, *dmar, bus.at(i));
      FUZZ_REQUIRE(!unit || (*unit < dmar->units.size() && dmar->units[*unit].segment == bus.at(i).source().segment),
                   "a function behind a unit of another segment");
    }
    for (const acpi::DmarUnit& unit : dmar->units) {
      for (const acpi::Scope& scope : unit.scopes) (void)pci::resolve(bus, unit.segment, scope);
    }
  }
  void check(pci::Bus& bus, pci::Function& f) {
    FUZZ_REQUIRE(bus.find(f.source()) == &f, "two functions with one address");
    for (const pci::Bar& bar : f.bars()) {
      FUZZ_REQUIRE(bar.kind != pci::Bar::Kind::None || bar.size == 0, "a size of no BAR");
      FUZZ_REQUIRE((bar.size & (bar.size - 1)) == 0, "a BAR of %llx bytes", static_cast<unsigned long long>(bar.size));
    }
    for (const pci::Function* up = f.parent(); up != nullptr; up = up->parent()) {
      FUZZ_REQUIRE(f.below(*up) && up->is_bridge(), "a parent that is none");
    }
    (void)f.msi_vectors();
    (void)f.msix_vectors();
    (void)f.can_reset();
    (void)f.transactions_pending();
    (void)f.interrupts_enabled();
    (void)f.msi_enable(MsiTarget{0xfee0'0000, 0x20}, 1);
    if (f.msix_vectors() != 0 && f.msix_enable()) {
      for (unsigned v = 0; v < 4; ++v) (void)f.msix_set(v, MsiTarget{0xfee0'0000, v});
      f.msix_disable();
    }
    if (in_.flag()) (void)f.reset();
    f.msi_disable();
    (void)bus.off_and_verify(f.source());
  }

  Setup& s_;
  Input in_;
};

}  // namespace
}  // namespace perdure

extern "C" int LLVMFuzzerTestOneInput(const perdure::u8* data, perdure::usize bytes) {
  static auto& setup = *new perdure::Setup;
  perdure::Run(setup, perdure::fuzz::Input(data, bytes)).go();
  return 0;
}
