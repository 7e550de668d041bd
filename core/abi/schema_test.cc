#include "core/abi/schema.h"

#include <rapidcheck.h>

#include <cstddef>

namespace perdure::abi {
namespace {

std::span<const std::byte> bytes(std::string_view s) {
  return std::as_bytes(std::span(s.data(), s.size()));
}

// RFC 3720, B.4, and the check value that catalogues of CRCs give.
TEST(Crc32c, KnownValues) {
  EXPECT_EQ(crc32c({}), 0u);
  EXPECT_EQ(crc32c(bytes("123456789")), 0xe3069283u);
  std::array<std::byte, 32> block{};
  EXPECT_EQ(crc32c(block), 0x8a9136aau);
  block.fill(std::byte{0xff});
  EXPECT_EQ(crc32c(block), 0x62a8ab43u);
  for (usize i = 0; i < 32; ++i) block[i] = static_cast<std::byte>(i);
  EXPECT_EQ(crc32c(block), 0x46dd794eu);
  for (usize i = 0; i < 32; ++i) block[i] = static_cast<std::byte>(31 - i);
  EXPECT_EQ(crc32c(block), 0x113fdb5cu);
}

u32 bit_by_bit(std::string_view s) {
  u32 crc = ~0u;
  for (const char c : s) {
    crc ^= static_cast<u8>(c);
    for (int i = 0; i < 8; ++i) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78 : 0);
  }
  return ~crc;
}

TEST(Crc32c, EqualsTheDefinitionAndContinues) {
  EXPECT_TRUE(rc::check("crc", [](const std::string& a, const std::string& b) {
    RC_ASSERT(crc32c(bytes(a + b)) == bit_by_bit(a + b));
    RC_ASSERT(crc32c(bytes(b), crc32c(bytes(a))) == bit_by_bit(a + b));
  }));
}

struct Record {
  u64 number = 10;
  u32 flags = 0x11;
  u16 version = 2;
  u8 count = 3;
  u8 pad = 0;
  u64 physical = 0x5000;
  u64 needed = 0x7000;
  char text[12] = "abc";
  u32 checksum = 0;
  u8 odd[3] = {};
  u8 blob[5] = {1, 2, 3, 4, 5};
};

constexpr FieldDef kFields[] = {
    PERDURE_FIELD(Record, number, Number, 5, 20, ""),
    PERDURE_FIELD(Record, flags, Flags, 0x10, 0x13, ""),
    PERDURE_FIELD(Record, version, Version, 1, 2, ""),
    PERDURE_FIELD(Record, count, Count, 0, 3, ""),
    PERDURE_FIELD(Record, pad, Padding, 0, 0, ""),
    PERDURE_FIELD(Record, physical, Physical, 0, 0x9000, ""),
    PERDURE_FIELD(Record, needed, Physical, kPageSize, ~u64{0}, ""),
    PERDURE_FIELD(Record, text, Text, 0, 0, ""),
    PERDURE_FIELD(Record, checksum, Checksum, 0, ~u64{0}, ""),
    PERDURE_FIELD(Record, odd, Padding, 0, 0, ""),
    PERDURE_FIELD(Record, blob, Bytes, 0, 0, ""),
};
constexpr Schema kSchema{"record", 1, sizeof(Record), kFields};
static_assert(gapless(kSchema));

// A hole, an overlap, a missing end.
constexpr FieldDef kHole[] = {kFields[0], kFields[2]};
static_assert(!gapless(Schema{"", 1, 10, kHole}));
constexpr FieldDef kTwice[] = {kFields[0], kFields[0]};
static_assert(!gapless(Schema{"", 1, 16, kTwice}));
static_assert(!gapless(Schema{"", 1, 16, std::span(kFields).first<1>()}));
static_assert(gapless(Schema{"", 1, 8, std::span(kFields).first<1>()}));

std::span<std::byte> bytes(Record& r) {
  return std::as_writable_bytes(std::span(&r, 1));
}

// The name of the field that validate() objects to after `spoil` and a new checksum.
template <class Spoil>
std::string fault(Spoil spoil) {
  Record r;
  spoil(r);
  seal(kSchema, bytes(r));
  const FieldDef* bad = nullptr;
  const auto result = validate(kSchema, bytes(r), &bad);
  if (result) return "none";
  EXPECT_EQ(result.error(), Errno::Einval);
  return bad == nullptr ? "?" : std::string(bad->name);
}

TEST(Schema, EveryFieldIsBounded) {
  EXPECT_EQ(fault([](Record&) {}), "none");
  EXPECT_EQ(fault([](auto& r) { r.number = 5; }), "none");
  EXPECT_EQ(fault([](auto& r) { r.number = 20; }), "none");
  EXPECT_EQ(fault([](auto& r) { r.number = 4; }), "number");
  EXPECT_EQ(fault([](auto& r) { r.number = 21; }), "number");
  EXPECT_EQ(fault([](auto& r) { r.flags = 0x12; }), "none");
  EXPECT_EQ(fault([](auto& r) { r.flags = 0x14; }), "flags") << "unknown bit";
  EXPECT_EQ(fault([](auto& r) { r.flags = 0x01; }), "flags") << "without the bit that is always set";
  EXPECT_EQ(fault([](auto& r) { r.version = 3; }), "version");
  EXPECT_EQ(fault([](auto& r) { r.count = 4; }), "count");
  EXPECT_EQ(fault([](auto& r) { r.pad = 1; }), "pad");
  EXPECT_EQ(fault([](auto& r) { r.physical = 0; }), "none");
  EXPECT_EQ(fault([](auto& r) { r.physical = 0x5008; }), "physical");
  EXPECT_EQ(fault([](auto& r) { r.physical = 0xa000; }), "physical");
  EXPECT_EQ(fault([](auto& r) { r.needed = 0; }), "needed");
  EXPECT_EQ(fault([](auto& r) { std::memset(r.text, 'x', 12); }), "text");
  EXPECT_EQ(fault([](auto& r) { std::memset(r.text, 'x', 11); }), "none");
  EXPECT_EQ(fault([](auto& r) { r.odd[2] = 1; }), "odd");
  EXPECT_EQ(fault([](auto& r) { std::memset(r.blob, 0xff, 5); }), "none");
}

TEST(Schema, AnyFlippedBitBreaksTheChecksum) {
  Record r;
  seal(kSchema, bytes(r));
  ASSERT_TRUE(validate(kSchema, bytes(r)));
  for (usize i = 0; i < sizeof(r) * 8; ++i) {
    bytes(r)[i / 8] ^= std::byte{1} << (i % 8);
    const FieldDef* bad = nullptr;
    EXPECT_FALSE(validate(kSchema, bytes(r), &bad));
    EXPECT_EQ(bad->name, "checksum");
    bytes(r)[i / 8] ^= std::byte{1} << (i % 8);
  }
}

TEST(Schema, WrongLengths) {
  Record two[2];
  const FieldDef* bad = kFields;
  EXPECT_EQ(validate(kSchema, bytes(two[0]).first(10), &bad).error(), Errno::Einval);
  EXPECT_EQ(bad, nullptr);
  EXPECT_EQ(validate(kSchema, std::as_bytes(std::span(two)), &bad).error(), Errno::E2big);
  EXPECT_EQ(validate(kSchema, {}).error(), Errno::Einval);
}

TEST(Schema, WithoutChecksumAndWithABadDeclaration) {
  constexpr Schema plain{"plain", 1, 8, std::span(kFields).first<1>()};
  u64 value = 7;
  const auto record = std::as_writable_bytes(std::span(&value, 1));
  seal(plain, record);
  EXPECT_EQ(value, 7u);
  EXPECT_TRUE(validate(plain, record));
  constexpr FieldDef odd[] = {{"odd", 0, 8, FieldKind::Padding, 0, 0, ""},
                              {"three", 8, 3, FieldKind::Number, 0, 9, ""}};
  std::array<std::byte, 11> bytes{};
  const FieldDef* bad = nullptr;
  EXPECT_FALSE(validate(Schema{"odd", 1, 11, odd}, bytes, &bad)) << "a number of three bytes";
  EXPECT_EQ(bad->name, "three");
}

TEST(Schema, FieldValues) {
  Record r;
  r.number = 0x1122334455667788;
  EXPECT_EQ(field_value(kFields[0], bytes(r)), 0x1122334455667788u);
  EXPECT_EQ(field_value(kFields[1], bytes(r)), 0x11u);
  EXPECT_EQ(field_value(kFields[2], bytes(r)), 2u);
  EXPECT_EQ(field_value(kFields[3], bytes(r)), 3u);
  EXPECT_EQ(field_value(kFields[7], bytes(r)), 0u) << "a text";
  EXPECT_EQ(field_value(kFields[2], bytes(r).first(13)), 0u) << "beyond the record";
}

}  // namespace
}  // namespace perdure::abi
