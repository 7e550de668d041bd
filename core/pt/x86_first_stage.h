// x86 long-mode entries, as first-stage translation of VT-d's scalable mode (VT-d specification 9.7) and AMD's v2
// tables use them.
#pragma once
#include "core/base/bits.h"
#include "core/pt/io_page_table.h"

namespace perdure::pt {

struct X86FirstStage {
  static constexpr FormatId kId = FormatId::X86FirstStage;
  static constexpr unsigned kMinLevels = 4;
  static constexpr unsigned kMaxLevels = 5;
  static constexpr unsigned kMaxOutputBits = 52;
  static constexpr u64 kLeafSizes = kPageSize | kHugePageSize | kGiantPageSize;
  // Addresses must be canonical; the upper half, where the top bit is set and sign-extended, is not used.
  static constexpr unsigned max_iova_bits(unsigned levels) { return 12 + 9 * levels - 1; }

  using PresentBit = Bit<0>;
  using Write = Bit<1>;
  using User = Bit<2>;  // ordinary DMA has user privilege
  using Accessed = Bit<5>;
  using Dirty = Bit<6>;
  using PageSize = Bit<7>;  // in levels 2 and 3; PAT in level 1
  using Parked = Bit<52>;   // ignored by hardware
  using Address = Field<51, 12>;

  static constexpr u64 kPresent = PresentBit::kMask;
  static constexpr bool present(u64 entry) { return PresentBit::test(entry); }
  static constexpr bool is_leaf(u64 entry, unsigned level) { return level == 1 || PageSize::test(entry); }
  static constexpr Phys address(u64 entry) { return Phys(Address::in_place(entry)); }
  static constexpr Access access(u64 entry) { return Write::test(entry) ? Access::ReadWrite : Access::Read; }

  // What is present can be read: a write-only mapping does not exist.
  static constexpr bool expresses(Access access) { return includes(access, Access::Read); }
  // Hardware always maintains accessed and dirty bits here; set in advance, it never has to write to the table.
  static constexpr u64 leaf(Phys phys, unsigned level, Access access) {
    const u64 write = includes(access, Access::Write) ? Write::kMask | Dirty::kMask : 0;
    return phys.value | PresentBit::kMask | User::kMask | Accessed::kMask | write | (level == 1 ? 0 : PageSize::kMask);
  }
  static constexpr u64 table(Phys page) {
    return page.value | PresentBit::kMask | Write::kMask | User::kMask | Accessed::kMask;
  }

  // Nothing to be read from them, see leaf().
  static constexpr u64 kMarks = 0;
  static constexpr u64 kDirty = 0;

  static constexpr u64 park(Phys page) { return page.value | Parked::kMask; }
  static constexpr bool parked(u64 entry) { return (entry & (PresentBit::kMask | Parked::kMask)) == Parked::kMask; }

  // Results in the interrupt range are a fault (reason 87).
  static constexpr u64 kInterruptBase = 0xfee0'0000;
  static constexpr u64 kInterruptLength = 0x10'0000;
  static constexpr bool output_allowed(Phys phys, u64 length) {
    return !ranges_overlap(phys.value, length, kInterruptBase, kInterruptLength);
  }
};

}  // namespace perdure::pt
