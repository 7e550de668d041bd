// Finding ACPI tables: RSDP → XSDT or RSDT → table (ACPI 6.5, §5.2). Firmware is not trusted: every address is
// checked against the physical window, every length against what holds it, every table against its checksum. Tables
// and their fields may lie at any address: all of it is read byte by byte.
#pragma once
#include <cstring>
#include <string_view>

#include "core/base/machine.h"

namespace perdure::acpi {

// Header of a table, as it lies in memory.
inline constexpr u32 kHeaderBytes = 36;
inline constexpr u32 kMaxTableBytes = u32{1} << 20;

// Bytes of firmware's, with bounds.
class Bytes {
 public:
  Bytes() = default;
  Bytes(const std::byte* at, u32 length) : at_(at), length_(length) {}
  u32 length() const { return length_; }
  // Little endian, as the machine is. What lies beyond the end reads as 0; callers check lengths first.
  template <class T>
  T get(u32 offset) const {
    T value{};
    if (offset <= length_ && sizeof(T) <= length_ - offset) std::memcpy(&value, at_ + offset, sizeof value);
    return value;
  }
  // [offset, offset + length), cut at the end.
  Bytes part(u32 offset, u32 length) const {
    if (offset > length_) return {};
    return {at_ + offset, length < length_ - offset ? length : length_ - offset};
  }
  std::string_view text(u32 offset, u32 length) const {
    const Bytes p = part(offset, length);
    return {reinterpret_cast<const char*>(p.at_), p.length_};
  }
  bool sums_to_zero() const {
    u8 sum = 0;
    for (u32 i = 0; i < length_; ++i) sum = static_cast<u8>(sum + static_cast<u8>(at_[i]));
    return sum == 0;
  }

 private:
  const std::byte* at_ = nullptr;
  u32 length_ = 0;
};

// The first table with this four-letter signature, header included, whole and with a good checksum. Enoent: none;
// Einval: RSDP, RSDT or XSDT are unusable. Says why in the log.
Result<Bytes> find_table(Machine& machine, Phys rsdp, std::string_view signature);

}  // namespace perdure::acpi
