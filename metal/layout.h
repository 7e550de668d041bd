// Where things lie in physical memory on bare metal; docs/metal.md has the picture.
#pragma once
#include "core/base/types.h"

namespace perdure::metal {

// Physical address 0 in this image's virtual address space; images themselves run where they lie.
inline constexpr u64 kDirectMap = 0xFFFF'8000'0000'0000;

// What firmware told, kept for all kernels of this run (firmware.h).
inline constexpr Phys kFacts{0x10000};
// Below it is firmware's, and never the frame allocator's.
inline constexpr u64 kLowMemory = u64{1} << 20;

// RAM above it is not used.
inline constexpr u64 kMostMemory = u64{32} << 30;

// The two slots are the scratch memory of the handover: nothing in them is ever preserved. An image has the first part
// of its slot; a kernel boots from the rest of both.
inline constexpr u64 kSlotBytes = u64{14} << 20;
inline constexpr u64 kImageBytes = u64{6} << 20;
inline constexpr Phys kSlots[2] = {Phys(u64{2} << 20), Phys(u64{16} << 20)};

}  // namespace perdure::metal

extern "C" {
extern std::byte metal_image_begin[];
extern std::byte metal_image_end[];
}
