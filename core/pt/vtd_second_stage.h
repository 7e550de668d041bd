// Intel VT-d second-stage page-table entries (VT-d specification 9.8), the only format of legacy mode.
// There is no present bit: an entry is present when it allows reading or writing. Hardware ANDs the permissions on the
// way down, so links allow everything and the leaf decides. Accessed and dirty bits exist only where a PASID entry
// turns them on (SSADE), which legacy mode cannot.
#pragma once
#include "core/base/bits.h"
#include "core/pt/io_page_table.h"

namespace perdure::pt {

struct VtdSecondStage {
  static constexpr FormatId kId = FormatId::VtdSecondStage;
  static constexpr unsigned kMinLevels = 3;  // 39-bit, 48-bit and 57-bit addresses: SAGAW
  static constexpr unsigned kMaxLevels = 5;
  static constexpr unsigned kMaxOutputBits = 52;
  static constexpr u64 kLeafSizes = kPageSize | kHugePageSize | kGiantPageSize;
  static constexpr unsigned max_iova_bits(unsigned levels) { return 12 + 9 * levels; }

  using Read = Bit<0>;
  using Write = Bit<1>;
  using PageSize = Bit<7>;        // in levels 2 and 3 a leaf; reserved elsewhere
  using Accessed = Bit<8>;        // set by hardware, with SSADE; nobody reads it
  using Dirty = Bit<9>;           // of a leaf; likewise
  using Parked = Bit<52>;         // ignored by hardware, ours: see park()
  using Address = Field<51, 12>;  // bits at or above the host address width are reserved, the engine checks output_bits

  static constexpr u64 kPresent = Read::kMask | Write::kMask;
  static constexpr bool present(u64 entry) { return (entry & kPresent) != 0; }
  // Of a present entry.
  static constexpr bool is_leaf(u64 entry, unsigned level) { return level == 1 || PageSize::test(entry); }
  static constexpr Phys address(u64 entry) { return Phys(Address::in_place(entry)); }
  static constexpr Access access(u64 entry) { return static_cast<Access>(entry & kPresent); }

  static constexpr bool expresses(Access) { return true; }
  // `phys` is not masked: whoever calls has checked it.
  static constexpr u64 leaf(Phys phys, unsigned level, Access access) {
    static_assert(static_cast<u64>(Access::Read) == Read::kMask && static_cast<u64>(Access::Write) == Write::kMask);
    return phys.value | static_cast<u64>(access) | (level == 1 ? 0 : PageSize::kMask);
  }
  static constexpr u64 table(Phys page) { return page.value | kPresent; }

  // What hardware sets by itself; the mark of a leaf that was written through.
  static constexpr u64 kMarks = Accessed::kMask | Dirty::kMask;
  static constexpr u64 kDirty = Dirty::kMask;

  // An entry that hardware takes for not present and that remembers a table page: one on its way in or out.
  static constexpr u64 park(Phys page) { return page.value | Parked::kMask; }
  static constexpr bool parked(u64 entry) { return (entry & (kPresent | Parked::kMask)) == Parked::kMask; }

  // Results in the interrupt range are a fault (reasons E and 87), even for reads: never output there.
  static constexpr u64 kInterruptBase = 0xfee0'0000;
  static constexpr u64 kInterruptLength = 0x10'0000;
  static constexpr bool output_allowed(Phys phys, u64 length) {
    return !ranges_overlap(phys.value, length, kInterruptBase, kInterruptLength);
  }
};

}  // namespace perdure::pt
