// Invalidation descriptors: one small type per kind, one constructor per granularity (hardware.md §5). Written as 16
// bytes or, with IQA.DW, as 32 with the upper half zero.
#pragma once
#include "core/base/bits.h"

namespace perdure::vtd {

struct Descriptor {
  u64 word[2] = {};

  constexpr Descriptor() = default;
  constexpr Descriptor(u64 low, u64 high) : word{low, high} {}
  constexpr bool operator==(const Descriptor&) const = default;

 protected:
  using Type = Field<3, 0>;
  using Did = Field<31, 16>;
};

// Context cache.
struct InvalidateContext : Descriptor {
  constexpr InvalidateContext() : Descriptor(Type::make(1) | Granularity::make(1), 0) {}
  constexpr explicit InvalidateContext(u32 did)
      : Descriptor(Type::make(1) | Granularity::make(2) | Did::make(did), 0) {}
  constexpr InvalidateContext(u32 did, u16 source)
      : Descriptor(Type::make(1) | Granularity::make(3) | Did::make(did) | Source::make(source), 0) {}

 private:
  using Granularity = Field<5, 4>;
  using Source = Field<47, 32>;
};

// What an IOTLB invalidation waits for before it counts as done: as much as the unit can (CAP.DRD, CAP.DWD).
struct Drain {
  bool reads = false;
  bool writes = false;
};

// Second-stage translations.
struct InvalidateIotlb : Descriptor {
  constexpr explicit InvalidateIotlb(Drain drain) : Descriptor(common(drain) | Granularity::make(1), 0) {}
  constexpr InvalidateIotlb(Drain drain, u32 did)
      : Descriptor(common(drain) | Granularity::make(2) | Did::make(did), 0) {}
  // 2^mask pages from `iova`, which is aligned to them. `leaves_only`: no entry above the leaves changed (IH).
  constexpr InvalidateIotlb(Drain drain, u32 did, u64 iova, unsigned mask, bool leaves_only)
      : Descriptor(common(drain) | Granularity::make(3) | Did::make(did),
                   Page::in_place(iova) | Mask::make(mask) | Hint::make(leaves_only ? 1 : 0)) {}

 private:
  using Granularity = Field<5, 4>;
  using Writes = Bit<6>;
  using Reads = Bit<7>;
  using Mask = Field<5, 0>;
  using Hint = Bit<6>;
  using Page = Field<63, 12>;
  static constexpr u64 common(Drain drain) {
    return Type::make(2) | Writes::make(drain.writes ? 1 : 0) | Reads::make(drain.reads ? 1 : 0);
  }
};

// PASID cache: what context entries of scalable mode lead to. Only in 32-byte queues, like the next one.
struct InvalidatePasidCache : Descriptor {
  constexpr InvalidatePasidCache() : Descriptor(Type::make(7) | Granularity::make(3), 0) {}
  constexpr explicit InvalidatePasidCache(u32 did) : Descriptor(Type::make(7) | Did::make(did), 0) {}
  constexpr InvalidatePasidCache(u32 did, u32 pasid)
      : Descriptor(Type::make(7) | Granularity::make(1) | Did::make(did) | Pasid::make(pasid), 0) {}

 private:
  using Granularity = Field<5, 4>;
  using Pasid = Field<51, 32>;
};

// First-stage translations. Always drains.
struct InvalidatePasidIotlb : Descriptor {
  constexpr InvalidatePasidIotlb(u32 did, u32 pasid) : Descriptor(common(did, pasid) | Granularity::make(2), 0) {}
  // As InvalidateIotlb.
  constexpr InvalidatePasidIotlb(u32 did, u32 pasid, u64 iova, unsigned mask, bool leaves_only)
      : Descriptor(common(did, pasid) | Granularity::make(3),
                   Page::in_place(iova) | Mask::make(mask) | Hint::make(leaves_only ? 1 : 0)) {}

 private:
  using Granularity = Field<5, 4>;
  using Pasid = Field<51, 32>;
  using Mask = Field<5, 0>;
  using Hint = Bit<6>;
  using Page = Field<63, 12>;
  static constexpr u64 common(u32 did, u32 pasid) { return Type::make(6) | Did::make(did) | Pasid::make(pasid); }
};

// Interrupt entry cache.
struct InvalidateInterrupts : Descriptor {
  constexpr InvalidateInterrupts() : Descriptor(Type::make(4), 0) {}
  constexpr explicit InvalidateInterrupts(u32 index)
      : Descriptor(Type::make(4) | One::value() | Index::make(index), 0) {}

 private:
  using One = Bit<4>;
  using Index = Field<47, 32>;
};

// Stores `data` at `status` (4-byte aligned) once everything before it is done and drained.
struct Wait : Descriptor {
  constexpr Wait(u64 status, u32 data)
      : Descriptor(Type::make(5) | StatusWrite::value() | Fence::value() | Data::make(data),
                   StatusAddress::in_place(status)) {}

 private:
  using StatusWrite = Bit<5>;
  using Fence = Bit<6>;
  using Data = Field<63, 32>;
  using StatusAddress = Field<63, 2>;
};

// Values computed elsewhere (hardware.md §5, "Worked values").
static_assert(InvalidateContext().word[0] == 0x11);
static_assert(InvalidateContext(5, 0x00fb).word[0] == (0x000300fb00050031 & ~(u64{3} << 48)));
static_assert(InvalidateIotlb({true, true}).word[0] == 0xd2);
static_assert(InvalidateIotlb({true, false}, 9, 0x12345000, 3, true) == Descriptor(0x900b2, 0x12345043));
static_assert(InvalidatePasidCache().word[0] == 0x37 && InvalidatePasidCache(5).word[0] == 0x50007);
static_assert(InvalidatePasidCache(5, 3).word[0] == 0x3'0005'0017);
static_assert(InvalidatePasidIotlb(5, 3).word[0] == 0x3'0005'0026);
static_assert(InvalidatePasidIotlb(9, 1, 0x12345000, 3, true) == Descriptor(0x1'0009'0036, 0x12345043));
static_assert((InvalidateInterrupts(0x1234).word[0] | 2 << 27) == 0x0000123410000014);
static_assert(Wait(0x1000, 0xdeadbeef) == Descriptor(0xdeadbeef00000065, 0x1000));

}  // namespace perdure::vtd
