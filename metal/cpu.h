// The processor: gates for exceptions and interrupts, and its local APIC. There is one.
#pragma once
#include "core/base/types.h"

namespace perdure::metal {

inline constexpr u64 kApic = 0xFEE00000;
inline constexpr u32 kFirstVector = 0x21;  // exceptions, and one for who knows what, come before
inline constexpr u32 kLastVector = 0xEF;
inline constexpr u32 kVectors = 256;

// Exceptions are reported and end the run from here on; interrupts stay disabled. What the local APIC holds for a
// former kernel stays there.
void cpu_init();
// As if a device had sent it.
void send_to_self(u32 vector);
// Whether the vector's interrupt came since the last call.
bool take_pending(u32 vector);
// Whether its message waits in the APIC for interrupts to be enabled.
bool requested(u32 vector);

}  // namespace perdure::metal
