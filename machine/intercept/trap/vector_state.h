// Vector and mask registers in an XSAVE area of the standard format, as ptrace and signal frames have it (Intel SDM
// vol. 1, 13.4).
#pragma once
#include <Zydis/Register.h>

#include <array>
#include <span>

#include "core/base/types.h"

namespace perdure::intercept {

using Vector = std::array<std::byte, 64>;

// Of a vector or a mask register.
bool is_vector(ZydisRegister reg);

class VectorState {
 public:
  // Where a component of the area is; 0 bytes: this processor has none.
  struct Component {
    u32 offset = 0;
    u32 bytes = 0;
  };
  enum : unsigned { kSse = 1, kAvx = 2, kMasks = 5, kUpper256 = 6, kUpper16 = 7, kComponents = 8 };

  VectorState() = default;
  // `area` without the part from byte 512 on: a processor, or a signal frame, without extended state.
  explicit VectorState(std::span<std::byte> area);
  explicit operator bool() const { return !area_.empty(); }

  // False: no such register in the area.
  bool read(unsigned index, Vector& out) const;
  // All of the register; bits that the processor does not have are left out.
  bool write(unsigned index, const Vector& value);
  // The lowest 128 bits; the others stay.
  bool write_low(unsigned index, const Vector& value);
  bool mask(unsigned index, u64& out) const;

 private:
  bool in_use(unsigned component) const;
  void use(unsigned component);
  std::span<std::byte> part(unsigned component, usize offset, usize bytes) const;
  void store(unsigned component, usize offset, std::span<const std::byte> value);

  std::span<std::byte> area_;
  std::array<Component, kComponents> components_{};
};

}  // namespace perdure::intercept
