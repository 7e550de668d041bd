// What the IOMMU core leaves for the next kernel: units, domains, the ids that tag a domain on a unit, and
// devices. LUO carries the address of one page, IommuHeader; from there four chains of one-page blocks hold
// the records. Records refer to each other by index, never by address; the image is read-only for its reader.
//
//   IommuHeader ─┬─ unit_chain       ─ IommuBlock: header, records … ─ next ─ …
//                ├─ domain_chain     ─ …
//                ├─ attachment_chain ─ …   (domain, unit) → DID
//                └─ device_chain     ─ …
//
// A record's index is its place in the chain, counted over all blocks, unused slots included. An unused slot is
// all zero. Version 2 appends fields to version 1's records and changes nothing else; each kernel reads both.
#pragma once
#include <cstddef>

#include "core/abi/record_block.h"

// One element of an array member.
#define PERDURE_ELEMENT(Record, member, index, kind, min, max, meaning)                                                \
  ::perdure::abi::FieldDef {                                                                                           \
    #member "[" #index "]", offsetof(Record, member) + (index) * sizeof(Record::member[0]), sizeof(Record::member[0]), \
        ::perdure::abi::FieldKind::kind, (min), (max), meaning                                                         \
  }

namespace perdure::abi {

inline constexpr std::string_view kIommuCompatible = "perdure-iommu";
inline constexpr u32 kIommuReadMin = 1;
inline constexpr u32 kIommuReadMax = 2;

inline constexpr u64 kIommuMagic = 0x554d'4d4f'4944'5250;       // "PRDIOMMU"
inline constexpr u64 kIommuBlockMagic = 0x4b4c'424d'4d4f'4950;  // "PIOMMBLK"
inline constexpr u64 kIommuBlockBytes = kRecordBlockBytes;
inline constexpr u32 kIommuMaxRecords = 16384;  // of one kind; bounds what a reader follows

enum class IommuRecordKind : u32 { Unit = 1, Domain = 2, Attachment = 3, Device = 4 };

struct IommuHeader {
  u64 magic = 0;
  u32 version = 0;
  u32 checksum = 0;
  u64 generation = 0;
  u64 unit_chain = 0;
  u64 domain_chain = 0;
  u64 attachment_chain = 0;
  u64 device_chain = 0;
  u64 unit_bytes = 0;
  u64 domain_bytes = 0;
  u64 attachment_bytes = 0;
  u64 device_bytes = 0;
  u32 unit_slots = 0;
  u32 domain_slots = 0;
  u32 attachment_slots = 0;
  u32 device_slots = 0;
};
static_assert(sizeof(IommuHeader) == 104);

inline constexpr FieldDef kIommuHeaderFields[] = {
    PERDURE_FIELD(IommuHeader, magic, Number, kIommuMagic, kIommuMagic, "\"PRDIOMMU\""),
    PERDURE_FIELD(IommuHeader, version, Version, kIommuReadMin, kIommuReadMax, "of every record below"),
    PERDURE_FIELD(IommuHeader, checksum, Checksum, 0, ~u64{0}, ""),
    PERDURE_FIELD(IommuHeader, generation, Number, 1, ~u64{0}, "of the update; equal in every block and record"),
    PERDURE_FIELD(IommuHeader, unit_chain, Physical, 0, ~u64{0}, "first block of unit records, 0: none"),
    PERDURE_FIELD(IommuHeader, domain_chain, Physical, 0, ~u64{0}, "first block of domain records"),
    PERDURE_FIELD(IommuHeader, attachment_chain, Physical, 0, ~u64{0}, "first block of attachment records"),
    PERDURE_FIELD(IommuHeader, device_chain, Physical, 0, ~u64{0}, "first block of device records"),
    PERDURE_FIELD(IommuHeader, unit_bytes, Number, 0, u64{1} << 32, "length of the chain, in bytes"),
    PERDURE_FIELD(IommuHeader, domain_bytes, Number, 0, u64{1} << 32, "length of the chain"),
    PERDURE_FIELD(IommuHeader, attachment_bytes, Number, 0, u64{1} << 32, "length of the chain"),
    PERDURE_FIELD(IommuHeader, device_bytes, Number, 0, u64{1} << 32, "length of the chain"),
    PERDURE_FIELD(IommuHeader, unit_slots, Count, 0, kIommuMaxRecords, "records in the chain, unused ones too"),
    PERDURE_FIELD(IommuHeader, domain_slots, Count, 0, kIommuMaxRecords, "records in the chain"),
    PERDURE_FIELD(IommuHeader, attachment_slots, Count, 0, kIommuMaxRecords, "records in the chain"),
    PERDURE_FIELD(IommuHeader, device_slots, Count, 0, kIommuMaxRecords, "records in the chain"),
};
inline constexpr Schema kIommuHeaderSchema{"iommu.header", 1, sizeof(IommuHeader), kIommuHeaderFields};
static_assert(gapless(kIommuHeaderSchema));

// At the start of each block of a chain; records follow.
using IommuBlock = RecordBlock;

inline constexpr FieldDef kIommuBlockFields[] = {
    PERDURE_FIELD(IommuBlock, magic, Number, kIommuBlockMagic, kIommuBlockMagic, "\"PIOMMBLK\""),
    PERDURE_FIELD(IommuBlock, version, Version, kIommuReadMin, kIommuReadMax, "equal to the header's"),
    PERDURE_FIELD(IommuBlock, checksum, Checksum, 0, ~u64{0}, "of this block header alone"),
    PERDURE_FIELD(IommuBlock, generation, Number, 1, ~u64{0}, "equal to the header's"),
    PERDURE_FIELD(IommuBlock, next, Physical, 0, ~u64{0}, "next block of the chain, 0: the last"),
    PERDURE_FIELD(IommuBlock, kind, Number, 1, 4, "1 unit, 2 domain, 3 attachment, 4 device"),
    PERDURE_FIELD(IommuBlock, first_index, Count, 0, kIommuMaxRecords, "index of the first record here"),
    PERDURE_FIELD(IommuBlock, slots, Count, 1, kIommuBlockBytes / 8, "records here; all but the last block are full"),
    PERDURE_FIELD(IommuBlock, record_bytes, Number, 8, kIommuBlockBytes, "size of one record of this version"),
};
inline constexpr Schema kIommuBlockSchema{"iommu.block", 1, sizeof(IommuBlock), kIommuBlockFields};
static_assert(gapless(kIommuBlockSchema));

enum class IommuUnitType : u32 { VtD = 1 };
enum class IommuTranslationMode : u32 { Legacy = 1, Scalable = 2 };

// One unit: what hardware cannot tell its next driver, and what it must be compared with (hardware.md §9.3).
struct IommuUnitRecord {
  u32 in_use = 0;
  u32 checksum = 0;
  u64 generation = 0;
  u64 base = 0;
  u32 type = 0;
  u32 segment = 0;
  u32 translation_mode = 0;
  u32 did_limit = 0;
  u64 cap = 0;
  u64 ecap = 0;
  u64 rtaddr = 0;
  u64 root = 0;
  u64 iqa = 0;
  u64 status_page = 0;
  u64 irta = 0;
  u32 gsts = 0;
  u32 queue_order = 0;
  u32 queue_descriptor_bytes = 0;
  u32 padding = 0;
  u64 context_tables[8] = {};
};
static_assert(sizeof(IommuUnitRecord) == 176);

inline constexpr FieldDef kIommuUnitFields[] = {
    PERDURE_FIELD(IommuUnitRecord, in_use, Number, 1, 1, "0: the slot is unused and all zero"),
    PERDURE_FIELD(IommuUnitRecord, checksum, Checksum, 0, ~u64{0}, ""),
    PERDURE_FIELD(IommuUnitRecord, generation, Number, 1, ~u64{0}, "equal to the header's"),
    PERDURE_FIELD(IommuUnitRecord, base, Physical, kPageSize, ~u64{0}, "of the registers: the unit's identity"),
    PERDURE_FIELD(IommuUnitRecord, type, Number, 1, 1, "1 Intel VT-d"),
    PERDURE_FIELD(IommuUnitRecord, segment, Number, 0, 0xffff, "PCI segment"),
    PERDURE_FIELD(IommuUnitRecord, translation_mode, Number, 1, 2, "1 legacy, 2 scalable"),
    PERDURE_FIELD(IommuUnitRecord, did_limit, Number, 3, u64{1} << 16, "domain ids are below it"),
    PERDURE_FIELD(IommuUnitRecord, cap, Number, 0, ~u64{0}, "capability register"),
    PERDURE_FIELD(IommuUnitRecord, ecap, Number, 0, ~u64{0}, "extended capability register"),
    PERDURE_FIELD(IommuUnitRecord, rtaddr, Number, 0, ~u64{0}, "root table address register, raw"),
    PERDURE_FIELD(IommuUnitRecord, root, Physical, kPageSize, ~u64{0}, "root table"),
    PERDURE_FIELD(IommuUnitRecord, iqa, Number, 0, ~u64{0}, "invalidation queue address register, raw, 0: none"),
    PERDURE_FIELD(IommuUnitRecord, status_page, Physical, 0, ~u64{0}, "where wait descriptors write"),
    PERDURE_FIELD(IommuUnitRecord, irta, Number, 0, ~u64{0}, "interrupt remapping table address, raw, 0: none"),
    PERDURE_FIELD(IommuUnitRecord, gsts, Number, 0, ~u64{0}, "global status register"),
    PERDURE_FIELD(IommuUnitRecord, queue_order, Number, 0, 7, "the queue has 2^order pages"),
    PERDURE_FIELD(IommuUnitRecord, queue_descriptor_bytes, Number, 0, 32, "16 or 32; 0: no queue"),
    PERDURE_FIELD(IommuUnitRecord, padding, Padding, 0, 0, ""),
    PERDURE_ELEMENT(IommuUnitRecord, context_tables, 0, Flags, 0, ~u64{0},
                    "preserved context tables: bit 2 * bus, + 1 for the upper one of scalable mode"),
    PERDURE_ELEMENT(IommuUnitRecord, context_tables, 1, Flags, 0, ~u64{0}, "buses 32-63"),
    PERDURE_ELEMENT(IommuUnitRecord, context_tables, 2, Flags, 0, ~u64{0}, "buses 64-95"),
    PERDURE_ELEMENT(IommuUnitRecord, context_tables, 3, Flags, 0, ~u64{0}, "buses 96-127"),
    PERDURE_ELEMENT(IommuUnitRecord, context_tables, 4, Flags, 0, ~u64{0}, "buses 128-159"),
    PERDURE_ELEMENT(IommuUnitRecord, context_tables, 5, Flags, 0, ~u64{0}, "buses 160-191"),
    PERDURE_ELEMENT(IommuUnitRecord, context_tables, 6, Flags, 0, ~u64{0}, "buses 192-223"),
    PERDURE_ELEMENT(IommuUnitRecord, context_tables, 7, Flags, 0, ~u64{0}, "buses 224-255"),
};
inline constexpr Schema kIommuUnitSchema{"iommu.unit", 1, sizeof(IommuUnitRecord), kIommuUnitFields};
static_assert(gapless(kIommuUnitSchema));

inline constexpr u32 kIommuDomainCanTrack = 1;  // allocated for dirty tracking: only units that can do it have it
inline constexpr u32 kIommuDomainTracks = 2;    // it was on: entries say so, and the leaves bear marks

// One page table. The arena chain (abi/table_arena.h) names its pages; the table itself stays where it is.
struct IommuDomainRecord {
  u32 in_use = 0;
  u32 checksum = 0;
  u64 generation = 0;
  u64 owner_generation = 0;
  u64 top = 0;
  u64 first_descriptor = 0;
  u64 leaf_sizes = 0;
  u32 format = 0;
  u32 levels = 0;
  u32 iova_bits = 0;
  u32 output_bits = 0;
  u32 coherent = 0;
  u32 flags = 0;
  // Version 2: what the table held when it was sealed, checked when it is taken over.
  u64 mapped_bytes = 0;
  u64 table_pages = 0;
};
static_assert(sizeof(IommuDomainRecord) == 88);

#define PERDURE_IOMMU_DOMAIN_V1_FIELDS                                                                               \
  PERDURE_FIELD(IommuDomainRecord, in_use, Number, 1, 1, "0: the slot is unused and all zero"),                      \
      PERDURE_FIELD(IommuDomainRecord, checksum, Checksum, 0, ~u64{0}, ""),                                          \
      PERDURE_FIELD(IommuDomainRecord, generation, Number, 1, ~u64{0}, "equal to the header's"),                     \
      PERDURE_FIELD(IommuDomainRecord, owner_generation, Number, 1, ~u64{0}, "of the session of its iommufd"),       \
      PERDURE_FIELD(IommuDomainRecord, top, Physical, kPageSize, ~u64{0}, "top table page"),                         \
      PERDURE_FIELD(IommuDomainRecord, first_descriptor, Physical, 0, ~u64{0}, "table arena, 0: only the top page"), \
      PERDURE_FIELD(IommuDomainRecord, leaf_sizes, Flags, 0x1000, 0x40201000, "leaf sizes in use, as a mask"),       \
      PERDURE_FIELD(IommuDomainRecord, format, Number, 1, 2, "1 VT-d second stage, 2 x86 first stage"),              \
      PERDURE_FIELD(IommuDomainRecord, levels, Number, 3, 5, "table levels"),                                        \
      PERDURE_FIELD(IommuDomainRecord, iova_bits, Number, 21, 57, "width of I/O virtual addresses"),                 \
      PERDURE_FIELD(IommuDomainRecord, output_bits, Number, 32, 52, "width of physical addresses"),                  \
      PERDURE_FIELD(IommuDomainRecord, coherent, Number, 0, 1, "the walker snoops the CPU's caches"),                \
      PERDURE_FIELD(IommuDomainRecord, flags, Flags, 0, 3, "dirty tracking: bit 0 allowed, bit 1 on")

inline constexpr FieldDef kIommuDomainFieldsV1[] = {PERDURE_IOMMU_DOMAIN_V1_FIELDS};
inline constexpr FieldDef kIommuDomainFieldsV2[] = {
    PERDURE_IOMMU_DOMAIN_V1_FIELDS,
    PERDURE_FIELD(IommuDomainRecord, mapped_bytes, Number, 0, ~u64{0}, "bytes that leaves map, ~0: not known"),
    PERDURE_FIELD(IommuDomainRecord, table_pages, Number, 0, ~u64{0}, "arena pages in use"),
};
#undef PERDURE_IOMMU_DOMAIN_V1_FIELDS
inline constexpr u64 kIommuMappedUnknown = ~u64{0};
inline constexpr Schema kIommuDomainSchemaV1{"iommu.domain", 1, offsetof(IommuDomainRecord, mapped_bytes),
                                             kIommuDomainFieldsV1};
inline constexpr Schema kIommuDomainSchemaV2{"iommu.domain", 2, sizeof(IommuDomainRecord), kIommuDomainFieldsV2};
static_assert(gapless(kIommuDomainSchemaV1) && gapless(kIommuDomainSchemaV2));

// The id that tags a domain on a unit; devices behind the same unit in the same domain share it.
struct IommuAttachmentRecord {
  u32 in_use = 0;
  u32 checksum = 0;
  u64 generation = 0;
  u32 domain = 0;
  u32 unit = 0;
  u64 did = 0;
};
static_assert(sizeof(IommuAttachmentRecord) == 32);

inline constexpr FieldDef kIommuAttachmentFields[] = {
    PERDURE_FIELD(IommuAttachmentRecord, in_use, Number, 1, 1, "0: the slot is unused and all zero"),
    PERDURE_FIELD(IommuAttachmentRecord, checksum, Checksum, 0, ~u64{0}, ""),
    PERDURE_FIELD(IommuAttachmentRecord, generation, Number, 1, ~u64{0}, "equal to the header's"),
    PERDURE_FIELD(IommuAttachmentRecord, domain, Index, 0, kIommuMaxRecords - 1, "domain record"),
    PERDURE_FIELD(IommuAttachmentRecord, unit, Index, 0, kIommuMaxRecords - 1, "unit record"),
    PERDURE_FIELD(IommuAttachmentRecord, did, Number, 2, 0xffff, "domain id on that unit; 0 and 1 are never used"),
};
inline constexpr Schema kIommuAttachmentSchema{"iommu.attachment", 1, sizeof(IommuAttachmentRecord),
                                               kIommuAttachmentFields};
static_assert(gapless(kIommuAttachmentSchema));

inline constexpr u32 kIommuMaxAliases = 8;
inline constexpr u64 kIommuDeviceBusMaster = 1;  // bus mastering was on when the record was sealed

struct IommuDeviceRecord {
  u32 in_use = 0;
  u32 checksum = 0;
  u64 generation = 0;
  u32 segment = 0;
  u32 bdf = 0;
  u32 unit = 0;
  u32 domain = 0;
  u64 did = 0;
  u64 owner_generation = 0;
  u64 owner_token = 0;
  u64 flags = 0;
  u32 alias_count = 0;
  u32 padding = 0;
  u16 aliases[kIommuMaxAliases] = {};
};
static_assert(sizeof(IommuDeviceRecord) == 88);

inline constexpr FieldDef kIommuDeviceFields[] = {
    PERDURE_FIELD(IommuDeviceRecord, in_use, Number, 1, 1, "0: the slot is unused and all zero"),
    PERDURE_FIELD(IommuDeviceRecord, checksum, Checksum, 0, ~u64{0}, ""),
    PERDURE_FIELD(IommuDeviceRecord, generation, Number, 1, ~u64{0}, "equal to the header's"),
    PERDURE_FIELD(IommuDeviceRecord, segment, Number, 0, 0xffff, "PCI segment"),
    PERDURE_FIELD(IommuDeviceRecord, bdf, Number, 0, 0xffff, "bus, device, function"),
    PERDURE_FIELD(IommuDeviceRecord, unit, Index, 0, kIommuMaxRecords - 1, "unit record"),
    PERDURE_FIELD(IommuDeviceRecord, domain, Index, 0, kIommuMaxRecords - 1, "domain record"),
    PERDURE_FIELD(IommuDeviceRecord, did, Number, 2, 0xffff, "equal to the attachment's"),
    PERDURE_FIELD(IommuDeviceRecord, owner_generation, Number, 1, ~u64{0}, "of the session of the owner's iommufd"),
    PERDURE_FIELD(IommuDeviceRecord, owner_token, Number, 0, ~u64{0}, "of the owner's iommufd in that session"),
    PERDURE_FIELD(IommuDeviceRecord, flags, Flags, 0, kIommuDeviceBusMaster, "bit 0: bus mastering was on"),
    PERDURE_FIELD(IommuDeviceRecord, alias_count, Count, 0, kIommuMaxAliases, "further requester ids"),
    PERDURE_FIELD(IommuDeviceRecord, padding, Padding, 0, 0, ""),
    PERDURE_ELEMENT(IommuDeviceRecord, aliases, 0, Number, 0, 0xffff, "requester id, same segment"),
    PERDURE_ELEMENT(IommuDeviceRecord, aliases, 1, Number, 0, 0xffff, "requester id"),
    PERDURE_ELEMENT(IommuDeviceRecord, aliases, 2, Number, 0, 0xffff, "requester id"),
    PERDURE_ELEMENT(IommuDeviceRecord, aliases, 3, Number, 0, 0xffff, "requester id"),
    PERDURE_ELEMENT(IommuDeviceRecord, aliases, 4, Number, 0, 0xffff, "requester id"),
    PERDURE_ELEMENT(IommuDeviceRecord, aliases, 5, Number, 0, 0xffff, "requester id"),
    PERDURE_ELEMENT(IommuDeviceRecord, aliases, 6, Number, 0, 0xffff, "requester id"),
    PERDURE_ELEMENT(IommuDeviceRecord, aliases, 7, Number, 0, 0xffff, "requester id"),
};
inline constexpr Schema kIommuDeviceSchema{"iommu.device", 1, sizeof(IommuDeviceRecord), kIommuDeviceFields};
static_assert(gapless(kIommuDeviceSchema));

// The schema of one kind of record in images of `version` (kIommuReadMin..kIommuReadMax).
constexpr const Schema& iommu_schema(IommuRecordKind kind, u32 version) {
  switch (kind) {
    case IommuRecordKind::Unit: return kIommuUnitSchema;
    case IommuRecordKind::Domain: return version >= 2 ? kIommuDomainSchemaV2 : kIommuDomainSchemaV1;
    case IommuRecordKind::Attachment: return kIommuAttachmentSchema;
    case IommuRecordKind::Device: return kIommuDeviceSchema;
  }
  return kIommuUnitSchema;
}
constexpr ChainFormat iommu_chain(IommuRecordKind kind, u32 version) {
  return {.block_magic = kIommuBlockMagic,
          .kind = static_cast<u32>(kind),
          .version = version,
          .block = &kIommuBlockSchema,
          .record = &iommu_schema(kind, version),
          .most = kIommuMaxRecords};
}

}  // namespace perdure::abi
