#include "core/abi/schema.h"

#include <array>
#include <cstring>

#include "core/base/platform.h"

namespace perdure::abi {

namespace {

// Eight tables, so that eight bytes are done at a time: kTables[k][b] is the CRC of byte b followed by k zero bytes.
constexpr u32 kReversedPolynomial = 0x82f63b78;
constexpr auto kTables = [] {
  std::array<std::array<u32, 256>, 8> tables{};
  for (u32 byte = 0; byte < 256; ++byte) {
    u32 crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kReversedPolynomial : 0);
    tables[0][byte] = crc;
  }
  for (u32 byte = 0; byte < 256; ++byte) {
    for (usize k = 1; k < 8; ++k) tables[k][byte] = (tables[k - 1][byte] >> 8) ^ tables[0][tables[k - 1][byte] & 0xff];
  }
  return tables;
}();

bool all_zero(std::span<const std::byte> bytes) {
  for (const std::byte b : bytes) {
    if (b != std::byte{0}) return false;
  }
  return true;
}

bool ends(std::span<const std::byte> text) {
  for (const std::byte c : text) {
    if (c == std::byte{0}) return true;
  }
  return false;
}

constexpr bool is_word(u16 size) {
  return size == 1 || size == 2 || size == 4 || size == 8;
}

const FieldDef* checksum_field(const Schema& schema) {
  for (const FieldDef& f : schema.fields) {
    if (f.kind == FieldKind::Checksum) return &f;
  }
  return nullptr;
}

u32 checksum(const FieldDef& field, std::span<const std::byte> record) {
  constexpr std::byte kZero[sizeof(u32)] = {};
  const u32 before = crc32c(record.first(field.offset));
  return crc32c(record.subspan(field.offset + sizeof(u32)), crc32c(kZero, before));
}

bool holds(const FieldDef& f, std::span<const std::byte> record) {
  const std::span<const std::byte> bytes = record.subspan(f.offset, f.size);
  switch (f.kind) {
    case FieldKind::Text: return ends(bytes);
    case FieldKind::Padding: return all_zero(bytes);
    case FieldKind::Bytes:
    case FieldKind::Checksum: return true;
    default: break;
  }
  if (!is_word(f.size)) return false;
  const u64 value = field_value(f, record);
  if (f.kind == FieldKind::Flags) return (value & ~f.max) == 0 && (value & f.min) == f.min;
  if (f.kind == FieldKind::Physical && !Phys(value).aligned(kPageSize)) return false;
  return value >= f.min && value <= f.max;
}

}  // namespace

u32 crc32c(std::span<const std::byte> bytes, u32 seed) {
  u32 crc = ~seed;
  const std::byte* at = bytes.data();
  usize left = bytes.size();
  for (; left >= 8; left -= 8, at += 8) {
    u64 word;
    std::memcpy(&word, at, sizeof(word));
    word ^= crc;
    crc = 0;
    for (usize k = 0; k < 8; ++k) crc ^= kTables[7 - k][(word >> (8 * k)) & 0xff];
  }
  for (; left > 0; --left, ++at) crc = (crc >> 8) ^ kTables[0][(crc ^ static_cast<u8>(*at)) & 0xff];
  return ~crc;
}

u64 field_value(const FieldDef& field, std::span<const std::byte> record) {
  u64 value = 0;
  if (is_word(field.size) && field.offset + usize{field.size} <= record.size()) {
    std::memcpy(&value, record.data() + field.offset, field.size);
  }
  return value;
}

Result<void> validate(const Schema& schema, std::span<const std::byte> record, const FieldDef** bad) {
  if (bad != nullptr) *bad = nullptr;
  if (record.size() != schema.size) return fail(record.size() < schema.size ? Errno::Einval : Errno::E2big);
  // First of all, since a wrong checksum says more than the first field that it happens to spoil.
  const FieldDef* sum = checksum_field(schema);
  if (sum != nullptr && field_value(*sum, record) != checksum(*sum, record)) {
    if (bad != nullptr) *bad = sum;
    return fail(Errno::Einval);
  }
  for (const FieldDef& f : schema.fields) {
    if (holds(f, record)) continue;
    if (bad != nullptr) *bad = &f;
    return fail(Errno::Einval);
  }
  return {};
}

void seal(const Schema& schema, std::span<std::byte> record) {
  PERDURE_ASSERT(record.size() == schema.size);
  const FieldDef* sum = checksum_field(schema);
  if (sum == nullptr) return;
  PERDURE_ASSERT(sum->size == sizeof(u32));
  const u32 value = checksum(*sum, record);
  std::memcpy(record.data() + sum->offset, &value, sizeof(value));
}

}  // namespace perdure::abi
