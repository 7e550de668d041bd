#include "machine/intercept/trap/vector_state.h"

#include <cpuid.h>

#include <cstring>

namespace perdure::intercept {
namespace {

constexpr usize kLegacyBytes = 512;
constexpr usize kXmmAt = 160;
constexpr usize kXmm = 16;
constexpr usize kHeader = 64;  // XSTATE_BV first
constexpr u32 kExtendedState = 0xD;

bool all_zero(std::span<const std::byte> bytes) {
  for (const std::byte b : bytes) {
    if (b != std::byte{0}) return false;
  }
  return true;
}

}  // namespace

bool is_vector(ZydisRegister reg) {
  switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM:
    case ZYDIS_REGCLASS_MASK: return true;
    default: return false;
  }
}

VectorState::VectorState(std::span<std::byte> area) : area_(area) {
  if (area.size() < kLegacyBytes) {
    area_ = {};
    return;
  }
  components_[kSse] = {kXmmAt, 16 * kXmm};
  if (area.size() < kLegacyBytes + kHeader) return;
  for (const unsigned i : {kAvx, kMasks, kUpper256, kUpper16}) {
    u32 bytes = 0;
    u32 offset = 0;
    u32 c = 0;
    u32 d = 0;
    if (__get_cpuid_count(kExtendedState, i, &bytes, &offset, &c, &d) == 0) return;
    // What the kernel did not turn on is not in the area.
    if (bytes != 0 && u64{offset} + bytes <= area.size()) components_[i] = {offset, bytes};
  }
}

bool VectorState::in_use(unsigned component) const {
  if (area_.size() < kLegacyBytes + kHeader) return component == kSse;
  u64 bits = 0;
  std::memcpy(&bits, area_.data() + kLegacyBytes, sizeof bits);
  return (bits >> component & 1) != 0;
}

// A component that is not in use reads as zeros, whatever its bytes are.
void VectorState::use(unsigned component) {
  if (in_use(component)) return;
  std::memset(area_.data() + components_[component].offset, 0, components_[component].bytes);
  u64 bits = 0;
  std::memcpy(&bits, area_.data() + kLegacyBytes, sizeof bits);
  bits |= u64{1} << component;
  std::memcpy(area_.data() + kLegacyBytes, &bits, sizeof bits);
}

std::span<std::byte> VectorState::part(unsigned component, usize offset, usize bytes) const {
  const Component& c = components_[component];
  if (offset + bytes > c.bytes) return {};
  return area_.subspan(c.offset + offset, bytes);
}

void VectorState::store(unsigned component, usize offset, std::span<const std::byte> value) {
  if (part(component, offset, value.size()).empty()) return;
  if (!in_use(component) && all_zero(value)) return;
  use(component);
  std::memcpy(part(component, offset, value.size()).data(), value.data(), value.size());
}

bool VectorState::read(unsigned index, Vector& out) const {
  out = {};
  const auto load = [&](unsigned component, usize offset, usize to, usize bytes) {
    const std::span<const std::byte> from = part(component, offset, bytes);
    if (!from.empty() && in_use(component)) std::memcpy(out.data() + to, from.data(), bytes);
    return !from.empty();
  };
  if (index >= 16) return load(kUpper16, (index - 16) * sizeof(Vector), 0, sizeof(Vector));
  load(kAvx, index * 16, 16, 16);
  load(kUpper256, index * 32, 32, 32);
  return load(kSse, index * kXmm, 0, kXmm);
}

bool VectorState::write(unsigned index, const Vector& value) {
  const std::span<const std::byte> bytes(value);
  if (index >= 16) {
    if (part(kUpper16, (index - 16) * sizeof(Vector), sizeof(Vector)).empty()) return false;
    store(kUpper16, (index - 16) * sizeof(Vector), bytes);
    return true;
  }
  store(kAvx, index * 16, bytes.subspan(16, 16));
  store(kUpper256, index * 32, bytes.subspan(32, 32));
  return write_low(index, value);
}

bool VectorState::write_low(unsigned index, const Vector& value) {
  if (index >= 16 || area_.empty()) return false;
  store(kSse, index * kXmm, std::span<const std::byte>(value).first(kXmm));
  return true;
}

bool VectorState::mask(unsigned index, u64& out) const {
  const std::span<const std::byte> from = part(kMasks, index * sizeof out, sizeof out);
  if (from.empty()) return false;
  out = 0;
  if (in_use(kMasks)) std::memcpy(&out, from.data(), sizeof out);
  return true;
}

}  // namespace perdure::intercept
