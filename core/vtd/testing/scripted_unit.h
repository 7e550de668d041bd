// A unit that does what a test tells it to: registers as plain words, the few protocols that bring-up needs, a record
// of everything that the driver did, and faults on demand. It knows no tables: whether DMA survives is for the board's
// model to say (tests/vtd_board_test.cc).
#pragma once
#include <cstring>
#include <functional>
#include <map>
#include <vector>

#include "tests/support/test_machine.h"

namespace perdure::test {

class ScriptedUnit final : public TestHardware, public StepHook {
 public:
  static constexpr u64 kBase = 0xfed9'0000;
  // QEMU's intel-iommu with aw-bits=48: 16-bit ids, PSI, MAMV 18, drains, not coherent (hardware.md §12.1).
  static constexpr u64 kCap = 0x00d2'008c'222f'0606;
  static constexpr u64 kEcap = 0xf42;
  static constexpr u64 kCachingMode = u64{1} << 7;
  static constexpr u64 kWriteBuffer = u64{1} << 4;
  static constexpr u64 kCoherent = 1;
  static constexpr u64 kScalable = u64{1} << 43;

  struct Event {
    enum class Kind : u8 { Register, Memory } kind;
    u64 at;  // register offset or physical address
    u64 value;
    Width width;
  };

  explicit ScriptedUnit(TestMachine& machine) : machine_(machine) {
    machine.hardware = this;
    machine.steps = this;
    machine.clock_step_ns = 1000;
  }
  ~ScriptedUnit() {
    machine_.hardware = nullptr;
    machine_.steps = &machine_.counting;
  }

  // --- script -----------------------------------------------------------------------------------------------
  bool queue_dead = false;          // descriptors are never looked at
  u32 stuck = 0;                    // GSTS bits that no command changes
  unsigned refuse = 0;              // so many descriptors end in IQE
  unsigned refuse_at = 0;           // the first of them, counted from now
  bool tail_write_resumes = false;  // after IQE the queue goes on only with another write of IQT
  unsigned drop_waits = 0;          // so many waits are lost with ITE
  bool hide_wide = false;           // IQA.DW reads as 0
  bool grant_interrupts = true;
  std::function<void()> on_store;
  u64 fail_allocation = 0;  // as CountingSteps::fail_at

  // --- state and record ---------------------------------------------------------------------------------------
  u64 cap = kCap;
  u64 ecap = kEcap;
  u32 gsts = 0;
  u64 rtaddr = 0;
  u64 latched_root = 0;
  u64 iqa = 0, iqh = 0, iqt = 0;
  u32 fsts = 0;
  std::map<u64, u64> other;  // registers without a meaning here, by offset
  std::vector<Event> events;
  std::vector<u64> descriptors;            // first words, waits left out
  std::vector<std::pair<u64, u64>> whole;  // both words, waits left out
  u64 waits = 0;
  bool te_dropped = false;
  IrqSink* sink = nullptr;
  u64 allocations = 0;
  // Lines that were written back, by start; a non-coherent unit sees nothing else.
  std::map<u64, u64> visible;

  struct Record {
    u64 low = 0, high = 0;
  };
  std::vector<Record> records{Record{}};
  void record_fault(unsigned index, u64 page, u16 source, u8 reason, bool read) {
    records.at(index) = {page, u64{source} | u64{reason} << 32 | (read ? u64{1} << 62 : 0) | u64{1} << 63};
    if ((fsts & 2) == 0) fsts |= 2 | index << 8;
  }

  // --- TestHardware -----------------------------------------------------------------------------------------
  u64 mmio_read(Phys at, Width width) override {
    const u64 offset = at.value - kBase;
    if (offset >= 0x1000) return ~u64{0};
    if (offset >= fault_base() && offset < fault_base() + 16 * records.size()) {
      const Record& r = records[(offset - fault_base()) / 16];
      EXPECT_EQ(width, Width::W64);
      return (offset - fault_base()) % 16 == 0 ? r.low : r.high;
    }
    switch (offset) {
      case 0x08: return cap;
      case 0x10: return ecap;
      case 0x1c: return gsts;
      case 0x20: return rtaddr;
      case 0x34: return fsts;
      case 0x80: return iqh;
      case 0x88: return iqt;
      case 0x90: return hide_wide ? iqa & ~u64{0x800} : iqa;
      default: return other[offset];
    }
  }
  void mmio_write(Phys at, Width width, u64 value) override {
    const u64 offset = at.value - kBase;
    events.push_back({Event::Kind::Register, offset, value, width});
    if (offset >= fault_base() && offset < fault_base() + 16 * records.size())
      return clear_record(offset, width, value);
    switch (offset) {
      case 0x18: return command(static_cast<u32>(value));
      case 0x20: rtaddr = value; return;
      case 0x34:
        fsts &= ~(static_cast<u32>(value) & 0x71);
        if ((value & 0x10) != 0 && !tail_write_resumes) run();
        return;
      case 0x88:
        iqt = value;
        run();
        return;
      case 0x90: iqa = value; return;
      case 0x28: other[offset] = value & ~(u64{1} << 63); return;
      case 0xf8: other[offset] = value & ~(u64{1} << 63); return;
      default: other[offset] = value; return;
    }
  }
  void written_back(Phys at, u64 bytes) override {
    for (u64 line = at.value & ~u64{63}; line < at.value + bytes; line += 64) ++visible[line];
  }
  Result<MsiTarget> irq_alloc(IrqSink& s) override {
    if (!grant_interrupts) return fail(Errno::Enospc);
    sink = &s;
    return MsiTarget{0x1'fee0'1000, 0x4041};
  }
  void irq_free(MsiTarget) override { sink = nullptr; }

