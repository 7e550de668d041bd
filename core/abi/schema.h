// A format that crosses the jump, declared once: validator, printer and fuzzer all iterate over the declaration.
#pragma once
#include <span>
#include <string_view>

#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::abi {

enum class FieldKind : u8 {
  Number,    // min..max
  Flags,     // no bits but those of `max`; those of `min` always
  Physical,  // host physical address: page-aligned, min..max; 0 (none) passes when min is 0
  Iova,      // min..max
  Version,   // min..max
  Count,     // min..max
  Index,     // into another record array, min..max
  Text,      // NUL-terminated within its size
  Checksum,  // CRC-32C of the record with this field zero; 4 bytes
  Padding,   // must be zero
  Bytes,     // anything, any size
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

// Castagnoli's CRC, as of RFC 3720. Of a text in two parts: crc32c(second, crc32c(first)).
u32 crc32c(std::span<const std::byte> bytes, u32 seed = 0);

// Checks the checksum, then every field's bounds and padding. Einval (`bad`, if given, names the field); for a wrong
// length Einval when too short and E2big when too long, with `bad` null.
Result<void> validate(const Schema& schema, std::span<const std::byte> record, const FieldDef** bad = nullptr);
// Computes and stores the checksum field, if the schema has one. `record` has the schema's size.
void seal(const Schema& schema, std::span<std::byte> record);
// The value of a field of 1, 2, 4 or 8 bytes, little-endian; 0 for one of another size (Text, Bytes, long Padding).
u64 field_value(const FieldDef& field, std::span<const std::byte> record);

}  // namespace perdure::abi

// A field of a record struct: name, place and size come from the struct.
#define PERDURE_FIELD(Record, member, kind, min, max, meaning)                                                        \
  ::perdure::abi::FieldDef {                                                                                          \
    #member, offsetof(Record, member), sizeof(Record::member), ::perdure::abi::FieldKind::kind, (min), (max), meaning \
  }
