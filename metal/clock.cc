#include "metal/clock.h"

#include "metal/layout.h"

namespace perdure::metal {

namespace {

constexpr u64 kHpet = 0xFED00000;
constexpr u64 kCapabilities = 0x00, kConfiguration = 0x10, kCounter = 0xF0;
constexpr u64 kEnable = 1;
constexpr u64 kLongestPeriod = 100'000'000;  // femtoseconds; the specification's bound
constexpr u64 kFemtoPerNano = 1'000'000;

constinit u64 period_fs = 0;

volatile u64* reg(u64 offset) {
  return reinterpret_cast<volatile u64*>(kDirectMap + kHpet + offset);  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace

bool clock_init() {
  const u64 period = *reg(kCapabilities) >> 32;
  if (period == 0 || period > kLongestPeriod) return false;
  period_fs = period;
  const u64 configuration = *reg(kConfiguration);
  if ((configuration & kEnable) == 0) *reg(kConfiguration) = configuration | kEnable;
  return true;
}

u64 clock_ns() {
  // In two parts, so that it does not overflow for decades: QEMU's period is 10 ns sharp.
  const u64 ticks = *reg(kCounter);
  const u64 rest = period_fs % kFemtoPerNano;
  return ticks * (period_fs / kFemtoPerNano) + ticks / kFemtoPerNano * rest +
         ticks % kFemtoPerNano * rest / kFemtoPerNano;
}

}  // namespace perdure::metal
