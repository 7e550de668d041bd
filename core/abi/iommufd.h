// What one preserved iommufd leaves for the next kernel. LUO carries the address of one page, IommufdHeader; from there
// two chains of one-page blocks hold the records.
//
//   IommufdHeader ─┬─ hwpt_chain ─ IommufdBlock: header, records … ─ next ─ …
//                  └─ area_chain ─ …
//
// A HWPT names its domain by the index of its record in abi/iommu.h's domain chain of the same update, and the areas
// that the domain translates by a range of indices; HWPTs of one IOAS name the same range. Version 2 appends a field to
// version 1's area and changes nothing else. The image is read-only for its reader.
#pragma once
#include <cstddef>

#include "core/abi/record_block.h"

namespace perdure::abi {

inline constexpr std::string_view kIommufdCompatible = "perdure-iommufd";
inline constexpr u32 kIommufdReadMin = 1;
inline constexpr u32 kIommufdReadMax = 2;

inline constexpr u64 kIommufdMagic = 0x4455'464d'4f49'4450;       // "PDIOMFUD"
inline constexpr u64 kIommufdBlockMagic = 0x4b4c'4255'464d'4f49;  // "IOMFUBLK"
inline constexpr u32 kIommufdMaxHwpts = 4096;
inline constexpr u32 kIommufdMaxAreas = 65536;  // of all its IOASes; bounds what a reader follows

enum class IommufdRecordKind : u32 { Hwpt = 1, Area = 2 };

struct IommufdHeader {
  u64 magic = 0;
  u32 version = 0;
  u32 checksum = 0;
  u64 generation = 0;
  u64 hwpt_chain = 0;
  u64 area_chain = 0;
  u64 hwpt_bytes = 0;
  u64 area_bytes = 0;
  u32 hwpt_count = 0;
  u32 area_count = 0;
};
static_assert(sizeof(IommufdHeader) == 64);

inline constexpr FieldDef kIommufdHeaderFields[] = {
    PERDURE_FIELD(IommufdHeader, magic, Number, kIommufdMagic, kIommufdMagic, "\"PDIOMFUD\""),
    PERDURE_FIELD(IommufdHeader, version, Version, kIommufdReadMin, kIommufdReadMax, "of every record below"),
    PERDURE_FIELD(IommufdHeader, checksum, Checksum, 0, ~u64{0}, "stored when the update is frozen"),
    PERDURE_FIELD(IommufdHeader, generation, Number, 1, ~u64{0}, "of the session; equal in every block"),
    PERDURE_FIELD(IommufdHeader, hwpt_chain, Physical, 0, ~u64{0}, "first block of HWPT records, 0: none"),
    PERDURE_FIELD(IommufdHeader, area_chain, Physical, 0, ~u64{0}, "first block of area records, 0: none"),
    PERDURE_FIELD(IommufdHeader, hwpt_bytes, Number, 0, u64{1} << 32, "length of the chain, in bytes"),
    PERDURE_FIELD(IommufdHeader, area_bytes, Number, 0, u64{1} << 32, "length of the chain"),
    PERDURE_FIELD(IommufdHeader, hwpt_count, Count, 0, kIommufdMaxHwpts, "records in the chain"),
    PERDURE_FIELD(IommufdHeader, area_count, Count, 0, kIommufdMaxAreas, "records in the chain"),
};
inline constexpr Schema kIommufdHeaderSchema{"iommufd.header", 1, sizeof(IommufdHeader), kIommufdHeaderFields};
static_assert(gapless(kIommufdHeaderSchema));

// At the start of each block of a chain; records follow.
using IommufdBlock = RecordBlock;

inline constexpr FieldDef kIommufdBlockFields[] = {
    PERDURE_FIELD(IommufdBlock, magic, Number, kIommufdBlockMagic, kIommufdBlockMagic, "\"IOMFUBLK\""),
    PERDURE_FIELD(IommufdBlock, version, Version, kIommufdReadMin, kIommufdReadMax, "equal to the header's"),
    PERDURE_FIELD(IommufdBlock, checksum, Checksum, 0, ~u64{0}, "of this block header alone"),
    PERDURE_FIELD(IommufdBlock, generation, Number, 1, ~u64{0}, "equal to the header's"),
    PERDURE_FIELD(IommufdBlock, next, Physical, 0, ~u64{0}, "next block of the chain, 0: the last"),
    PERDURE_FIELD(IommufdBlock, kind, Number, 1, 2, "1 HWPT, 2 area"),
    PERDURE_FIELD(IommufdBlock, first_index, Count, 0, kIommufdMaxAreas, "index of the first record here"),
    PERDURE_FIELD(IommufdBlock, slots, Count, 1, kRecordBlockBytes / 8,
                  "records here; all but the last block are full"),
    PERDURE_FIELD(IommufdBlock, record_bytes, Number, 8, kRecordBlockBytes, "size of one record of this version"),
};
inline constexpr Schema kIommufdBlockSchema{"iommufd.block", 1, sizeof(IommufdBlock), kIommufdBlockFields};
static_assert(gapless(kIommufdBlockSchema));

// A marked HWPT.
struct IommufdHwptRecord {
  u64 token = 0;
  u32 domain = 0;
  u32 checksum = 0;
  u32 first_area = 0;
  u32 area_count = 0;
  u32 ioas = 0;
  u32 padding = 0;
};
static_assert(sizeof(IommufdHwptRecord) == 32);

inline constexpr FieldDef kIommufdHwptFields[] = {
    PERDURE_FIELD(IommufdHwptRecord, token, Number, 0, ~u64{0}, "the program's; unique in this record"),
    PERDURE_FIELD(IommufdHwptRecord, domain, Index, 0, 65535, "domain record of the IOMMU core; unique in this record"),
    PERDURE_FIELD(IommufdHwptRecord, checksum, Checksum, 0, ~u64{0}, ""),
    PERDURE_FIELD(IommufdHwptRecord, first_area, Index, 0, kIommufdMaxAreas, "of the areas that the domain translates"),
    PERDURE_FIELD(IommufdHwptRecord, area_count, Count, 0, kIommufdMaxAreas, "that many, by ascending address"),
    PERDURE_FIELD(IommufdHwptRecord, ioas, Index, 0, kIommufdMaxHwpts,
                  "number of its address space; HWPTs of one have the same areas"),
    PERDURE_FIELD(IommufdHwptRecord, padding, Padding, 0, 0, ""),
};
inline constexpr Schema kIommufdHwptSchema{"iommufd.hwpt", 1, sizeof(IommufdHwptRecord), kIommufdHwptFields};
static_assert(gapless(kIommufdHwptSchema));

// [iova, iova + length) translates to the file from `offset` on.
struct IommufdAreaRecord {
  u64 iova = 0;
  u64 length = 0;
  u64 memory_token = 0;
  u64 offset = 0;
  u32 access = 0;
  u32 checksum = 0;
  // Version 2: which memory it was, by its place in the machine, so that a token that leads to another one is noticed.
  // A place, and no identity of the host's, is the same where a saved machine goes on. Unknown after version 1 was
  // handed on.
  u64 memory_phys = 0;
};
static_assert(sizeof(IommufdAreaRecord) == 48);

#define PERDURE_IOMMUFD_AREA_V1_FIELDS                                                                         \
  PERDURE_FIELD(IommufdAreaRecord, iova, Iova, 0, ~u64{0xfff}, "I/O virtual address, page-aligned"),           \
      PERDURE_FIELD(IommufdAreaRecord, length, Number, kPageSize, ~u64{0xfff}, "bytes, whole pages"),          \
      PERDURE_FIELD(IommufdAreaRecord, memory_token, Number, 0, ~u64{0}, "of the memfd, in the same session"), \
      PERDURE_FIELD(IommufdAreaRecord, offset, Number, 0, ~u64{0xfff}, "in the memfd, page-aligned"),          \
      PERDURE_FIELD(IommufdAreaRecord, access, Number, 1, 3, "1 read, 2 write, 3 both"),                       \
      PERDURE_FIELD(IommufdAreaRecord, checksum, Checksum, 0, ~u64{0}, "")

inline constexpr FieldDef kIommufdAreaFieldsV1[] = {PERDURE_IOMMUFD_AREA_V1_FIELDS};
inline constexpr FieldDef kIommufdAreaFieldsV2[] = {
    PERDURE_IOMMUFD_AREA_V1_FIELDS,
    PERDURE_FIELD(IommufdAreaRecord, memory_phys, Physical, 0, ~u64{0}, "where its first byte lies; 0: unknown"),
};
#undef PERDURE_IOMMUFD_AREA_V1_FIELDS
inline constexpr Schema kIommufdAreaSchemaV1{"iommufd.area", 1, offsetof(IommufdAreaRecord, memory_phys),
                                             kIommufdAreaFieldsV1};
inline constexpr Schema kIommufdAreaSchemaV2{"iommufd.area", 2, sizeof(IommufdAreaRecord), kIommufdAreaFieldsV2};
static_assert(gapless(kIommufdAreaSchemaV1) && gapless(kIommufdAreaSchemaV2));

// The schema of one kind of record in images of `version` (kIommufdReadMin..kIommufdReadMax).
constexpr const Schema& iommufd_schema(IommufdRecordKind kind, u32 version) {
  if (kind == IommufdRecordKind::Hwpt) return kIommufdHwptSchema;
  return version >= 2 ? kIommufdAreaSchemaV2 : kIommufdAreaSchemaV1;
}
constexpr ChainFormat iommufd_chain(IommufdRecordKind kind, u32 version) {
  return {.block_magic = kIommufdBlockMagic,
          .kind = static_cast<u32>(kind),
          .version = version,
          .block = &kIommufdBlockSchema,
          .record = &iommufd_schema(kind, version),
          .most = kind == IommufdRecordKind::Hwpt ? kIommufdMaxHwpts : kIommufdMaxAreas};
}

}  // namespace perdure::abi