  // --- StepHook -----------------------------------------------------------------------------------------------
  void stored(Phys at) override {
    events.push_back({Event::Kind::Memory, at.value, *machine_.virt<u64>(Phys(at.value & ~u64{7})), Width::W64});
    if (on_store) on_store();
  }
  bool may_allocate() override { return ++allocations != fail_allocation; }

  // --- looking at the record ----------------------------------------------------------------------------------
  // Stores into [page, page + 4096), in order.
  std::vector<Event> stores_to(Phys page, u64 bytes = kPageSize) const {
    std::vector<Event> found;
    for (const Event& e : events) {
      if (e.kind == Event::Kind::Memory && e.at >= page.value && e.at < page.value + bytes) found.push_back(e);
    }
    return found;
  }
  std::vector<u64> writes_to(u64 offset) const {
    std::vector<u64> found;
    for (const Event& e : events) {
      if (e.kind == Event::Kind::Register && e.at == offset) found.push_back(e.value);
    }
    return found;
  }
  void forget() {
    events.clear();
    descriptors.clear();
    whole.clear();
    waits = 0;
  }

 private:
  u64 fault_base() const { return (cap >> 24 & 0x3ff) * 16; }

  void clear_record(u64 offset, Width width, u64 value) {
    EXPECT_EQ(width, Width::W32);
    EXPECT_EQ((offset - fault_base()) % 16, 12u);
    EXPECT_EQ(value, 0x8000'0000u);
    records[(offset - fault_base()) / 16].high &= ~(u64{1} << 63);
    for (const Record& r : records) {
      if ((r.high >> 63) != 0) return;
    }
    fsts &= ~2u;
  }

  void command(u32 value) {
    constexpr u32 kPersistent = 1u << 31 | 1u << 28 | 1u << 26 | 1u << 25 | 1u << 23;
    const u32 before = gsts;
    u32 after = (gsts & ~kPersistent) | (value & kPersistent);
    if ((value & 1u << 30) != 0) {
      latched_root = rtaddr;
      after |= 1u << 30;
    }
    if ((after & 1u << 26) != 0 && (before & 1u << 26) == 0) {
      iqh = 0;
      EXPECT_EQ(iqt, 0u) << "stale tail at enable";
    }
    if ((after & 1u << 26) == 0) iqh = 0;
    gsts = (after & ~stuck) | (before & stuck);
    if ((before >> 31) != 0 && (gsts >> 31) == 0) te_dropped = true;
  }

  void run() {
    if (queue_dead || (gsts & 1u << 26) == 0) return;
    const unsigned size = (iqa & 0x800) != 0 ? 32 : 16;
    const u64 bytes = kPageSize << (iqa & 7);
    while (iqh != iqt && (fsts & 0x10) == 0) {
      const u64* d = machine_.virt<u64>(Phys((iqa & ~u64{0xfff}) + iqh));
      const bool is_wait = (d[0] & 15) == 5;
      if (refuse > 0 && refuse_at-- == 0) {
        --refuse;
        refuse_at = 0;
        fsts |= 0x10;
        other[0xb0] = 4;
        return;
      }
      if (size == 32) {
        EXPECT_EQ(d[2] | d[3], 0u);
      }
      iqh = (iqh + size) % bytes;
      if (!is_wait) {
        descriptors.push_back(d[0]);
        whole.emplace_back(d[0], d[1]);
        continue;
      }
      if (drop_waits > 0) {
        --drop_waits;
        fsts |= 0x40;
        continue;
      }
      ++waits;
      const u32 data = static_cast<u32>(d[0] >> 32);
      std::memcpy(machine_.virt(Phys(d[1])), &data, sizeof data);
    }
  }

  TestMachine& machine_;
};

}  // namespace perdure::test
