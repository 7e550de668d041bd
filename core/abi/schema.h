// A format that crosses the jump, declared once: validator, printer and fuzzer all iterate over the declaration.
#pragma once
#include <span>
#include <string_view>

#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::abi {

enum class FieldKind : u8 {
  Number,    // min..max
  Flags,     // bits of `max` only
  Physical,  // address: page-aligned or zero unless min/max say otherwise
  Iova,
  Version,
  Count,
  Index,     // into another record array
  Text,      // NUL-terminated
  Checksum,  // CRC-32C of the record with this field zero
  Padding,   // must be zero
};

struct FieldDef {
  std::string_view name;
  u16 offset = 0;
  u16 size = 0;
  FieldKind kind = FieldKind::Number;
  u64 min = 0;
  u64 max = ~u64{0};
  std::string_view meaning;
};

struct Schema {
  std::string_view name;
  u32 version = 0;
  u32 size = 0;  // bytes of one record
  std::span<const FieldDef> fields;
};

// True when the fields cover the record without gap or overlap, in order; static_assert it for every format.
constexpr bool gapless(const Schema& s) {
  u32 at = 0;
  for (const FieldDef& f : s.fields) {
    if (f.offset != at) return false;
    at += f.size;
  }
  return at == s.size && s.size % 8 == 0;
}

// Castagnoli's CRC, as of RFC 3720.
u32 crc32c(std::span<const std::byte> bytes, u32 seed = 0);

// Checks every field's bounds, padding and the checksum. Einval (`bad`, if given, names the field), E2big/Einval for
// a wrong length.
Result<void> validate(const Schema& schema, std::span<const std::byte> record, const FieldDef** bad = nullptr);
// Computes and stores the checksum field.
void seal(const Schema& schema, std::span<std::byte> record);
u64 field_value(const FieldDef& field, std::span<const std::byte> record);

}  // namespace perdure::abi

// A field of a record struct: name, place and size come from the struct.
#define PERDURE_FIELD(Record, member, kind, min, max, meaning)                                                        \
  ::perdure::abi::FieldDef {                                                                                          \
    #member, offsetof(Record, member), sizeof(Record::member), ::perdure::abi::FieldKind::kind, (min), (max), meaning \
  }
